"""Processes that die or hang, parents that die, and clients that are slow, rude or too many."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from infra.http.app import bind_shared
from infra.http.limits import Limits
from ocsp import workers as workers_module
from ocsp.request import MAX_REQUEST
from ocsp.workers import Workers
from pki.status import Good, RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import NOW
from tests.contract.ocsp_worker_fixtures import (
    House,
    children,
    house,
    lives,
    pids,
    read,
    signer_in,
    status_in,
    until,
)
from tests.unit.front_fixtures import calling, raw

REVOKED = Revoked(NOW, RevocationReason.keyCompromise, None, 1)
QUICK = Limits(wait=0.5, read=0.5, unread=1.0, connections=4)


@pytest.fixture(name="home")
async def open_house(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def quick_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_PAUSES", (0.01,))


async def ask(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    async with calling(port) as caller:
        return await caller.ask(request)


async def killed(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    await until(lambda: not lives(process))


def ours() -> set[int]:
    """The OCSP processes of this one."""
    return children(os.getpid())


# Processes


async def test_another_process_takes_the_place_of_one_that_was_killed(home: House) -> None:
    async with home.workers(1) as (workers, port):
        [first] = pids(workers)
        assert status_in(await ask(port, home.get())) == "GOOD"
        await killed(first)
        # Whoever comes now waits for the next one, which knows of every change.
        waiting = [asyncio.create_task(ask(port, home.get(serial))) for serial in (1, 2, 3)]
        home.writer.put(home.ca.name, 2, REVOKED)
        waiting += [asyncio.create_task(ask(port, home.post(2)))]
        one, _, three, two = [status_in(await asked) for asked in waiting]
        assert (one, two, three) == ("GOOD", "REVOKED", "GOOD")
        assert status_in(await ask(port, home.get(2))) == "REVOKED"
        await until(lambda: len(pids(workers)) == 1)
        assert pids(workers) != [first]


async def test_the_others_answer_while_one_is_replaced(home: House) -> None:
    async with home.workers(2) as (workers, port):
        first, second = pids(workers)
        for victim in (first, second):
            await killed(victim)
            for _ in range(10):
                assert status_in(await ask(port, home.get())) == "GOOD"
            await until(lambda victim=victim: len(set(pids(workers)) - {victim}) == 2)
        assert not {first, second} & set(pids(workers))


async def test_one_that_hangs_is_replaced(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with home.workers(2) as (workers, port):
        first, second = pids(workers)
        assert status_in(await ask(port, home.get())) == "GOOD"
        os.kill(first, signal.SIGSTOP)
        monkeypatch.setattr(workers_module, "_PATIENCE", 0.5)
        measuring = asyncio.create_task(workers.measure())
        await asyncio.sleep(0)  # it has asked the first one
        monkeypatch.undo()
        metrics = await measuring  # what that has to say of itself is left out
        assert sum(metrics.answers.values()) <= 1
        await until(lambda: first not in pids(workers) and len(pids(workers)) == 2)
        assert not lives(first)
        assert second in pids(workers)
        for _ in range(10):
            assert status_in(await ask(port, home.get())) == "GOOD"


async def test_one_that_does_not_read_its_orders_is_replaced(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [*home.setup.delegates] * 5000  # more than a socket takes that nobody reads
    async with home.workers(1) as (workers, port):
        [first] = pids(workers)
        os.kill(first, signal.SIGSTOP)
        monkeypatch.setattr(workers_module, "_PATIENCE", 0.5)
        async with asyncio.timeout(20):
            await workers.install(many)
        monkeypatch.undo()
        await until(lambda: pids(workers) not in ([], [first]))
        assert status_in(await ask(port, home.get())) == "GOOD"


async def test_it_goes_on_trying_to_start_another(home: House) -> None:
    async with home.workers(1) as (workers, port):
        [first] = pids(workers)
        key = home.folder / "keys" / "first.pem"
        key.rename(home.folder / "away.pem")
        tried = 0
        setup = home.setup

        def told() -> object:
            nonlocal tried
            tried += 1
            return setup

        workers._setup = told
        os.kill(first, signal.SIGKILL)
        await until(lambda: tried >= 2)
        waiting = asyncio.create_task(ask(port, home.get()))
        (home.folder / "away.pem").rename(key)
        assert status_in(await waiting) == "GOOD"


async def test_one_that_starts_later_has_the_renewed_delegates(home: House) -> None:
    async with home.workers(1) as (workers, port):
        [first] = pids(workers)
        renewed = await home.delegate("renewed")
        await killed(first)
        home.change(delegates=[renewed])
        await workers.install([renewed])  # while there is none, or it is just being started
        answer = await ask(port, home.get())
        assert signer_in(answer).public_bytes(Encoding.DER) == renewed.certificate


async def test_one_that_dies_in_a_restart_is_replaced_once(home: House) -> None:
    async with home.workers(2) as (workers, port):
        before = pids(workers)
        restarting = asyncio.create_task(workers.restart(5.0))
        os.kill(before[1], signal.SIGKILL)
        await restarting
        await until(lambda: len(pids(workers)) == 2)
        await until(lambda: ours() == set(pids(workers)))
        assert not set(before) & set(pids(workers))
        assert status_in(await ask(port, home.get())) == "GOOD"


async def test_one_that_died_before_a_restart_is_replaced_once(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_PAUSES", (0.05,))
    async with home.workers(1) as (workers, port):
        await killed(*pids(workers))
        await until(lambda: pids(workers) == [])  # another will be started in a moment
        await workers.restart(5.0)
        async with workers._replacing:  # whoever wanted to start another had the turn before
            assert ours() == set(pids(workers))
        assert status_in(await ask(port, home.get())) == "GOOD"


async def test_a_start_that_is_cancelled_leaves_no_process(home: House) -> None:
    sockets = await bind_shared("127.0.0.1", 0, 2)
    workers = Workers(sockets, lambda: home.setup)
    starting = asyncio.create_task(workers.start())
    await until(lambda: len(ours()) == 2)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: ours() == set())
    await workers.stop(1.0)


async def test_one_that_is_up_ends_when_the_start_of_the_others_is_cancelled(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = await bind_shared("127.0.0.1", 0, 2)
    workers, started, up = Workers(sockets, lambda: home.setup), Workers._started, asyncio.Event()

    async def one(self: Workers, bound: Sequence[socket.socket]) -> object:
        if bound is sockets[1]:
            await asyncio.Event().wait()
        line = await started(self, bound)
        asyncio.get_running_loop().call_soon(up.set)
        return line

    monkeypatch.setattr(Workers, "_started", one)
    starting = asyncio.create_task(workers.start())
    await up.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert ours() == set()


async def test_a_stop_in_the_middle_of_a_restart_ends_them_all(home: House) -> None:
    sockets = await bind_shared("127.0.0.1", 0, 2)
    workers = Workers(sockets, lambda: home.setup)
    await workers.start()
    before = ours()
    restarting = asyncio.create_task(workers.restart(1.0))
    await until(lambda: ours() != before)
    stopping = asyncio.create_task(workers.stop(1.0))
    await until(lambda: all(keeper.done() for keeper in workers._keepers))
    await workers.restart(1.0)  # it comes too late
    assert stopping.done()
    await asyncio.gather(restarting, stopping)
    assert ours() == set()


PARENT = """
import asyncio, sys
from infra.http.app import bind_shared
from ocsp.worker import Setup
from ocsp.workers import Workers
import msgspec

