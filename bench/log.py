"""The log: durable appends, and the replay of all of it."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from infra.clock import SystemClock
from infra.store.sqlite import SqliteStore
from pki.log.act import Act, encode
from pki.log.audit import verify_log
from pki.log.log import COLLECTIONS, Log
from pki.log.records import LEAVES

CALLERS = 64
ORIGIN = "bench.example/log"

Figure: TypeAlias = "dict[str, str | float]"


async def run(quick: bool) -> list[dict[str, str | float]]:
    """Appends against a bare ``executemany`` of the same rows; replay against bare hashing."""
    count = 10_000 if quick else 100_000
    acts = [_act(number) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        store = await SqliteStore.open(path, COLLECTIONS)
        log = await Log.open(store, origin=ORIGIN, clock=SystemClock())
        waiting = iter(acts)

        async def caller() -> None:
            for act in waiting:
                await log.append(act)

        started = perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        appends = count / (perf_counter() - started)
        await log.close()
        started = perf_counter()
        report = await verify_log(store, origin=ORIGIN, keys=[])
        replayed = count / (perf_counter() - started)
        assert report.ok
        assert report.size == count
        await store.close()
        inserts = _executemany(path, Path(folder) / "bare.db")
    hashed = _hashing([encode(act) for act in acts])
    return [
        _figure(
            "log append, durable, 64 callers", "acts/s", appends, "executemany by 64", inserts, 0.15
        ),
        _figure("log verify", "leaves/s", replayed, "one SHA-256 a leaf", hashed, 0.1),
    ]


def _executemany(source: Path, target: Path) -> float:
    """The same rows into the same table, 64 to a transaction, with nothing around it."""
    with closing(sqlite3.connect(source)) as file:
        table = f"c_{LEAVES.name}"
        statements = [
            sql
            for (sql,) in file.execute(
                "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL", (table,)
            )
        ]
        rows = file.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()  # noqa: S608
    with closing(sqlite3.connect(target)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = FULL")
        for statement in statements:
            file.execute(statement)
        insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})"  # noqa: S608
        started = perf_counter()
        for first in range(0, len(rows), CALLERS):
            with file:
                file.executemany(insert, rows[first : first + CALLERS])
        return len(rows) / (perf_counter() - started)


def _hashing(leaves: list[bytes]) -> float:
    started = perf_counter()
    for leaf in leaves:
        sha256(b"\x00" + leaf).digest()
    return len(leaves) / (perf_counter() - started)


def _act(number: int) -> Act:
    serial = f"{number:040x}"
    return Act(
        id=f"issue/issuing/{serial}",
        what="certificate.issue",
        who="system",
        when=datetime(2026, 1, 1, tzinfo=UTC),
        object_hash=sha256(serial.encode()).digest(),
        detail={"issuer": "issuing", "serial": serial, "profile": "citizen-authentication"},
    )


def _figure(name: str, unit: str, ours: float, reference: str, value: float, goal: float) -> Figure:
    return {
        "name": name,
        "unit": unit,
        "ours": round(ours, 1),
        "reference": reference,
        "reference_value": round(value, 1),
        "ratio": round(ours / value, 3),
        "goal": goal,
    }
