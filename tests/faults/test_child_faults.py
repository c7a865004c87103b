"""Who asks for a process of our own and gives up while it starts leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest

from infra import worker
from infra.worker import Worker
from ocsp import workers
from pki.preparation import Preparation
from pki.signer import pkcs11
from pki.signer.uri import Pkcs11Uri
from tests.contract.test_preparation import ask as prepared
from tests.contract.test_preparation import request
from tests.unit.front_fixtures import until

TOKEN = pkcs11.Pkcs11KeyStore(Path("/no/such/module.so"), Pkcs11Uri(token="none"), lambda: b"1234")
PLACES: list[tuple[ModuleType, Callable[[], Awaitable[Any]]]] = [
    (worker, lambda: Worker("pki.preparation").ask(b"")),
    (pkcs11, lambda: TOKEN.open("pkcs11:token=none;object=key")),
    (workers, lambda: workers._Line.start([])),
]


class Spawn:
    """Starts a process when it is told to, and returns it when it is told to."""

    def __init__(self, spawn: Callable[..., subprocess.Popen[bytes]]) -> None:
        self._spawn = spawn
        self.asked, self.start, self.started, self.end = Event(), Event(), Event(), Event()
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: Any) -> subprocess.Popen[bytes]:
        [descriptor] = [one for one in arguments if isinstance(one, int)]
        self.asked.set()
        assert self.start.wait(60)
        assert stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        self.process = self._spawn(*arguments)
        self.started.set()
        assert self.end.wait(60)
        return self.process

    @property
    def gone(self) -> bool:
        return self.process is not None and self.process.returncode is not None


def sockets() -> set[str]:
    gc.collect()
    folder = Path("/proc/self/fd")
    found = set()
    for name in os.listdir(folder):  # noqa: PTH208 - the listing's own is gone by now
        try:
            found.add(os.readlink(folder / name))  # noqa: PTH115
        except FileNotFoundError:
            continue
    return {one for one in found if one.startswith("socket:")}


@pytest.mark.parametrize(("module", "ask"), PLACES, ids=["worker", "token", "ocsp"])
@pytest.mark.parametrize("begun", [False, True], ids=["before", "after"])
async def test_a_process_that_nobody_waits_for_any_more_is_ended(
    module: ModuleType,
    ask: Callable[[], Awaitable[Any]],
    begun: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``begun``: whether it is there by the time at which who asked for it gives up."""
    spawn = Spawn(module._spawn)
    monkeypatch.setattr(module, "_spawn", spawn)
    before = sockets()
    asking = asyncio.ensure_future(ask())
    await asyncio.to_thread(spawn.asked.wait, 60)
    if begun:
        spawn.start.set()
        await asyncio.to_thread(spawn.started.wait, 60)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    spawn.start.set()
    spawn.end.set()
    await until(lambda: spawn.gone)
    assert sockets() == before


async def test_one_that_gives_up_while_the_socket_is_joined_ends_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes, joining = list[subprocess.Popen[bytes]](), asyncio.Event()
    spawn = worker._spawn

    def spawned(*arguments: Any) -> subprocess.Popen[bytes]:
        processes.append(spawn(*arguments))
        return processes[0]

    async def never(factory: Callable[[], asyncio.Protocol], *, sock: socket.socket) -> None:
        with sock:
            factory()
            joining.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(worker, "_spawn", spawned)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    asking = asyncio.create_task(Worker("pki.preparation").ask(b""))
    await joining.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert processes[0].returncode is not None


async def test_closing_waits_at_rest_for_an_asker_who_has_gone() -> None:
    preparation = Preparation(1)
    await prepared(preparation, request())
    line = preparation._workers[0]._line
    assert line is not None
    os.kill(line._process.pid, signal.SIGSTOP)
    asking = asyncio.create_task(prepared(preparation, request()))
    await until(lambda: bool(line._waiting))
    asking.cancel()
    await asyncio.wait([asking])
    closing: Any = asyncio.create_task(preparation.close())
    waited_for = []
    for _ in range(100):
        await asyncio.sleep(0)
        waited_for.append(closing._fut_waiter)
    os.kill(line._process.pid, signal.SIGCONT)
    await closing
    assert len({id(one) for one in waited_for[50:]}) == 1


async def test_whoever_asks_next_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = Spawn(worker._spawn)
    monkeypatch.setattr(worker, "_spawn", spawn)
    preparation = Preparation(1)
    asking = asyncio.create_task(prepared(preparation, request()))
    await asyncio.to_thread(spawn.asked.wait, 60)
    asking.cancel()
    await asyncio.wait([asking])
    spawn.start.set()
    spawn.end.set()
    assert (await prepared(preparation, request())).subject == "CN=Alice Example,C=AQ"
    await preparation.close()
