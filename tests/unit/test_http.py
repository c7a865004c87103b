"""Problem documents, documents with validators, and limits, against a server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from infra.errors import Broken, Rejected, Unavailable
from infra.http.app import Serving, make_app, serve_app, serve_unix
from infra.http.document import Served, answer
from infra.http.limits import Limits, read_body
from infra.http.problems import problem_of
from infra.unix_socket import reachable

DOCUMENT = Served(
    body=bytes(range(100)),
    media_type="application/pkix-crl",
    etag="abc",
    last_modified=datetime(2026, 3, 1, 12, 0, 0, 999, tzinfo=UTC),
    cache_control="public, max-age=60",
    expires=datetime(2026, 3, 2, tzinfo=UTC),
)
STATUSES = {"no-such-thing": 404, "already-there": 409, "not-acceptable-here": 422}
FAILURES: dict[str, Exception] = {
    "missing": Rejected("no-such-thing", "look elsewhere"),
    "there": Rejected("already-there", "it is"),
    "rule": Rejected("not-acceptable-here", "mend it"),
    "plain": Rejected("something-else", "mend it"),
    "away": Unavailable("token-unavailable", "plug it in", retry_after=2.2),
    "ours": Broken("storage-corrupt", "page 7 of /secret/path"),
    "bug": ZeroDivisionError("secret number"),
    "gone": web.HTTPGone(text="secret"),
}


def application(*, private: bool = False, limits: Limits | None = None) -> web.Application:
    app = make_app(STATUSES, private=private, limits=limits)

    async def document(request: web.Request) -> web.Response:
        return answer(request, DOCUMENT)

    async def fail(request: web.Request) -> web.Response:
        raise FAILURES[request.match_info["how"]]

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await read_body(request))

    async def ten(request: web.Request) -> web.Response:
        return web.Response(body=await read_body(request, 10))

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 50_000_000)

    app.add_routes(
        [
            web.get("/document", document),
            web.get("/fail/{how}", fail),
            web.post("/echo", echo),
            web.post("/ten", ten),
            web.get("/large", large),
        ]
    )
    return app


LIMITS = Limits(body=1000, wait=15.0, read=15.0, unread=15.0, connections=8, stop=1.0)


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    running = await serve_app(application(limits=LIMITS), "127.0.0.1", 0)
    yield running
    await running.stop()


@pytest.fixture
async def hasty() -> AsyncIterator[Serving]:
    """For those tests alone in which somebody is cut off."""
    limits = replace(LIMITS, wait=0.4, read=0.3, unread=1.0)
    running = await serve_app(application(limits=limits), "127.0.0.1", 0)
    yield running
    await running.stop()


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(serving.urls[0]) as session:
        yield session


def port_of(serving: Serving) -> int:
    return int(serving.urls[0].rpartition(":")[2])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.005)


async def raw(serving: Serving, data: bytes) -> bytes:
    """Whatever the server says to these octets until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(serving))
    try:
        async with asyncio.timeout(20):
            writer.write(data)
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# Problems


@pytest.mark.parametrize(
    "how, status, code, detail",
    [
        ("missing", 404, "no-such-thing", "look elsewhere"),
        ("there", 409, "already-there", "it is"),
        ("rule", 422, "not-acceptable-here", "mend it"),
        ("plain", 400, "something-else", "mend it"),
        ("away", 503, "token-unavailable", "plug it in"),
        ("gone", 410, "gone", None),
    ],
)
async def test_a_failure_becomes_a_problem_document(
    client: aiohttp.ClientSession, how: str, status: int, code: str, detail: str | None
) -> None:
    async with client.get(f"/fail/{how}") as response:
        assert response.status == status
        assert response.content_type == "application/problem+json"
        assert response.headers["Cache-Control"] == "no-store"
        problem = await response.json()
    assert problem["type"] == f"/problems/{code}"
    assert (problem["status"], problem["code"], problem.get("detail")) == (status, code, detail)
    assert response.headers.get("Retry-After") == ("3" if how == "away" else None)


@pytest.mark.parametrize("how, code", [("ours", "storage-corrupt"), ("bug", "broken")])
async def test_what_is_ours_is_logged_whole_and_told_as_a_code(
    client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, how: str, code: str
) -> None:
    with caplog.at_level(logging.ERROR, "infra.http.problems"):
        async with client.get(f"/fail/{how}") as response:
            assert response.status == 500
            text = await response.text()
    problem = json.loads(text)
    assert problem["code"] == code
    assert "secret" not in text
    [record] = caplog.records
    assert problem["incident"] in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is FAILURES[how]


async def test_unknown_routes_and_methods_are_problems(client: aiohttp.ClientSession) -> None:
    async with client.get("/nowhere") as response:
        assert (response.status, (await response.json())["code"]) == (404, "not-found")
    async with client.put("/document") as response:
        assert (response.status, (await response.json())["code"]) == (405, "method-not-allowed")
        assert response.headers["Allow"] == "GET, HEAD"


def test_retry_after_is_at_least_a_second() -> None:
    assert problem_of(Unavailable("busy", "wait", retry_after=0.01), {}).retry_after == 1


