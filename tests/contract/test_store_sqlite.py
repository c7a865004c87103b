"""What the SQLite store promises beyond the port: its files, their modes and size, backups."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import Collection, Event, Index, New
from infra.store.sqlite import SqliteStore

THINGS = Collection("things", (Index("by_key", ("key",), unique=True),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, (THINGS,))
    yield store
    await store.close()


async def test_nobody_else_can_read_the_files(path: Path) -> None:
    before = os.umask(0)
    try:
        store = await SqliteStore.open(path, (THINGS,))
        await store.insert(THINGS, "a", {})
        await store.backup(path.parent / "backups" / "one.db")
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode)
            for file in (path.parent, *path.parent.rglob("*"))
        }
        await store.close()
    finally:
        os.umask(before)
    assert modes == {
        "state": 0o700,
        "store.db": 0o600,
        "store.db-wal": 0o600,
        "store.db-shm": 0o600,
        "backups": 0o700,
        "one.db": 0o600,
    }


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    await (await SqliteStore.open(path, (THINGS,))).close()
    path.chmod(0o644)
    await (await SqliteStore.open(path, (THINGS,))).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_log_does_not_grow_and_is_gone_at_the_end(store: SqliteStore, path: Path) -> None:
    log = path.with_name("store.db-wal")
    largest = 0
    for batch in range(40):
        pad = bytes(20_000)
        await store.insert_many(THINGS, [New(f"{batch}-{n}", {"p": pad}) for n in range(250)])
        largest = max(largest, log.stat().st_size)
    assert path.stat().st_size > 100_000_000
    assert largest < 80_000_000
    await store.close()
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]


async def test_a_copy_is_only_read(store: SqliteStore, path: Path) -> None:
    for number in range(3):
        await store.insert(THINGS, f"{number}", {"key": f"{number}"})
    target = path.parent / "copies" / "copy.db"
    await store.backup(target)
    copy = await SqliteStore.open_copy(target, (THINGS,), check=True)
    try:
        assert [thing.id async for thing in copy.scan(THINGS)] == ["0", "1", "2"]
        [found] = await copy.find(THINGS, "by_key", ("1",))
        for change in (copy.insert(THINGS, "3", {}), copy.replace(THINGS, found, {})):
            with pytest.raises(Unavailable) as refusal:
                await change
            assert refusal.value.code == "storage-read-only"
        assert [file.name for file in target.parent.iterdir()] == ["copy.db"]
    finally:
        await copy.close()


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"SQLite format 3\0" + bytes(5000)])
async def test_what_is_no_copy_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises((Broken, Rejected)) as refusal:
        await (await SqliteStore.open_copy(path, (THINGS,), check=True)).get(THINGS, "a")
    assert refusal.value.code in ("storage-corrupt", "storage-foreign", "storage-broken")


async def test_a_backup_during_writes_is_a_moment_of_the_whole(
    store: SqliteStore, path: Path
) -> None:
    written = 0

    async def write(number: int) -> None:
        nonlocal written
        while not done:
            id = f"{written:09}"
            written += 1
            await store.insert(THINGS, id, {"key": id}, [Event("t", id, {})])

    done = False
    writers = [asyncio.ensure_future(write(n)) for n in range(8)]
    while written < 500:  # noqa: ASYNC110 - the writers set no event
        await asyncio.sleep(0.001)
    acknowledged = await store.count(THINGS)
    target = path.parent / "backup.db"
    await store.backup(target)
    done = True
    await asyncio.gather(*writers)
    with pytest.raises(Rejected) as refusal:
        await store.backup(target)
    assert refusal.value.code == "backup-exists"
    copy = await SqliteStore.open(target, (THINGS,))
    try:
        there = [thing.id async for thing in copy.scan(THINGS)]
        assert len(there) == await copy.count(THINGS) >= acknowledged
        told = [one.event.key for one in await copy.events(0, limit=100_000)]
        assert sorted(told) == there == sorted(f"{n:09}" for n in range(len(there)))
        offset = (await copy.events(0, limit=100_000))[-1].offset
        await copy.insert(THINGS, "new", {}, [Event("t", "new", {})])
        assert (await copy.events(offset))[0].offset == offset + 1
    finally:
        await copy.close()
