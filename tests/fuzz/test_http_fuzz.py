"""Any octets on a socket: the server answers or closes, and goes on serving."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.http.app import Serving, make_app, serve_app
from infra.http.limits import Limits, read_body

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))

PIECES = [
    b"GET / HTTP/1.1\r\n",
    b"POST /echo HTTP/1.1\r\n",
    b"HEAD /x HTTP/1.0\r\n",
    b"PRI * HTTP/2.0\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: upgrade\r\n",
    b"Connection: close\r\n",
    b"Range: bytes=0-\r\n",
    b"X: \x00\r\n",
    b": no name\r\n",
    b" folded\r\n",
    b"\r\n",
    b"\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffff\r\n",
    b"\x16\x03\x01",
    b"GET /%ff%00 HTTP/1.1\r\n",
    b"GET http://a:b/ HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
]
ALIVE = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nalive"

requests = st.lists(st.sampled_from(PIECES) | st.binary(max_size=40), max_size=12).map(b"".join)


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await read_body(request))


async def start() -> Serving:
    app = make_app({}, private=False, limits=Limits(body=64, wait=0.1, read=0.05, stop=1.0))
    app.router.add_route("*", "/{any:.*}", echo)
    return await serve_app(app, "127.0.0.1", 0)


async def say(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """What the server answers before it closes; it does so for lack of a request in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(data)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(5):
            said = await reader.read()
    writer.close()
    return said


def test_octets_do_not_stop_the_server() -> None:
    with asyncio.Runner() as runner:
        serving = runner.run(start())
        port = int(serving.urls[0].rpartition(":")[2])

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=not SECONDS,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(requests, st.booleans())
        def check(data: bytes, half_close: bool) -> None:
            said = runner.run(say(port, data, half_close=half_close))
            assert said == b"" or said.startswith(b"HTTP/1.")
            assert b" 500 " not in said.partition(b"\r\n")[0]
            assert b"aiohttp" not in said and b"Traceback" not in said
            assert runner.run(say(port, ALIVE)).endswith(b"\r\n\r\nalive")

        end = time.monotonic() + SECONDS
        check()
        while time.monotonic() < end:
            check()
        runner.run(serving.stop())