# Documents (RFC 9110)

DATE = "Sun, 01 Mar 2026 12:00:00 GMT"
LATER = "Sun, 01 Mar 2026 12:00:01 GMT"
EARLIER = "Sun, 01 Mar 2026 11:59:59 GMT"


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"If-None-Match": '"abc"'}, 304),
        ({"If-None-Match": 'W/"abc"'}, 304),
        ({"If-None-Match": '"x", "abc"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": LATER}, 200),
        ({"If-Modified-Since": DATE}, 304),
        ({"If-Modified-Since": LATER}, 304),
        ({"If-Modified-Since": EARLIER}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Match": '"abc"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": 'W/"abc"'}, 412),
        ({"If-Unmodified-Since": DATE}, 200),
        ({"If-Unmodified-Since": EARLIER}, 412),
    ],
)
async def test_conditions(
    client: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    for method in ("GET", "HEAD"):
        async with client.request(method, "/document", headers=headers) as response:
            assert response.status == status
            body = await response.read()
        assert response.headers["ETag"] == '"abc"'
        assert response.headers["Last-Modified"] == DATE
        assert response.headers["Expires"] == "Mon, 02 Mar 2026 00:00:00 GMT"
        assert response.headers["Cache-Control"] == "public, max-age=60"
        assert body == (DOCUMENT.body if status == 200 and method == "GET" else b"")
        if status == 200:
            assert response.content_type == "application/pkix-crl"
            assert response.headers["Content-Length"] == "100"


@pytest.mark.parametrize(
    "headers, status, content, shown",
    [
        ({"Range": "bytes=0-9"}, 206, slice(0, 10), "bytes 0-9/100"),
        ({"Range": "bytes=90-"}, 206, slice(90, 100), "bytes 90-99/100"),
        ({"Range": "bytes=90-900"}, 206, slice(90, 100), "bytes 90-99/100"),
        ({"Range": "bytes=-7"}, 206, slice(93, 100), "bytes 93-99/100"),
        ({"Range": "bytes=-700"}, 206, slice(0, 100), "bytes 0-99/100"),
        ({"Range": "bytes=100-"}, 416, slice(0, 0), "bytes */100"),
        ({"Range": "bytes=-0"}, 416, slice(0, 0), "bytes */100"),
        ({"Range": "bytes=9-5"}, 200, slice(0, 100), None),
        ({"Range": "bytes=0-\N{ARABIC-INDIC DIGIT FIVE}"}, 200, slice(0, 100), None),
        ({"Range": "bytes=-"}, 200, slice(0, 100), None),
        ({"Range": "bytes=0-1,5-6"}, 200, slice(0, 100), None),
        ({"Range": "lines=0-1"}, 200, slice(0, 100), None),
        ({"Range": "bytes=0-9", "If-Range": '"abc"'}, 206, slice(0, 10), "bytes 0-9/100"),
        ({"Range": "bytes=0-9", "If-Range": DATE}, 206, slice(0, 10), "bytes 0-9/100"),
        ({"Range": "bytes=0-9", "If-Range": '"old"'}, 200, slice(0, 100), None),
    ],
)
async def test_ranges(
    client: aiohttp.ClientSession,
    headers: dict[str, str],
    status: int,
    content: slice,
    shown: str | None,
) -> None:
    async with client.get("/document", headers=headers) as response:
        assert response.status == status
        assert await response.read() == DOCUMENT.body[content]
        assert response.headers.get("Content-Range") == shown


# Limits


async def test_a_body_within_the_limit_arrives(client: aiohttp.ClientSession) -> None:
    async with client.post("/echo", data=b"x" * 1000) as response:
        assert (response.status, await response.read()) == (200, b"x" * 1000)


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size):
        yield b"x"


