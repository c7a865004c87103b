"""How long the front waits, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from infra.http.app import Serving, bind_shared
from tests.unit.front_fixtures import (
    CLOSING,
    GET,
    HASTY,
    LOOPS,
    POST,
    House,
    calling,
    event_loop_policy,  # noqa: F401 - a fixture
    open_hasty_house,  # noqa: F401 - a fixture
    open_house,  # noqa: F401 - a fixture
    opened,
    raw,
    respond,
    serving,
    until,
)

pytestmark = LOOPS

# Limits


async def drip(port: int, start: bytes) -> bytes:
    """A slow client (slowloris): sends an octet now and then until it is cut off."""
    async with calling(port) as caller:
        caller.writer.write(start)
        reading = asyncio.create_task(caller.rest())
        while not reading.done():
            with contextlib.suppress(OSError):
                caller.writer.write(b"y")
            await asyncio.wait([reading], timeout=0.02)
        return await reading


@pytest.mark.parametrize(
    "start, answers",
    [
        (b"", []),
        (b"GET /fa", [408]),
        (GET[:-2] + b"X: ", [408]),
        (GET + GET[:-2] + b"X: ", [200, 408]),
        (POST + b"Content-Length: 900\r\n\r\n", [408]),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n384\r\n", [408]),
    ],
    ids=["nothing", "line", "field", "second", "body", "chunks"],
)
async def test_a_slow_client_is_cut_off(hasty: House, start: bytes, answers: list[int]) -> None:
    said = (
        await raw(hasty.port, start)
        if start in (b"", b"GET /fa")
        else await drip(hasty.port, start)
    )
    statuses = [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]
    assert statuses == answers
    assert hasty.front.cut_off == len([one for one in answers if one == 408])


async def test_an_idle_connection_ends_without_a_word(hasty: House) -> None:
    async with calling(hasty.port) as caller:
        assert (await caller.ask(GET))[0] == 200
        assert await caller.rest() == b""


async def test_an_answer_may_take_longer_than_the_client_may(hasty: House) -> None:
    async with calling(hasty.port) as caller:
        caller.writer.write(GET.replace(b"/a", b"/wait-1"))
        future = await hasty.desk.until_asked(b"wait-1")
        await asyncio.sleep(HASTY.wait + HASTY.read)
        future.set_result(respond(b"one"))
        assert (await caller.answer())[2] == b"one"
        assert (await caller.ask(GET))[0] == 200


async def test_time_in_which_the_server_stands_still_is_not_the_clients(hasty: House) -> None:
    def stand_still() -> None:
        time.sleep(2 * HASTY.wait)

    async with calling(hasty.port) as caller:
        stand_still()
        assert (await caller.ask(GET))[0] == 200
        caller.writer.write(GET)
        stand_still()
        assert (await caller.answer())[0] == 200
        stand_still()
        assert (await caller.ask(GET))[0] == 200
        caller.writer.write(GET[:9])
        await until(lambda: len(hasty.desk.asked) == 3)
        stand_still()
        assert (await caller.ask(GET[9:]))[0] == 200
    assert hasty.front.cut_off == 0


async def test_a_client_that_takes_no_answers_is_not_read_and_then_cut(hasty: House) -> None:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", hasty.port))
    with client:
        client.sendall(GET.replace(b"/a", b"/large") * 100)
        await until(lambda: len(hasty.desk.asked) > 0)
        await asyncio.sleep(0.1)
        assert len(hasty.desk.asked) <= 2  # bounded by the write buffer, not by the client
        await until(lambda: hasty.front.connections == 0)
    assert hasty.front.cut_off == 1


async def test_one_that_takes_its_answers_at_last_gets_them_all(house: House) -> None:
    async with calling(house.port) as caller:
        caller.writer.write(GET.replace(b"/a", b"/large") * 10 + CLOSING)
        await asyncio.sleep(0.1)
        said = await caller.rest()
    assert said.count(b"HTTP/1.1 200 OK\r\n") == 11
    assert len(said) > 30_000_000


async def test_connections_of_both_kinds_are_limited_together(house: House) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for place in range(8):
            caller = await stack.enter_async_context(calling(house.port))
            ask = GET if place % 2 else b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
            assert (await caller.ask(ask))[0] == 200
        assert house.serving.connections == 8
        assert (await raw(house.port, b"")).startswith(b"HTTP/1.1 503 ")
        assert house.front.turned_away == 1
    await until(lambda: house.serving.connections == 0)


# The end


async def test_a_drain_loses_no_request() -> None:
    async with opened() as house:
        async with calling(house.port) as busy, calling(house.port) as idle:
            await idle.ask(GET)
            busy.writer.write(GET + GET.replace(b"/a", b"/wait-1") + GET.replace(b"/a", b"/wait-2"))
            await house.desk.until_asked(b"wait-2")
            draining = asyncio.create_task(house.front.drain(10.0))
            await asyncio.sleep(0)
            _, head, _ = await idle.ask(GET)  # an idle connection may bring one more
            assert b"\r\nConnection: close\r\n" in head
            assert await idle.rest() == b""
            for name in (b"wait-1", b"wait-2"):
                house.desk.waiting[name].set_result(respond(name))
            assert b"Connection" not in (await busy.answer())[1]
            assert b"Connection" not in (await busy.answer())[1]  # another one follows
            _, head, body = await busy.answer()
            assert b"\r\nConnection: close\r\n" in head and body == b"wait-2"
            assert await busy.rest() == b""
        async with asyncio.timeout(20):
            await draining


async def test_a_drain_closes_who_stays_idle_and_gives_up_what_never_ends() -> None:
    async with opened() as house, calling(house.port) as idle, calling(house.port) as stuck:
        await idle.ask(GET)
        stuck.writer.write(GET.replace(b"/a", b"/wait-1"))
        future = await house.desk.until_asked(b"wait-1")
        await house.front.drain(0.1, idle=0.02)
        assert await idle.rest() == await stuck.rest() == b""
        assert future.cancelled()
        assert house.front.connections == 0


async def test_a_burst_of_clients_sees_no_request_lost_over_a_restart() -> None:
    """The old server and the new one share the socket, as a process and its successor do."""
    [[bound]] = await bind_shared("127.0.0.1", 0, 1)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    loop = asyncio.get_running_loop()
    answered = 0
    stop = False

    async def client(port: int) -> None:
        nonlocal answered
        while not stop:
            async with calling(port) as caller:
                head = b""
                while not stop and b"Connection: close" not in head:
                    status, head, _ = await caller.ask(GET)
                    assert status == 200
                    answered += 1
                    await asyncio.sleep(0)

    clients: list[asyncio.Task[None]] = []
    old: Serving | None = None
    for _ in range(4):
        new = await serving()
        assert await new.adopt(bound.dup()) == url
        if not clients:
            clients = [loop.create_task(client(bound.getsockname()[1])) for _ in range(4)]
        if old is not None:
            await old.stop()
        old, so_far = new, answered
        await until(lambda so_far=so_far: answered > so_far + 50)  # type: ignore[misc]
    stop = True
    await asyncio.gather(*clients)
    assert old is not None
    await old.stop()
    bound.close()
