"""The SQLite store when its process is killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from infra.store.sqlite import SqliteStore
from tests.faults.store_fixtures import PRELUDE, ROOT, THINGS

WRITER = (
    PRELUDE
    + """
path, round = Path(sys.argv[1]), sys.argv[2]
def acknowledged(*what):
    os.write(1, (json.dumps(what) + "\\n").encode())
def announce(id, version):
    return [Event("things", id, {"version": version, "part": part}) for part in (1, 2)]
async def caller(store, number):
    for n in range(100_000):
        id = f"{round}-{number}-{n}"
        stored = await store.insert(
            THINGS, id, {"key": id, "version": 1, "pad": bytes(n % 3000)}, announce(id, 1)
        )
        acknowledged(id, 1)
        for version in range(2, 2 + n % 4):
            body = {"key": f"{id}-{n % 2 * version}", "version": version}
            stored = await store.replace(THINGS, stored, body, announce(id, version))
            acknowledged(id, version)
async def in_bulk(store):
    for n in range(100_000):
        ids = [f"{round}-many-{n}-{m:04}" for m in range(700)]
        await store.insert_many(
            THINGS,
            [New(id, {"key": id, "version": 1}, tuple(announce(id, 1))) for id in ids],
        )
        for id in ids:
            acknowledged(id, 1)
async def main():
    store = await SqliteStore.open(path, (THINGS,))
    acknowledged("open", 0)
    await asyncio.gather(*(caller(store, number) for number in range(24)), in_bulk(store))
asyncio.run(main())
"""
)


async def check_consistency(path: Path, acknowledged: dict[str, int], seen: int) -> int:
    """Documents, versions, index and outbox say the same; returns the last offset."""
    store = await SqliteStore.open(path, (THINGS,))
    try:
        versions = {}
        async for thing in store.scan(THINGS):
            assert thing.body["version"] == thing.version
            (indexed,) = await store.find(THINGS, "by_key", (str(thing.body["key"]),))
            assert indexed == thing
            versions[thing.id] = thing.version
        lost = {id for id, version in acknowledged.items() if versions.get(id, 0) < version}
        assert not lost
        announced = await store.events(0, limit=10_000_000)
        told: dict[str, list[tuple[Any, Any]]] = {}
        for one in announced:
            told.setdefault(one.event.key, []).append(
                (one.event.body["version"], one.event.body["part"])
            )
        assert told == {
            id: [(v, part) for v in range(1, version + 1) for part in (1, 2)]
            for id, version in versions.items()
        }
        offsets = [one.offset for one in announced]
        assert offsets == sorted(set(offsets))
        assert offsets[-1] >= seen
        # A bulk insert that was cut short left a prefix.
        bulk = sorted(id for id in versions if "-many-" in id)
        for id in bulk:
            number = int(id[-4:])
            assert number == 0 or f"{id[:-4]}{number - 1:04}" in versions
        return offsets[-1]
    finally:
        await store.close()


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    source = random.Random(20)
    acknowledged: dict[str, int] = {}
    seen = total = 0
    for round in range(20):
        if round % 4 == 0:  # a fresh file now and then keeps the check of all of it short
            acknowledged, seen = {}, 0
            path = path.with_name(f"store-{round}.db")
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(round)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b'["open", 0]\n'
        kill_at = time.monotonic() + source.uniform(0.0, 0.15)
        os.set_blocking(writer.stdout.fileno(), False)
        output = b""
        while time.monotonic() < kill_at:
            output += writer.stdout.read() or b""
            time.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        os.set_blocking(writer.stdout.fileno(), True)
        output += writer.stdout.read()
        writer.stdout.close()
        for line in output.split(b"\n")[:-1]:
            id, version = json.loads(line)
            acknowledged[id] = max(version, acknowledged.get(id, 0))
            total += 1
        if acknowledged:
            seen = await check_consistency(path, acknowledged, seen)
            with sqlite3.connect(path) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            connection.close()
    assert total > 1000
