"""What the front refuses (RFC 9112 unless another is named)."""

from __future__ import annotations

import pytest

from infra.http.message import read_head
from tests.unit.front_fixtures import (
    GET,
    LIMITS,
    LOOPS,
    POST,
    House,
    calling,
    event_loop_policy,  # noqa: F401 - a fixture
    open_house,  # noqa: F401 - a fixture
    raw,
)

pytestmark = LOOPS

START = b"GET /fast/a HTTP/1.1\r\n"
REFUSED = {
    "no host": (START + b"\r\n", 400),
    "two hosts": (START + b"Host: a\r\nhost: a\r\n\r\n", 400),
    "no version": (b"GET /fast/a\r\n\r\n", 400),
    "version 9": (b"GET /fast/a HTTP/9.9\r\nHost: a\r\n\r\n", 505),
    "version 2": (b"GET /fast/a HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "version 0.9": (b"GET /fast/a HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "protocol": (b"GET /fast/a RTSP/1.0\r\nHost: a\r\n\r\n", 505),
    "prefixed version": (b"GET /fast/a XHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces": (b"GET /fast/a  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space in the target": (b"GET /fast/a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "octets in the target": (b"GET /fast/\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "nul": (START + b"Host: a\r\nX: \x00\r\n\r\n", 400),
    "no colon": (START + b"Host: a\r\nX\r\n\r\n", 400),
    "no name": (START + b"Host: a\r\n: x\r\n\r\n", 400),
    "a space before the colon": (START + b"Host: a\r\nX : x\r\n\r\n", 400),
    "a folded field": (START + b"Host: a\r\n b\r\n\r\n", 400),
    "a folded line first": (START + b" Host: a\r\n\r\n", 400),
    "a bare LF": (START + b"Host: a\nX: b\r\n\r\n", 400),
    "a bare CR": (START + b"Host: a\rX: b\r\n\r\n", 400),
    "a folded upgrade": (START + b"Host: a\r\nUpgrade: x\r\n y\r\n\r\n", 400),
    "length and chunked": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "two lengths in one": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "a signed length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "no length": (POST + b"Content-Length:\r\n\r\nhello", 400),
    "an endless length": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello", 400),
    "gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunked in HTTP/1.0": (
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "no chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "a chunk with LF": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
    "a chunk too long": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n", 400),
    "a body too long": (POST + b"Content-Length: 1001\r\n\r\n", 413),
    "chunks too long": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n"
        b"1f5\r\n" + b"x" * 501,
        413,
    ),
    "an endless extension": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;a=" + b"x" * 20_000,
        413,
    ),
    "a line too long": (b"GET /fast/" + b"a" * 990 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a line without end": (b"GET /fast/" + b"a" * 1000, 414),
    "a field too long": (START + b"Host: a\r\nX: " + b"a" * 1000 + b"\r\n\r\n", 431),
    "too many fields": (START + b"Host: a\r\n" + b"X: 1\r\n" * 10 + b"\r\n", 431),
    "too much": (START + b"Host: a\r\n" + (b"X: " + b"1" * 900 + b"\r\n") * 5, 431),
    "expectation": (START + b"Host: a\r\nExpect: miracles\r\n\r\n", 417),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused_is_told_so_and_ends(house: House, what: str) -> None:
    data, status = REFUSED[what]
    said = await raw(house.port, GET + data)
    assert said.count(b"HTTP/1.1 ") == 2
    assert said.index(b"HTTP/1.1 200 ") < said.index(b"HTTP/1.1 %d " % status)
    assert said.count(b"\r\nConnection: close\r\n") == 1
    assert b"Server: DigitalID\r\n" in said
    assert len(house.desk.asked) == 1
    assert house.front.refused == 1


async def test_a_large_upload_is_told_413_though_it_goes_on(house: House) -> None:
    """§9.6: the answer is not lost to a reset."""
    async with calling(house.port) as caller:
        caller.writer.write(POST + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000)
        assert b"HTTP/1.1 413 " in await caller.rest()


def test_a_header_is_judged_by_its_octets_alone() -> None:
    opening = b"GET /fast/a HTTP/1.1\r\nHost: a\r\n"
    plain = read_head(opening + b"Connection: keep-alive\r\n\r\n", LIMITS)
    assert (plain.method, plain.target, plain.says) == (b"GET", b"/fast/a", b"")
    assert (plain.length, plain.chunked, plain.condition) == (0, False, None)
    assert read_head(opening + b"Content-Length: 007 \r\n\r\n", LIMITS).length == 7
    assert read_head(opening + b'IF-None-Match: "a"\r\n\r\n', LIMITS).condition == b'"a"'