@pytest.mark.parametrize("path, size", [("/echo", 1001), ("/ten", 11)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_limit_is_refused(
    client: aiohttp.ClientSession, path: str, size: int, chunked: bool
) -> None:
    data = chunks(size) if chunked else b"x" * size
    async with client.post(path, data=data) as response:
        assert (response.status, (await response.json())["code"]) == (413, "request-too-large")


async def test_a_large_body_is_refused_before_it_is_sent(serving: Serving) -> None:
    said = await raw(serving, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_does_not_come_is_given_up(hasty: Serving) -> None:
    said = await raw(hasty, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"request-timeout" in said


async def test_a_compressed_body_is_not_unpacked(client: aiohttp.ClientSession) -> None:
    headers = {"Content-Encoding": "gzip"}
    async with client.post("/echo", data=b"\x1f\x8bnot", headers=headers) as response:
        assert await response.read() == b"\x1f\x8bnot"


async def drip(serving: Serving, start: bytes, octet: bytes) -> bytes:
    """A slow client (slowloris): sends an octet now and then until it is cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(serving))
    said = bytearray()

    async def listen() -> None:
        # Piece by piece: a reset at the end must not take with it what was said before.
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(4096):
                said.extend(piece)

    reading = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(20):
            writer.write(start)
            while not reading.done():
                with contextlib.suppress(OSError):
                    writer.write(octet)
                    await writer.drain()
                await asyncio.wait([reading], timeout=0.02)
            await reading
            return bytes(said)
    finally:
        writer.close()


async def test_a_client_that_sends_its_header_octet_by_octet_is_cut(hasty: Serving) -> None:
    assert await drip(hasty, b"GET /document HTTP/1.1\r\nX: ", b"y") == b""


async def test_a_client_that_sends_its_second_header_slowly_is_cut(hasty: Serving) -> None:
    start = b"GET /document HTTP/1.1\r\nHost: a\r\n\r\nGET /document HTTP/1.1\r\nX: "
    said = await drip(hasty, start, b"y")
    assert said.count(b"HTTP/1.1 ") == 1


async def test_a_client_that_sends_its_body_octet_by_octet_is_cut(hasty: Serving) -> None:
    start = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n"
    assert (await drip(hasty, start, b"y")).startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_says_nothing_is_cut(hasty: Serving) -> None:
    assert await raw(hasty, b"") == b""


async def test_a_client_that_does_not_take_its_answer_is_cut(hasty: Serving) -> None:
    client = socket.create_connection(("127.0.0.1", port_of(hasty)))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: hasty.connections == 1)
        await until(lambda: hasty.connections == 0)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 80 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
    ids=["line", "field", "fields", "tls", "version"],
)
async def test_a_header_that_is_too_large_or_garbage_is_refused(
    serving: Serving, head: bytes
) -> None:
    said = await raw(serving, head)
    assert said.startswith(b"HTTP/1.0 400 ")
    assert b'"code": "bad-http"' in said
    assert b"aiohttp" not in said and b"Python" not in said


async def test_connections_beyond_the_limit_are_turned_away(serving: Serving) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port_of(serving)) for _ in range(8)]
    await until(lambda: serving.connections == 8)
    assert (await raw(serving, b"")).startswith(b"HTTP/1.1 503 ")
    for _, writer in idle:
        writer.close()


# Headers, sockets


async def test_the_public_says_little_of_itself(client: aiohttp.ClientSession) -> None:
    async with client.get("/document") as response:
        assert response.headers["Server"] == "DigitalID"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Content-Security-Policy" not in response.headers


async def test_the_private_stays_out_of_caches_and_frames() -> None:
    serving = await serve_app(application(private=True), "127.0.0.1", 0)
    async with aiohttp.ClientSession(serving.urls[0]) as client, client.get("/nowhere") as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert "Strict-Transport-Security" not in response.headers
    await serving.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - that is the point
async def test_the_private_is_not_served_to_other_machines_without_tls(host: str) -> None:
    with pytest.raises(Rejected, match="tls-required"):
        await serve_app(application(private=True), host, 0)


async def test_the_private_may_be_with_tls() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving = await serve_app(application(private=True), "0.0.0.0", 0, tls=tls)  # noqa: S104
    assert serving.urls[0].startswith("https://0.0.0.0:")
    await serving.stop()


async def test_a_port_in_use_and_a_foreign_address_are_refused(serving: Serving) -> None:
    with pytest.raises(Rejected, match="address-in-use"):
        await serve_app(application(), "127.0.0.1", port_of(serving))
    with pytest.raises(Rejected, match="address-refused"):
        await serve_app(application(), "192.0.2.1", 0)
    with pytest.raises(Rejected, match="bad-address"):
        await serve_app(application(), "no such host.invalid", 0)


@pytest.mark.parametrize("folder", [".", "d" * 100])
async def test_a_unix_socket_is_for_its_owner(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "control.sock"
    path.parent.mkdir(exist_ok=True)
    serving = await serve_unix(application(private=True), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with reachable(path) as address:
        connector = aiohttp.UnixConnector(address)
        async with (
            aiohttp.ClientSession("http://localhost", connector=connector) as client,
            client.get("/document") as response,
        ):
            assert response.status == 200
    with pytest.raises(Rejected, match="address-in-use"):
        await serve_unix(application(), path)
    await serving.stop()
    assert not path.exists()


async def test_a_socket_left_by_a_crash_is_replaced(short_path: Path) -> None:
    path = short_path / "control.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    serving = await serve_unix(application(), path)
    await serving.stop()


async def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"address-refused.*too long for a unix socket"):
        await serve_unix(application(), tmp_path / ("a" * 108))


async def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(Rejected, match="address-refused"):
        await serve_unix(application(), path)
    assert path.read_text() == "mine"


async def test_a_stop_lets_a_request_end() -> None:
    app = make_app({}, private=False)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        begun.set()
        await go_on.wait()
        return web.Response(text="done")

    app.router.add_get("/slow", slow)
    serving = await serve_app(app, "127.0.0.1", 0)
    async with aiohttp.ClientSession(serving.urls[0]) as client:

        async def ask() -> str:
            async with client.get("/slow") as response:
                return await response.text()

        asking = asyncio.create_task(ask())
        await begun.wait()
        stopping = asyncio.create_task(serving.stop())
        await asyncio.sleep(0)
        go_on.set()
        assert await asking == "done"
        await stopping
