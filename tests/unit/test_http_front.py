"""Requests to the front and its answers. Clauses are of RFC 9112 unless another is named."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.unit.front_fixtures import (
    CLOSING,
    GET,
    LOOPS,
    House,
    calling,
    event_loop_policy,  # noqa: F401 - a fixture
    open_house,  # noqa: F401 - a fixture
    raw,
    respond,
    until,
)

pytestmark = LOOPS

# Requests and answers


async def test_a_connection_brings_one_request_after_the_other(house: House) -> None:
    async with calling(house.port) as caller:
        for name in (b"a", b"b?q=%2F", b"coroutine", b"coroutine-really"):
            status, head, body = await caller.ask(
                b"GET /fast/" + name + b" HTTP/1.1\r\nHost: a\r\n\r\n"
            )
            assert (status, b"Connection" in head) == (200, False)
            assert body in (name, b"/fast/" + name)
        assert [request.head.method for request in house.desk.asked] == [b"GET"] * 4
        assert house.front.connections == 1


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 9, 20, len(GET) - 3, len(GET) - 1])
async def test_a_request_may_come_in_pieces(house: House, cut: int) -> None:
    async with calling(house.port) as caller:
        await caller.ask(GET)
        caller.writer.write(GET[:cut])
        await asyncio.sleep(0.01)
        assert (await caller.ask(GET[cut:]))[2] == b"/fast/a"


POSTS = {
    "length": b"Content-Length: 5\r\n\r\nhello",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nT: x\r\n\r\n",
}


@pytest.mark.parametrize("kind", POSTS)
async def test_a_body_may_come_in_pieces(house: House, kind: str) -> None:
    whole = b"POST /fast/echo HTTP/1.1\r\nHost: a\r\n" + POSTS[kind]
    async with calling(house.port) as caller:
        for cut in (len(whole), 50, len(whole) - 8, len(whole) - 4, len(whole) - 1):
            caller.writer.write(whole[:cut])
            await asyncio.sleep(0.005)
            status, head, body = await caller.ask(whole[cut:])
            assert (status, body, b"Connection" in head) == (200, b"hello", False)


@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n\r\n"])
async def test_empty_lines_before_a_request_are_ignored(house: House, empty: bytes) -> None:
    """§2.2."""
    async with calling(house.port) as caller:
        assert (await caller.ask(empty + GET))[0] == 200
        caller.writer.write(empty)
        await asyncio.sleep(0.01)
        assert (await caller.ask(GET))[0] == 200


async def test_header_fields_are_read_when_asked_for(house: House) -> None:
    async with calling(house.port) as caller:
        ask = b"GET /fast/header HTTP/1.1\r\nHost: a\r\n"
        assert (await caller.ask(ask + b"\r\n"))[2] == b"None"
        assert (await caller.ask(ask + b"X-iT:  1 \r\n\r\n"))[2] == b"b'1'"
        assert (await caller.ask(ask + b"X-IT:\r\nX-It: 2\r\n\r\n"))[2] == b"b', 2'"


async def test_head_gets_no_body(house: House) -> None:
    async with calling(house.port) as caller:
        caller.writer.write(GET.replace(b"GET", b"HEAD") + GET)
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 7\r\n" in head
        assert (await caller.answer())[2] == b"/fast/a"


async def test_pipelined_answers_keep_their_order(house: House) -> None:
    names = [b"wait-1", b"a", b"coroutine-really", b"wait-2", b"later", b"b"]
    async with calling(house.port) as caller:
        caller.writer.write(b"".join(GET.replace(b"/a", b"/" + name) for name in names))
        (await house.desk.until_asked(b"wait-2")).set_result(respond(b"two"))
        assert house.front.under_way >= 1
        (await house.desk.until_asked(b"wait-1")).set_result(respond(b"one"))
        got = [await caller.answer() for _ in names]
    assert [status for status, _, _ in got] == [200, 200, 200, 200, 404, 200]
    assert [got[place][2] for place in (0, 1, 2, 3, 5)] == [
        b"one",
        b"/fast/a",
        b"coroutine-really",
        b"two",
        b"/fast/b",
    ]


async def test_pipelining_is_bounded(house: House) -> None:
    async with calling(house.port) as caller:
        ask = [GET.replace(b"/a", b"/wait-%d" % place) for place in range(50)]
        caller.writer.write(b"".join(ask))
        await house.desk.until_asked(b"wait-15")
        caller.writer.write(GET)
        await asyncio.sleep(0.02)
        assert house.front.under_way == len(house.desk.asked) == 16
        for place in range(50):
            (await house.desk.until_asked(b"wait-%d" % place)).set_result(respond(b"%d" % place))
            assert (await caller.answer())[2] == b"%d" % place
        assert (await caller.answer())[2] == b"/fast/a"


async def test_a_request_behind_a_chunked_one_is_repeated_by_the_client(house: House) -> None:
    whole = b"POST /fast/echo HTTP/1.1\r\nHost: a\r\n" + POSTS["chunked"]
    said = await raw(house.port, whole + GET)
    assert said.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in said and said.endswith(b"hello")


@pytest.mark.parametrize(
    "behind",
    [
        GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
@pytest.mark.parametrize("cut", [0, 4])
async def test_what_wants_another_protocol_behind_a_chunked_request(
    house: House, behind: bytes, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = b"POST /fast/echo HTTP/1.1\r\nHost: a\r\n" + POSTS["chunked"] + behind
    async with calling(house.port) as caller:
        caller.writer.write(whole[:cut])
        await asyncio.sleep(0.01)
        caller.writer.write(whole[cut:])
        said = await caller.rest()
    assert said.startswith(b"HTTP/1.1 200 ") and said.endswith(b"hello")
    assert b"Connection: close\r\n" in said
    assert caplog.text == ""


@pytest.mark.parametrize(
    "version, field, says",
    [
        (b"1.1", b"Connection: close\r\n", b"close"),
        (b"1.1", b"Connection: Keep-Alive, CLOSE\r\n", b"close"),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", b"close"),
        (b"1.0", b"", b"close"),
        (b"1.0", b"Connection: keep-alive\r\n", b"keep-alive"),
        (b"1.0", b"Connection: Keep-Alive\r\nConnection: close\r\n", b"close"),
    ],
)
@pytest.mark.parametrize("name", [b"a", b"wait-1"])
async def test_what_becomes_of_the_connection(
    house: House, name: bytes, version: bytes, field: bytes, says: bytes
) -> None:
    """§9.3."""
    async with calling(house.port) as caller:
        ask = b"GET /fast/%b HTTP/%b\r\nHost: a\r\n%b\r\n" % (name, version, field)
        caller.writer.write(ask)
        if name != b"a":
            (await house.desk.until_asked(name)).set_result(respond(b""))
        _, head, _ = await caller.answer()
        assert head.count(b"Connection: ") == 1
        assert b"\r\nConnection: " + says + b"\r\n" in head
        if says == b"close":
            assert await caller.rest() == b""
        else:
            assert (await caller.ask(CLOSING))[0] == 200


async def test_nothing_is_answered_behind_the_last(house: House) -> None:
    said = await raw(house.port, CLOSING + GET)
    assert said.count(b"HTTP/1.1 ") == len(house.desk.asked) == 1


async def test_a_client_that_half_closes_is_answered(house: House) -> None:
    async with calling(house.port) as caller:
        caller.writer.write(GET.replace(b"/a", b"/wait-1"))
        caller.writer.write_eof()
        future = await house.desk.until_asked(b"wait-1")
        await asyncio.sleep(0.01)
        future.set_result(respond(b"one"))
        assert (await caller.rest()).endswith(b"one")


async def test_an_upgrade_is_ignored(house: House) -> None:
    """RFC 9110 §7.8: the HTTP client of Java offers h2c with its first request, body and all."""
    async with calling(house.port) as caller:
        fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAA\r\n"
        for kind in POSTS.values():
            ask = b"POST /fast/echo HTTP/1.1\r\nHost: a\r\n" + fields + kind
            assert (await caller.ask(ask))[2] == b"hello"
            assert (await caller.ask(ask.replace(fields, fields.upper())))[2] == b"hello"
        assert (await caller.ask(GET.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n")))[0] == 200


async def test_the_client_that_waits_for_100_continue_gets_it(house: House) -> None:
    """RFC 9110 §10.1.1."""
    head = (
        b"POST /fast/echo HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    )
    async with calling(house.port) as caller:
        caller.writer.write(GET.replace(b"/a", b"/wait-1") + head)
        (await house.desk.until_asked(b"wait-1")).set_result(respond(b"one"))
        assert (await caller.answer())[2] == b"one"
        async with asyncio.timeout(20):
            assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await caller.ask(b"hello"))[2] == b"hello"
        assert (await caller.ask(head + b"hello"))[2] == b"hello"  # it did not wait


# Failures


@pytest.mark.parametrize(
    "name, status, code",
    [
        (b"rejected", 404, b"no-such-thing"),
        (b"later", 404, b"no-such-thing"),
        (b"unavailable", 503, b"busy"),
        (b"broken", 500, b"storage-corrupt"),
        (b"bug", 500, b"broken"),
        (b"nonsense", 500, b"broken"),
    ],
)
async def test_a_failure_is_a_problem_document(
    house: House, caplog: pytest.LogCaptureFixture, name: bytes, status: int, code: bytes
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with calling(house.port) as caller:
        got, head, body = await caller.ask(GET.replace(b"/a", b"/" + name))
        assert got == status
        assert b'"code": "%b"' % code in body
        assert b"Content-Type: application/problem+json" in head
        assert b"secret" not in body
        assert (b"Retry-After: 3\r\n" in head) == (status == 503)
        assert (await caller.ask(GET))[0] == 200


async def test_a_cancelled_answer_cuts_the_connection(house: House) -> None:
    async with calling(house.port) as caller:
        caller.writer.write(GET.replace(b"/a", b"/wait-1"))
        (await house.desk.until_asked(b"wait-1")).cancel()
        assert await caller.rest() == b""


async def test_a_client_that_leaves_counts_until_its_answer_is_made(house: House) -> None:
    async with calling(house.port) as caller:
        caller.writer.write(GET.replace(b"/a", b"/wait-1"))
        future = await house.desk.until_asked(b"wait-1")
        caller.writer.transport.abort()
    await asyncio.sleep(0.02)
    assert (house.front.connections, house.front.under_way) == (1, 1)
    future.set_result(respond(b"one"))
    await until(lambda: house.front.connections == house.front.under_way == 0)
