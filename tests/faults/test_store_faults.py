"""The SQLite store when it is out of room, shut out, damaged, or given the impossible."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import Conflict, Event, New, Stored
from infra.store.sqlite import SqliteStore
from tests.faults.store_fixtures import PRELUDE, THINGS, child, mounts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, (THINGS,), busy_timeout=0.05)
    yield store
    await store.close()


FULL = (
    PRELUDE
    + """
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
async def main():
    store = await SqliteStore.open(folder / "store.db", (THINGS,))
    kept, codes, n = [], [], 0
    async def attempt(n):
        outcome = await code(
            store.insert(THINGS, f"{n}", {"pad": bytes(5000)}, [Event("t", f"{n}", {})])
        )
        kept.extend([f"{n}"] * (outcome == "done"))
        return outcome
    while "storage-full" not in codes:
        codes += await asyncio.gather(*(attempt(n + m) for m in range(8)))
        n += 8
    more = [await attempt(n + m) for m in range(20)]
    n += 20
    during = [thing.id async for thing in store.scan(THINGS)]
    subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
    again = [await attempt(n + m) for m in range(20)]
    there = [thing.id async for thing in store.scan(THINGS)]
    told = [one.event.key for one in await store.events(0)]
    await store.close()
    store = await SqliteStore.open(folder / "store.db", (THINGS,))
    reopened = [thing.id async for thing in store.scan(THINGS)]
    await store.close()
    print(json.dumps({
        "codes": sorted(set(codes + more)), "last": more[-1], "again": again,
        "kept": sorted(kept), "there": there, "told": sorted(told), "reopened": reopened,
        "during": len(during),
    }))
asyncio.run(main())
"""
)


def test_a_full_disk_is_reported_and_survived(tmp_path: Path) -> None:
    seen = json.loads(child(FULL, tmp_path, prefix=mounts()).stdout)
    assert seen["codes"] in (["done", "storage-full"], ["storage-full"])
    assert seen["last"] == "storage-full"
    assert set(seen["again"]) == {"done"}
    assert seen["kept"] == seen["there"] == seen["told"] == seen["reopened"]
    assert seen["during"] > 0


async def test_no_more_pages_is_reported_and_survived(store: SqliteStore) -> None:
    connection = store._writer._connection
    await store.insert(THINGS, "before", {"key": 1})
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    outcomes = await asyncio.gather(
        *(store.insert(THINGS, f"{n}", {"pad": bytes(20_000)}) for n in range(5)),
        return_exceptions=True,
    )
    for outcome in outcomes:
        assert isinstance(outcome, Unavailable)
        assert outcome.code == "storage-full"
    assert len({id(outcome) for outcome in outcomes}) == 5
    assert not connection.in_transaction
    assert [thing.id async for thing in store.scan(THINGS)] == ["before"]
    connection.execute("PRAGMA max_page_count = 1000000")
    await store.insert(THINGS, "after", {"pad": bytes(20_000)})
    assert await store.count(THINGS) == 2


FULL_AT_OPEN = (
    PRELUDE
    + """
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
(folder / "ballast").write_bytes(bytes(56 * 1024))
print(asyncio.run(code(SqliteStore.open(folder / "store.db", (THINGS,)))))
(folder / "ballast").unlink()
subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)
print(asyncio.run(code(SqliteStore.open(folder / "store.db", (THINGS,)))))
"""
)


def test_a_disk_that_is_full_at_the_start(tmp_path: Path) -> None:
    assert child(FULL_AT_OPEN, tmp_path, prefix=mounts()).stdout.split() == ["storage-full", "done"]


READ_ONLY_MOUNT = (
    PRELUDE
    + """
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
async def make():
    store = await SqliteStore.open(folder / "store.db", (THINGS,))
    await store.insert(THINGS, "a", {})
    await store.close()
asyncio.run(make())
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
for name in ("store.db", "other.db", "new/folder/store.db"):
    print(asyncio.run(code(SqliteStore.open(folder / name, (THINGS,)))))
"""
)


def test_a_read_only_file_system(tmp_path: Path) -> None:
    assert (
        child(READ_ONLY_MOUNT, tmp_path, prefix=mounts()).stdout.split()
        == ["storage-read-only"] * 3
    )


READ_ONLY_MODE = (
    PRELUDE
    + """
folder = Path(sys.argv[1])
file = folder / "store.db"
async def make():
    store = await SqliteStore.open(file, (THINGS,))
    await store.close()
asyncio.run(make())
nobody = 65534
if os.geteuid() == 0:
    os.chown(file, nobody, nobody)
    os.chown(folder, nobody, nobody)
    os.setgroups([])
    os.setgid(nobody)
    os.setuid(nobody)
