"""A log on a real store, real log keys, and acts to put into it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec

from infra.clock import FixedClock
from infra.store.port import Collection
from infra.store.sqlite import SqliteStore
from pki.algorithms import KeyType
from pki.log.act import Act
from pki.log.audit import verify_log
from pki.log.checkpoint import VerifierKey, verifier_key
from pki.log.evidence import Report
from pki.log.log import COLLECTIONS, Log
from pki.log.merkle import leaf_hash, node_hash
from pki.log.records import LEAVES, record_id
from pki.signer.file import FileKeyStore
from pki.signer.port import Signer

ORIGIN = "log.example.org/ca"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def act(number: int, what: str = "certificate.issue") -> Act:
    """The act with this number."""
    return Act(
        id=f"issue/issuing/{number:x}",
        what=what,
        who="operator:clerk",
        when=NOW + timedelta(milliseconds=number),
        object_hash=sha256(b"certificate %d" % number).digest(),
        detail={"issuer": "issuing", "serial": f"{number:x}"},
    )


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH as RFC 6962 §2.1 writes it down."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(naive_root(hashes[:split]), naive_root(hashes[split:]))


@asynccontextmanager
async def opened_store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, COLLECTIONS)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def opened_log(path: Path) -> AsyncIterator[Log]:
    async with opened_store(path) as store:
        log = await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))
        yield log
        await log.close()


@asynccontextmanager
async def log_key(folder: Path, key_type: KeyType = KeyType.P_256) -> AsyncIterator[Signer]:
    """A new key of a log, in an encrypted file."""
    folder.mkdir(exist_ok=True)
    keys = FileKeyStore(folder, lambda: b"a passphrase for tests")
    try:
        uri = await keys.generate(f"log-{key_type.name.lower()}", key_type)
        yield await keys.open(uri)
    finally:
        await keys.close()


def public(signer: Signer, origin: str = ORIGIN) -> VerifierKey:
    return verifier_key(origin, signer.public_key_info)


async def append_all(log: Log, numbers: Iterable[int]) -> list[int]:
    return list(await asyncio.gather(*(log.append(act(number)) for number in numbers)))


async def leaf_hashes(log: Log) -> list[bytes]:
    return [leaf_hash(await log.leaf(index)) for index in range(log.size)]


async def verified(path: Path, *keys: VerifierKey, trusted: tuple[bytes, ...] = ()) -> Report:
    async with opened_store(path) as store:
        return await verify_log(store, origin=ORIGIN, keys=keys, trusted=trusted)


class Tampering:
    """Someone with the database file and no key: bodies read, written and removed by SQL."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def body(self, collection: Collection, id: str) -> dict[str, object]:
        with closing(sqlite3.connect(self._path)) as file:
            sql = f"SELECT body FROM c_{collection.name} WHERE id = ?"  # noqa: S608
            ((body,),) = file.execute(sql, (id,)).fetchall()
        decoded: dict[str, object] = msgspec.msgpack.decode(body)
        return decoded

    def write(self, collection: Collection, id: str, body: dict[str, object]) -> None:
        sql = f"UPDATE c_{collection.name} SET body = ? WHERE id = ?"  # noqa: S608
        self._run(sql, msgspec.msgpack.encode(body), id)

    def alter(self, collection: Collection, id: str, **changes: object) -> None:
        self.write(collection, id, self.body(collection, id) | changes)

    def remove(self, collection: Collection, id: str) -> None:
        self._run(f"DELETE FROM c_{collection.name} WHERE id = ?", id)  # noqa: S608

    def rename(self, collection: Collection, id: str, new: str) -> None:
        self._run(f"UPDATE c_{collection.name} SET id = ? WHERE id = ?", new, id)  # noqa: S608

    def leaf(self, index: int) -> dict[str, object]:
        return self.body(LEAVES, record_id(index))

    def alter_leaf(self, index: int, **changes: object) -> None:
        self.alter(LEAVES, record_id(index), **changes)

    def _run(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self._path)) as file, file:
            file.execute("PRAGMA synchronous = OFF")
            changed = file.execute(sql, values).rowcount
        assert changed == 1
