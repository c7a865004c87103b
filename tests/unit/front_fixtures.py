"""A front with an application behind it, and a client of octets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from aiohttp import web

from infra.errors import Broken, Rejected, Unavailable
from infra.http.app import Serving, make_app, serve_app
from infra.http.front import Front, Request
from infra.http.limits import Limits, read_body

LOOPS = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")
"""The mark of modules whose tests run on both event loops."""
LIMITS = Limits(
    line=1000, fields=10, body=1000, wait=15.0, read=15.0, unread=15.0, connections=8, stop=1.0
)
HASTY = replace(LIMITS, wait=0.4, read=0.3, unread=0.8)
"""For those tests alone in which somebody is cut off."""
PREFIXES = (b"GET /fast/", b"HEAD /fast/", b"POST /fast")
GET = b"GET /fast/a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /fast/echo HTTP/1.1\r\nHost: a\r\n"
CLOSING = b"GET /fast/z HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"]
)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


def respond(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Desk:
    """A handler that says what it was asked, in the way that the target names."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}

    def __call__(self, request: Request) -> bytes | Awaitable[bytes]:
        self.asked.append(request)
        name = request.head.target.rpartition(b"/")[2]
        match name.partition(b"-")[0]:
            case b"coroutine":
                return self.soon(name)
            case b"wait":
                future = asyncio.get_running_loop().create_future()
                self.waiting[name] = future
                return future
            case b"rejected":
                raise Rejected("no-such-thing", "look elsewhere")
            case b"unavailable":
                raise Unavailable("busy", "wait", retry_after=2.2)
            case b"broken":
                raise Broken("storage-corrupt", "page 7 of /secret/path")
            case b"bug":
                raise ZeroDivisionError("secret number")
            case b"later":
                return self.fail()
            case b"nonsense":
                return 7  # type: ignore[return-value]
            case b"large":
                return respond(b"x" * 3_000_000)
            case b"echo":
                return respond(request.body)
            case b"header":
                return respond(repr(request.head.field(b"x-it")).encode())
        return respond(request.head.target)

    async def soon(self, name: bytes) -> bytes:
        if name.endswith(b"-really"):
            await asyncio.sleep(0)
        return respond(name)

    async def fail(self) -> bytes:
        await asyncio.sleep(0)
        raise Rejected("no-such-thing", "look elsewhere")

    async def until_asked(self, name: bytes) -> asyncio.Future[bytes]:
        await until(lambda: name in self.waiting)
        return self.waiting[name]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.002)


class Caller:
    """A client of octets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, header and body of the next answer."""
        async with asyncio.timeout(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            return int(head.split()[1]), head, await self.reader.readexactly(length)

    async def ask(self, data: bytes) -> tuple[int, bytes, bytes]:
        self.writer.write(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """All until the server closes."""
        said = bytearray()
        async with asyncio.timeout(20):
            # Piece by piece: a reset at the end must not take with it what was said before.
            with contextlib.suppress(ConnectionResetError):
                while piece := await self.reader.read(65536):
                    said += piece
        return bytes(said)


@contextlib.asynccontextmanager
async def calling(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def raw(port: int, data: bytes) -> bytes:
    async with calling(port) as caller:
        caller.writer.write(data)
        return await caller.rest()


class House:
    """A front with an application behind it."""

    def __init__(self, desk: Desk, front: Front, serving: Serving) -> None:
        self.desk = desk
        self.front = front
        self.serving = serving
        self.port = int(serving.urls[0].rpartition(":")[2])


def application(limits: Limits = LIMITS) -> web.Application:
    app = make_app({}, private=False, limits=limits)

    async def slow(request: web.Request) -> web.Response:
        return web.Response(body=b"slow " + await read_body(request))

    app.router.add_route("*", "/slow", slow)
    return app


@contextlib.asynccontextmanager
async def opened(
    limits: Limits = LIMITS, tls: ssl.SSLContext | None = None
) -> AsyncIterator[House]:
    desk = Desk()
    front = Front(desk, PREFIXES, limits=limits, statuses={"no-such-thing": 404})
    serving = await serve_app(application(limits), "127.0.0.1", 0, front=front, tls=tls)
    yield House(desk, front, serving)
    for future in desk.waiting.values():
        if not future.done():
            future.set_result(respond(b""))
    await serving.stop()
    assert front.connections == 0
    assert front.under_way == 0


@pytest.fixture(name="house")
async def open_house(event_loop_policy: Any) -> AsyncIterator[House]:
    async with opened() as made:
        yield made


@pytest.fixture(name="hasty")
async def open_hasty_house(event_loop_policy: Any) -> AsyncIterator[House]:
    async with opened(HASTY) as made:
        yield made


async def serving() -> Serving:
    """A front with an application behind it, on no socket yet."""
    return await Serving.start(application(), Front(Desk(), PREFIXES, limits=LIMITS))


@contextlib.asynccontextmanager
async def alone(front: Front) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(front.protocol, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await front.drain(1.0, idle=0.0)
    assert front.connections == 0