attempt = lambda: print(asyncio.run(code(SqliteStore.open(file, (THINGS,)))))
attempt()
file.chmod(0o400)
attempt()
file.chmod(0o600)
folder.chmod(0o500)
attempt()
folder.chmod(0o700)
attempt()
"""
)


def test_a_file_or_folder_without_permission_to_write() -> None:
    with tempfile.TemporaryDirectory() as outer:
        # Python's own folders are to be reached without rights as well.
        Path(outer).chmod(0o755)
        folder = Path(outer) / "state"
        folder.mkdir(mode=0o700)
        seen = child(READ_ONLY_MODE, folder).stdout.split()
    assert seen == ["done", "storage-read-only", "storage-read-only", "done"]


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


async def test_another_process_that_holds_the_lock(store: SqliteStore, path: Path) -> None:
    before = await store.insert(THINGS, "a", {"key": 1})
    locker = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with locker:
        assert locker.stdout is not None
        assert locker.stdin is not None
        assert locker.stdout.readline() == b"locked\n"
        for attempt in (
            store.insert(THINGS, "b", {}, [Event("t", "b", {})]),
            store.replace(THINGS, before, {"key": 2}),
            store.acknowledge("crl", 1),
            SqliteStore.open(path, (THINGS,), busy_timeout=0.05),
        ):
            with pytest.raises(Unavailable) as failure:
                await attempt
            assert failure.value.code == "storage-unavailable"
        assert await store.get(THINGS, "a") == before
        locker.stdin.close()
    await store.replace(THINGS, before, {"key": 2})
    assert [thing.id async for thing in store.scan(THINGS)] == ["a"]
    assert await store.events(0) == []


async def test_a_file_that_is_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(random.Random(1).randbytes(100_000))
    content = path.read_bytes()
    with pytest.raises(Broken) as failure:
        await SqliteStore.open(path, (THINGS,))
    assert failure.value.code == "storage-corrupt"
    assert path.read_bytes() == content


async def test_a_database_of_another_program(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE outbox (a)")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(Rejected) as refusal:
        await SqliteStore.open(path, (THINGS,))
    assert refusal.value.code == "storage-foreign"
    assert path.read_bytes() == content


async def test_a_database_of_a_later_version(path: Path) -> None:
    await (await SqliteStore.open(path, (THINGS,))).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(Rejected) as refusal:
        await SqliteStore.open(path, (THINGS,))
    assert refusal.value.code == "storage-too-new"
    assert path.read_bytes() == content


async def test_a_damaged_page(path: Path) -> None:
    store = await SqliteStore.open(path, (THINGS,))
    await store.insert_many(THINGS, [New(f"{n:04}", {"pad": bytes(900)}) for n in range(2000)])
    await store.close()
    content = bytearray(path.read_bytes())
    for page in range(20 * 4096, len(content), 4096):
        content[page : page + 100] = b"\xee" * 100
    path.write_bytes(content)
    store = await SqliteStore.open(path, (THINGS,))
    try:
        with pytest.raises(Broken) as failure:
            _ = [thing async for thing in store.scan(THINGS)]
        assert failure.value.code == "storage-corrupt"
        with pytest.raises(Broken) as failure:
            await store.insert(THINGS, "new", {})
        assert failure.value.code == "storage-corrupt"
        assert not store._writer._connection.in_transaction
    finally:
        await store.close()


async def test_a_damaged_body(store: SqliteStore, path: Path) -> None:
    await store.insert(THINGS, "a", {})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE c_things SET body = x'c1'")
    connection.close()
    with pytest.raises(Broken) as failure:
        await store.get(THINGS, "a")
    assert failure.value.code == "storage-corrupt"


async def test_what_nobody_foresaw_fails_alone(store: SqliteStore) -> None:
    """A version that SQLite cannot hold breaks the whole statement, yet not the others in it."""
    outcomes = await asyncio.gather(
        *(store.insert(THINGS, f"a{n}", {}, [Event("t", f"a{n}", {})]) for n in range(10)),
        store.replace(THINGS, Stored("a1", 2**70, {}), {}, [Event("t", "bad", {})]),
        *(store.insert(THINGS, f"b{n}", {}, [Event("t", f"b{n}", {})]) for n in range(10)),
        store.insert(THINGS, "a1", {}),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes[:21]] == [Stored] * 10 + [Broken] + [Stored] * 10
    assert getattr(outcomes[21], "code", None) == "duplicate"
    assert [one.event.key for one in await store.events(0)] == [
        f"{letter}{n}" for letter in "ab" for n in range(10)
    ]
    with pytest.raises(Conflict):
        await store.replace(THINGS, Stored("a1", 7, {}), {})


async def test_a_defect_in_the_writer_leaves_nobody_waiting(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(error: Exception) -> None:
        raise SystemExit

    monkeypatch.setattr(store._writer, "_recover", defect)
    with pytest.raises(Broken) as failure:
        await store.replace(THINGS, Stored("a", 2**70, {}), {})
    assert failure.value.code == "storage-broken"
    monkeypatch.undo()
    assert (await store.insert(THINGS, "a", {})).version == 1


UNCLOSED = (
    PRELUDE
    + """
async def main():
    store = await SqliteStore.open(Path(sys.argv[1]), (THINGS,))
    await store.insert(THINGS, "a", {})
    asyncio.ensure_future(store.insert(THINGS, "b", {}))
    await asyncio.sleep(0)
asyncio.run(main())
"""
)


async def test_a_process_that_never_closes_the_store_can_end(path: Path) -> None:
    assert child(UNCLOSED, path).stderr == ""
    store = await SqliteStore.open(path, (THINGS,))
    assert await store.get(THINGS, "a") == Stored("a", 1, {})
    await store.close()


async def test_a_backup_that_fails_leaves_nothing(store: SqliteStore, path: Path) -> None:
    await store.insert(THINGS, "a", {"pad": bytes(3_000_000)})
    await store.close()
    script = (
        PRELUDE
        + """
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
async def main():
    store = await SqliteStore.open(source, (THINGS,))
    print(await code(store.backup(folder / "backup.db")), os.listdir(folder))
    print(await code(store.insert(THINGS, "b", {})))
    await store.close()
asyncio.run(main())
"""
    )
    target = path.parent / "target"
    target.mkdir()
    lines = child(script, path, target, prefix=mounts()).stdout.splitlines()
    assert lines == ["storage-full []", "done"]
