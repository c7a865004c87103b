"""What publishes may die anywhere: between a write and the note of it, or its processes alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import Unavailable
from pki.directory.source import ERASURES
from tests.contract.directory_fixtures import (
    World,
    differences,
    eventually,
    login,
    publishing,
    shown,
    world,
)
from tests.contract.slapd_fixtures import Server, running_slapd

CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.contract.directory_fixtures import world
from pki.directory.ldap import Login
from pki.directory.publisher import Publisher
from infra.store.sqlite import SqliteStore

folder, url, step, count = sys.argv[1:]
left = int(count)

def fatal(kind, name):
    known = getattr(kind, name)
    async def dying(*args, **named):
        global left
        result = await known(*args, **named)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(kind, name, dying)

fatal({"written": Publisher, "acknowledged": SqliteStore, "made": Publisher}[step],
      {"written": "_write", "acknowledged": "acknowledge", "made": "prepare"}[step])

async def main():
    async with world(Path(folder)) as house:
        publisher = house.publisher(Login(url=url, timeout=5.0))
        await publisher.start()
        await asyncio.sleep(30)

asyncio.run(main())
"""


@pytest.fixture(name="server")
def open_server(tmp_path: Path) -> Iterator[Server]:
    with running_slapd(tmp_path / "slapd") as running:
        yield running


@pytest.fixture(name="house")
async def open_world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path / "ca") as made:
        yield made


@pytest.mark.parametrize(
    ("step", "count"), [("made", 1), ("written", 1), ("written", 2), ("acknowledged", 1)]
)
async def test_a_publisher_is_killed_after_a_step(
    server: Server, tmp_path: Path, step: str, count: int
) -> None:
    folder = tmp_path / "ca"
    async with world(folder) as house:
        await house.people(300)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CHILD, str(folder), server.ldapi, step, str(count)],
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    async with world(folder) as house, publishing(house.publisher(login(server))) as publisher:
        await shown(publisher, within=30)
        assert await differences(publisher, house.store) == []
        said = server.search("(objectClass=pkiUser)", "dn")
        assert said.count("dn:") == 300


async def test_the_process_that_speaks_ldap_is_killed(house: World, server: Server) -> None:
    count = 300
    await house.people(count)
    async with publishing(house.publisher(login(server))) as publisher:
        for _ in range(3):
            least = min(publisher.written + 1, count)
            await eventually(lambda least=least: publisher.written >= least)  # type: ignore[misc]
            for pid in _helpers():
                os.kill(pid, signal.SIGKILL)
        await shown(publisher, within=30)
        assert await differences(publisher, house.store) == []


def _helpers() -> list[int]:
    """Processes of ours that speak LDAP."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == os.getpid() and b"pki.directory.process" in command:
                found.append(int(entry.name))
    return found


async def test_a_directory_that_hangs_is_given_up_and_tried_again(
    house: World, server: Server
) -> None:
    publisher = house.publisher(_hasty(server))
    async with publishing(publisher):
        await shown(publisher)
        pids = _slapd(server)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await house.people(3)
            await eventually(lambda: publisher.failing == "directory-unavailable")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        await shown(publisher, within=30)
        assert await differences(publisher, house.store) == []


def _hasty(server: Server) -> Any:
    import msgspec

    return msgspec.structs.replace(login(server), timeout=1.0)


def _slapd(server: Server) -> list[int]:
    process = server._process
    assert process is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *map(int, children)]


async def test_an_erasure_that_was_cut_off_is_not_half_done(
    house: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await house.issue("CN=Alice,C=AQ")
    async with publishing(house.publisher(login(server))) as publisher:
        await shown(publisher)

        async def full(*_: object, **__: object) -> None:
            raise Unavailable("storage-full", "there is no room")

        with monkeypatch.context() as patched:
            patched.setattr(house.store, "write", full)
            with pytest.raises(Unavailable):
                await publisher.source.erase(
                    publisher.rules, record.subject, [publisher.name], by="test"
                )
        # It was logged and not done: nothing is hidden that whoever asked was told is not.
        id = publisher.rules.id(record.subject)
        assert await house.store.get(ERASURES, id) is None
        assert await differences(publisher, house.store) == []
        await publisher.source.erase(publisher.rules, record.subject, [publisher.name], by="test")
        publisher.wake()
        await eventually(lambda: "dn:" not in server.search("(objectClass=pkiUser)", "dn"))


async def test_a_disk_that_is_full_keeps_the_place_where_it_is(
    house: World, tmp_path: Path
) -> None:
    with running_slapd(tmp_path / "small" / "slapd", size=500_000) as small:
        async with publishing(house.publisher(login(small))) as publisher:
            await house.people(1000)
            await eventually(lambda: publisher.failing == "directory-full", within=30)
            standing = await publisher.standing()
            assert 0 < standing.behind <= 1000
            await house.issue("CN=Late,C=AQ")  # waits for nobody
            assert publisher.failing == "directory-full"
