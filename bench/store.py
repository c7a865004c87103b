"""The embedded document store against bare SQLite, both with the same tables on the same disk."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import msgspec

from infra.store.port import Collection, Document, Event, Index, Store, Stored
from infra.store.sqlite import SqliteStore

CERTIFICATES: Final = Collection(
    "certificates",
    (
        Index("by_serial", ("issuer", "serial"), unique=True),
        Index("by_key", ("key",)),
        Index("by_subject", ("subject",)),
        Index("by_request", ("request",), unique=True),
    ),
)
LEAVES: Final = Collection("leaves", (Index("by_number", ("number",), unique=True),))
FIELDS: Final = ("issuer", "serial", "key", "subject", "request")
CALLERS: Final = 64


@dataclass(frozen=True, slots=True)
class Issued:
    """What the ledger writes for one certificate."""

    id: str
    intent: Document
    issued: Document
    leaf_id: str
    leaf: Document
    event: Event


def certificates(count: int, seed: int) -> list[Issued]:
    """``count`` certificates: 5 indexed fields of random keys, about 900 octets."""
    source = random.Random(seed)
    issued = []
    for number in range(count):
        id = source.randbytes(16).hex()
        intent: Document = {
            "issuer": "issuing",
            "serial": source.randbytes(20),
            "key": source.randbytes(32),
            "subject": f"CN=citizen {source.getrandbits(40)}",
            "request": source.randbytes(16).hex(),
            "state": "intended",
            "tbs": source.randbytes(650),
        }
        done: Document = {**intent, "state": "issued", "signature": source.randbytes(72)}
        leaf: Document = {"number": number, "hash": source.randbytes(32), "what": "issue"}
        issued.append(
            Issued(
                id, intent, done, f"{number:020}", leaf, Event("certificates", id, {"n": number})
            )
        )
    return issued


async def run(quick: bool) -> list[dict[str, Any]]:
    """Documents a second with 64 callers, and the ledger's three steps a certificate."""
    count = 3_000 if quick else 20_000
    with tempfile.TemporaryDirectory(prefix="bench-store-", dir=Path.cwd()) as folder:
        bare = _bare_inserts(Path(folder), certificates(count, 1))
        async with _opened(Path(folder) / "inserts.db") as store:
            inserts = await _by_callers(store, certificates(count, 1), _insert)
        bare_ledger = _bare_ledger(Path(folder), certificates(count, 2))
        async with _opened(Path(folder) / "ledger.db") as store:
            ledger = await _by_callers(store, certificates(count, 2), _issue)
    return [
        _figure("store-insert", "documents/s", inserts, "executemany, 64 a commit", bare, 0.5),
        _figure(
            "store-ledger", "certificates/s", ledger, "executemany, 64 a commit", bare_ledger, 0.5
        ),
    ]


def _figure(
    name: str, unit: str, ours: float, reference: str, value: float, goal: float
) -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "ours": round(ours),
        "reference": f"bare SQLite: {reference}",
        "reference_value": round(value),
        "ratio": round(ours / value, 2),
        "goal": goal,
    }


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[Store]:
    store = await SqliteStore.open(path, (CERTIFICATES, LEAVES))
    try:
        yield store
    finally:
        await store.close()


async def _by_callers(
    store: Store, issued: list[Issued], step: Callable[[Store, Issued], Awaitable[object]]
) -> float:
    work = iter(issued)

    async def caller() -> None:
        for one in work:
            await step(store, one)

    start = perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(issued) / (perf_counter() - start)


async def _insert(store: Store, one: Issued) -> None:
    await store.insert(CERTIFICATES, one.id, one.intent)


async def _issue(store: Store, one: Issued) -> Stored:
    intended = await store.insert(CERTIFICATES, one.id, one.intent)
    await store.insert(LEAVES, one.leaf_id, one.leaf)
    return await store.replace(CERTIFICATES, intended, one.issued, (one.event,))


@contextmanager
def _bare(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE certificates (id TEXT PRIMARY KEY, version INTEGER, body BLOB,"
        " issuer, serial, key, subject, request)"
    )
    connection.execute("CREATE TABLE leaves (id TEXT PRIMARY KEY, body BLOB, number)")
    connection.execute("CREATE TABLE outbox (offset INTEGER PRIMARY KEY, topic, key, body)")
    connection.execute("CREATE UNIQUE INDEX by_serial ON certificates (issuer, serial)")
    connection.execute("CREATE INDEX by_key ON certificates (key)")
    connection.execute("CREATE INDEX by_subject ON certificates (subject)")
    connection.execute("CREATE UNIQUE INDEX by_request ON certificates (request)")
    connection.execute("CREATE UNIQUE INDEX by_number ON leaves (number)")
    try:
        yield connection
    finally:
        connection.close()


def _groups(issued: list[Issued]) -> Iterator[list[Issued]]:
    for first in range(0, len(issued), CALLERS):
        yield issued[first : first + CALLERS]


_INSERT = "INSERT INTO certificates VALUES (?, 1, ?, ?, ?, ?, ?, ?)"


def _row(one: Issued) -> tuple[Any, ...]:
    body = msgspec.msgpack.encode(one.intent)
    return (one.id, body, *(one.intent[field] for field in FIELDS))


def _bare_inserts(folder: Path, issued: list[Issued]) -> float:
    with _bare(folder / "bare-inserts.db") as connection:
        start = perf_counter()
        for group in _groups(issued):
            connection.execute("BEGIN")
            connection.executemany(_INSERT, [_row(one) for one in group])
            connection.execute("COMMIT")
        return len(issued) / (perf_counter() - start)


def _bare_ledger(folder: Path, issued: list[Issued]) -> float:
    """Intents and leaves in one commit, completions and their events in another."""
    encode = msgspec.msgpack.encode
    with _bare(folder / "bare-ledger.db") as connection:
        start = perf_counter()
        for group in _groups(issued):
            connection.execute("BEGIN")
            connection.executemany(_INSERT, [_row(one) for one in group])
            connection.executemany(
                "INSERT INTO leaves VALUES (?, ?, ?)",
                [(one.id, encode(one.leaf), one.leaf["number"]) for one in group],
            )
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            connection.executemany(
                "UPDATE certificates SET version = 2, body = ? WHERE id = ? AND version = 1",
                [(encode(one.issued), one.id) for one in group],
            )
            connection.executemany(
                "INSERT INTO outbox (topic, key, body) VALUES (?, ?, ?)",
                [(one.event.topic, one.event.key, encode(one.event.body)) for one in group],
            )
            connection.execute("COMMIT")
        return len(issued) / (perf_counter() - start)