async def main():
    setup = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Setup)
    sockets = await bind_shared("127.0.0.1", 0, 2)
    workers = Workers(sockets, lambda: setup)
    await workers.start()
    print(sockets[0][0].getsockname()[1], *(line._process.pid for line in workers._lines))
    sys.stdout.flush()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_processes_end_when_their_parent_is_killed(home: House) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write(msgspec.msgpack.encode(home.setup))
    parent.stdin.close()
    async with asyncio.timeout(60):
        port, *workers = map(int, (await parent.stdout.readline()).split())
    async with calling(port) as caller:
        assert status_in(await caller.ask(home.get())) == "GOOD"
        assert len(workers) == 2 and all(map(lives, workers))
        parent.kill()
        assert await caller.rest() == b""
    await parent.wait()
    await until(lambda: not any(map(lives, workers)))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


# Clients


async def test_slow_clients_are_cut_off(home: House) -> None:
    home.change(limits=QUICK)
    async with home.workers(1) as (_, port):
        for slow, status in ((home.get()[:-2], 408), (home.post()[:-1], 408), (b"G", 408)):
            said = await raw(port, slow)
            assert said.startswith(b"HTTP/1.1 %d " % status)
            assert b"\r\nConnection: close\r\n" in said
        assert await raw(port, b"") == b""  # one that says nothing is told nothing

        async def answered() -> bool:
            with suppress(OSError, EOFError):  # on a slow machine we may be too slow as well
                return status_in(await ask(port, home.get())) == "GOOD"
            return False

        await until(answered)


