"""A long document is sent from its file: whole or in part, under both kinds of event loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web

from infra.http.app import make_app, serve_app
from infra.http.document import Served, answer
from infra.http.long_file import LongFile

SIZE = 9 * 1024 * 1024 + 5
CONTENT = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(300_000))
CONTENT = CONTENT[:SIZE]


def application(path: Path) -> web.Application:
    app = make_app({}, private=False)

    async def document(request: web.Request) -> web.StreamResponse:
        at = datetime(2026, 3, 1, tzinfo=UTC)
        file = LongFile(lambda: path.open("rb", buffering=0), SIZE)
        return answer(request, Served(file, "application/pkix-crl", "abc", at, "public"))

    app.add_routes([web.get("/document", document)])
    return app


async def sent(path: Path) -> None:
    serving = await serve_app(application(path), "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(serving.urls[0]) as client:
            # One after the other on one connection: what is counted as sent must be what was sent.
            for headers, status, wanted in (
                ({}, 200, slice(0, SIZE)),
                ({"Range": "bytes=5000000-"}, 206, slice(5_000_000, SIZE)),
                ({"Range": "bytes=-7"}, 206, slice(SIZE - 7, SIZE)),
                ({"Range": f"bytes={SIZE}-"}, 416, slice(0, 0)),
                ({"If-None-Match": '"abc"'}, 304, slice(0, 0)),
                ({"Accept-Encoding": "gzip"}, 200, slice(0, SIZE)),
            ):
                async with client.get("/document", headers=headers) as response:
                    assert response.status == status
                    body = await response.read()
                    assert "Content-Encoding" not in response.headers
                if status in (200, 206):
                    assert body == CONTENT[wanted]
            async with client.head("/document") as response:
                assert response.headers["Content-Length"] == str(SIZE)
                assert await response.read() == b""
    finally:
        await serving.stop()


async def replaced(path: Path) -> None:
    serving = await serve_app(application(path), "127.0.0.1", 0)
    try:
        async with (
            aiohttp.ClientSession(serving.urls[0]) as client,
            client.get("/document") as response,
        ):
            first = await response.content.read(1000)
            path.unlink()
            assert first + await response.read() == CONTENT
    finally:
        await serving.stop()


async def left(path: Path) -> None:
    serving = await serve_app(application(path), "127.0.0.1", 0)
    try:
        host, port = serving.urls[0].removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /document HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(100)
        writer.transport.abort()
        async with (
            aiohttp.ClientSession(serving.urls[0]) as client,
            client.get("/document") as response,
        ):
            assert await response.read() == CONTENT
    finally:
        await serving.stop()


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("case", [sent, replaced, left], ids=lambda case: case.__name__)
def test_a_long_file(
    tmp_path: Path,
    loop: Callable[[Coroutine[None, None, None]], None],
    case: Callable[[Path], Coroutine[None, None, None]],
) -> None:
    path = tmp_path / "long"
    path.write_bytes(CONTENT)
    loop(case(path))
