"""How many connections one address may have open at the front."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from infra.http.app import serve_app
from infra.http.front import Front, place_of
from tests.unit.front_fixtures import (
    GET,
    LIMITS,
    LOOPS,
    PREFIXES,
    Caller,
    Desk,
    application,
    event_loop_policy,  # noqa: F401 - a fixture
    respond,
    until,
)

pytestmark = LOOPS


@contextlib.asynccontextmanager
async def calling(
    port: int, *, to: str = "127.0.0.1", at: str | None = None
) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection(
        to, port, local_addr=None if at is None else (at, 0)
    )
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def told(port: int, *, to: str = "127.0.0.1") -> bytes:
    """What one more connection is told that asks nothing."""
    async with calling(port, to=to) as caller:
        return await caller.rest()


@contextlib.asynccontextmanager
async def crowded(per_address: int, host: str = "127.0.0.1") -> AsyncIterator[tuple[Front, int]]:
    """A front that takes so many connections of one address, and an application behind it."""
    limits = replace(LIMITS, per_address=per_address)
    front = Front(Desk(), PREFIXES, limits=limits)
    running = await serve_app(application(), host, 0, front=front)
    yield front, int(running.urls[0].rpartition(":")[2])
    await running.stop()


async def test_connections_of_one_address_are_limited() -> None:
    async with crowded(3) as (front, port), contextlib.AsyncExitStack() as stack:
        for place in range(3):
            caller = await stack.enter_async_context(calling(port))
            ask = GET if place % 2 else b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
            assert (await caller.ask(ask))[0] == 200
        for turned_away in (1, 2):
            said = await told(port)
            assert said.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in said
            assert (front.turned_away, front.connections) == (turned_away, 3)
        async with calling(port, at="127.0.0.2") as other:
            assert (await other.ask(GET))[0] == 200
        await stack.aclose()  # those of both kinds, which are counted no more
        await until(lambda: front.connections == 0)
        for _ in range(3):
            caller = await stack.enter_async_context(calling(port))
            assert (await caller.ask(GET))[0] == 200
        assert (await told(port)).startswith(b"HTTP/1.1 503 ")


async def test_a_connection_that_ends_with_an_answer_under_way_counts_until_that_is_made() -> None:
    async with crowded(1) as (front, port):
        desk = front.handler
        assert isinstance(desk, Desk)
        async with calling(port) as caller:
            caller.writer.write(GET.replace(b"/a", b"/wait-1"))
            future = await desk.until_asked(b"wait-1")
        assert (await told(port)).startswith(b"HTTP/1.1 503 ")
        future.set_result(respond(b""))
        await until(lambda: front.connections == 0)
        async with calling(port) as caller:
            assert (await caller.ask(GET))[0] == 200


async def test_a_network_of_ipv6_is_one_address() -> None:
    """RFC 4291 §2.5.4: who has an address has 64 bits of them."""
    async with crowded(1, "::1") as (_, port), calling(port, to="::1") as caller:
        assert (await caller.ask(GET))[0] == 200
        assert (await told(port, to="::1")).startswith(b"HTTP/1.1 503 ")
    assert place_of("2001:db8:0:1::1") == place_of("2001:db8:0:1:ffff::%eth0")
    assert place_of("2001:db8:0:1::1") != place_of("2001:db8:0:2::1")
    assert place_of("192.0.2.1") != place_of("192.0.2.2")
    assert place_of("::ffff:192.0.2.1") == place_of("192.0.2.1")
    assert place_of("::ffff:192.0.2.1") != place_of("::ffff:192.0.2.2")