async def test_connections_that_are_too_many_are_turned_away(home: House) -> None:
    home.change(limits=Limits(connections=4))
    async with home.workers(1) as (workers, port):
        async with AsyncExitStack() as stack:
            for _ in range(4):
                caller = await stack.enter_async_context(calling(port))
                assert status_in(await caller.ask(home.get())) == "GOOD"
            said = await raw(port, b"")
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in said
            assert status_in(await caller.ask(home.get())) == "GOOD"
            assert (await workers.measure()).connections == 4

        async def none_left() -> bool:
            return (await workers.measure()).connections == 0

        await until(none_left)
        assert status_in(await ask(port, home.get())) == "GOOD"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /ocsp/%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"M" * 9000), 414),
        (b"GET /ocsp/%b" % (b"M" * 9000), 414),
        (b"GET /ocsp/M HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 9000), 431),
        (b"GET /ocsp/M HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 65 + b"\r\n", 431),
        (b"GET /ocsp/M HTTP/1.1\r\n\r\n", 400),
        (b"GET /ocsp/M HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /elsewhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404),
        (b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413),
    ],
)  # fmt: skip
async def test_what_is_too_large_or_no_http_is_refused(
    home: House, request_: bytes, status: int
) -> None:
    async with home.workers(1) as (_, port):
        said = await raw(port, request_)
        assert said.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in said
        assert status_in(await ask(port, home.get())) == "GOOD"


async def test_the_longest_path_and_body_that_are_read(home: House) -> None:
    async with home.workers(1) as (_, port), calling(port) as caller:
        path = b"GET /ocsp/%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"M" * 8000)
        assert (await caller.ask(path))[2] == bytes.fromhex("30030a0101")
        for size, status in ((MAX_REQUEST, 200), (MAX_REQUEST + 1, 413), (1 << 20, 413)):
            head = home.post().partition(b"\r\nContent-Length")[0]
            body = b"\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
            assert (await caller.ask(head + body))[0] == status
        assert status_in(await caller.ask(home.get())) == "GOOD"


async def test_http_1_0(home: House) -> None:
    async with home.workers(1) as (_, port):
        old = home.get().replace(b"HTTP/1.1", b"HTTP/1.0")
        async with calling(port) as caller:
            assert status_in(await caller.ask(old)) == "GOOD"
            assert await caller.rest() == b""
        async with calling(port) as caller:
            staying = old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
            for _ in range(2):
                answer = await caller.ask(staying)
                assert status_in(answer) == "GOOD"
                assert b"\r\nConnection: keep-alive\r\n" in answer[1]


async def test_pipelined_requests_are_answered_in_their_order(home: House) -> None:
    home.writer.put(home.ca.name, 2, REVOKED)
    home.writer.put(home.ca.name, 3, Good())
    async with home.workers(1) as (_, port), calling(port) as caller:
        serials = [1, 2, 3, 99, 1, 2, 2, 3, 99, 1]
        for asks in (home.get, home.post):
            caller.writer.write(b"".join(asks(serial) for serial in serials))
            answers = [read(await caller.answer()) for _ in serials]
            assert [one.serial_number for one in answers] == serials
            assert [one.certificate_status.name for one in answers[:4]] == [
                "GOOD", "REVOKED", "GOOD", "UNKNOWN",
            ]  # fmt: skip


async def test_clients_that_go_away_in_the_middle(home: House) -> None:
    async with home.workers(1) as (workers, port):
        for request in (home.get(), home.post(), home.get(nonce=bytes(16))):
            for size in (1, 20, len(request) - 1, len(request)):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request[:size])
                if size % 2:
                    writer.transport.abort()
                else:
                    writer.close()

        async def none_left() -> bool:
            return (await workers.measure()).connections == 0

        await until(none_left)
        assert status_in(await ask(port, home.get())) == "GOOD"
