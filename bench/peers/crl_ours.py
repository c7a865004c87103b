"""Our CRLs in a process of their own, so that its memory can be measured.

Run as a program: ``fill FOLDER COUNT`` makes a ledger; ``issue FOLDER COUNT SOURCE`` makes a first
full CRL, one after a thousandth has changed and a delta after some more changes; ``shards FOLDER
COUNT NUMBER`` makes one for each shard. SOURCE: ``ledger``, or ``stream`` for entries that come out
of nowhere.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.peers.crl_entries import ENDS, NOW, entries
from crl.from_ledger import FromLedger, Keys
from crl.scope import Scope
from crl.series import COLLECTIONS, Series
from crl.source import Part, RevocationSource, Row
from crl.surroundings import Surroundings
from crl.terms import Terms
from infra.clock import FixedClock
from infra.store.port import Document, New
from infra.store.sqlite import SqliteStore
from pki.algorithms import KeyType, usual_algorithm
from pki.crl_entry import Entry, encode_entry
from pki.issuer import Issuer
from pki.partition import partition_of, partition_url
from pki.record import CERTIFICATES, document_id, micros
from pki.serial import format_serial
from pki.signer.file import FileSigner

_CA: Final = "bench"
_URL: Final = "http://127.0.0.1:8081/crl/bench.crl"
_DER: Final = bytes(range(256)) * 4  # as long as a certificate
_PAGE: Final = 5000


class _Unlogged:
    """The log has benchmarks of its own."""

    async def record(
        self, what: str, object_hash: bytes, detail: Mapping[str, str | int], id: str
    ) -> None:
        return


@dataclass
class Changing:
    """A source, and changes that are made while the benchmark runs."""

    source: RevocationSource
    before: int
    rows: list[Row] = field(default_factory=list)

    def change(self, count: int) -> None:
        """Revoke so many more, spread over all serial numbers."""
        for entry in entries(count, seed=len(self.rows) + 1):
            self.rows.append(_row(entry, self.before + len(self.rows) + 1))

    async def sequence(self) -> int:
        return self.before + len(self.rows)

    def by_serial(self, part: Part, /) -> AsyncIterator[list[Row]]:
        return self.source.by_serial(part)

    async def changed(self, part: Part, after: int, /) -> AsyncIterator[list[Row]]:
        if after < self.before:
            async for page in self.source.changed(part, after):
                yield page
        yield self.rows[max(after - self.before, 0) :]

    def expired(self, part: Part, low: int, high: int, /) -> AsyncIterator[list[Row]]:
        return self.source.expired(part, low, high)

    async def issued(self, part: Part, serial: int, /) -> bool:
        return await self.source.issued(part, serial)


@dataclass
class Stream:
    """Rows that are made as they are read; ``partitions``: of so many shards."""

    count: int
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def shard(self, partitions: int) -> None:
        """Sort the rows into shards."""
        for number, entry in enumerate(entries(self.count), 1):
            shard = partition_of(_CA, entry.serial, partitions)
            self.rows.setdefault(shard, []).append(_row(entry, number))

    async def sequence(self) -> int:
        return self.count

    async def by_serial(self, part: Part, /) -> AsyncIterator[list[Row]]:
        if part.partition is not None:
            yield self.rows[part.partition]
            return
        page: list[Row] = []
        for number, entry in enumerate(entries(self.count), 1):
            page.append(_row(entry, number))
            if len(page) == _PAGE:
                yield page
                page = []
        yield page

    async def changed(self, part: Part, after: int, /) -> AsyncIterator[list[Row]]:
        yield []

    async def expired(self, part: Part, low: int, high: int, /) -> AsyncIterator[list[Row]]:
        yield []

    async def issued(self, part: Part, serial: int, /) -> bool:
        return True


def _row(entry: Entry, sequence: int) -> Row:
    serial = entry.serial.to_bytes(entry.serial.bit_length() // 8 + 1, "big")
    return serial, sequence, int(ENDS.timestamp()), encode_entry(entry)


async def fill(folder: Path, count: int) -> None:
    """A ledger of so many certificates, all of them revoked."""
    store = await SqliteStore.open(folder / "ledger.sqlite", (CERTIFICATES,))
    batch: list[New] = []
    for number, entry in enumerate(entries(count), 1):
        octets, sequence, until, encoded = _row(entry, number)
        body: Document = {
            "ca": _CA,
            "serial": format_serial(entry.serial),
            "state": "issued",
            "profile": "citizen-signature",
            "subject": f"CN=Citizen {number},C=AQ",
            "key_hash": octets + octets,
            "key_number": 0,
            "not_before": micros(NOW),
            "not_after": micros(ENDS),
            "by": "bench",
            "request_hash": b"",
            "der": _DER,
            "issued_at": micros(NOW),
            "changed_at": micros(NOW),
            "sequence": sequence,
            "revocation": {
                "at": micros(entry.at),
                "reason": int(entry.reason),
                "invalidity_date": None,
                "sequence": sequence,
            },
            "crl_part": _CA,
            "crl_serial": octets,
            "crl_until": until,
            "crl_entry": encoded,
        }
        batch.append(New(document_id(_CA, entry.serial), body))
        if len(batch) == _PAGE:
            await store.insert_many(CERTIFICATES, batch)
            batch = []
    await store.insert_many(CERTIFICATES, batch)
    await store.close()


class _Count:
    """All that a source asks of the ledger itself."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def sequence(self) -> int:
        return self._count


async def issue(folder: Path, count: int, source: str) -> dict[str, Any]:
    """A first full CRL, one after changes, and a delta after more of them; three of each."""
    changes = max(100, min(count // 1000, 1000))
    ledger = await SqliteStore.open(folder / "ledger.sqlite", (CERTIFICATES,))
    of: RevocationSource = Stream(count)
    if source == "ledger":
        of = FromLedger(_Count(count), cast(Keys, ledger))
    changing = Changing(of, count)
    store = await SqliteStore.open(folder / "crl.sqlite", COLLECTIONS)
    with ThreadPoolExecutor(1) as threads:
        around = _around(changing, store, folder)
        scope = Scope("bench", (Part(_CA, _NAME),), delta_url=_URL)
        series = Series(scope, *_authority(threads), around, Terms(keep=1))
        await series.recover()
        started = perf_counter()
        cold = await series.issue_full()
        times = [perf_counter() - started]
        nexts, deltas = [], []
        for _ in range(3):
            changing.change(changes)
            started = perf_counter()
            full = await series.issue_full()
            nexts.append(perf_counter() - started)
        for _ in range(3):
            changing.change(300)
            started = perf_counter()
            delta = await series.issue_delta()
            deltas.append(perf_counter() - started)
    await store.close()
    await ledger.close()
    if cold.count != count or full.count != count + 3 * changes:
        raise RuntimeError(f"{cold.count} and {full.count} entries were listed")
    return {
        "cold": times[0],
        "next": min(nexts),
        "delta": min(deltas),
        "size": cold.size,
        "delta_size": delta.size,
        "path": str(full.path),
    }


async def shards(folder: Path, count: int, number: int) -> dict[str, Any]:
    """One full CRL for each of so many shards."""
    stream = Stream(count)
    stream.shard(number)
    store = await SqliteStore.open(folder / "shards.sqlite", COLLECTIONS)
    sizes = []
    with ThreadPoolExecutor(1) as threads:
        issuer, signer = _authority(threads)
        started = perf_counter()
        for shard in stream.rows:
            scope = Scope(
                f"bench.{shard}", (Part(_CA, _NAME, shard),), url=partition_url(_URL, shard)
            )
            series = Series(scope, issuer, signer, _around(stream, store, folder), Terms())
            sizes.append((await series.issue_full()).size)
        seconds = perf_counter() - started
    await store.close()
    return {"seconds": seconds, "shards": len(sizes), "mean": sum(sizes) / len(sizes),
            "largest": max(sizes)}  # fmt: skip


_NAME: Final = x509.Name(
    [x509.NameAttribute(x509.NameOID.COMMON_NAME, "Benchmark CA")]
).public_bytes()


def _around(source: RevocationSource, store: SqliteStore, folder: Path) -> Surroundings:
    clock = FixedClock(NOW)
    return Surroundings(source, store, folder / "crl", clock, _Unlogged(), "bench")


def _authority(threads: ThreadPoolExecutor) -> tuple[Issuer, FileSigner]:
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    issuer = Issuer(
        name=_CA, certificate=b"", subject=_NAME, public_key_info=spki,
        key_identifier=identifier, not_before=NOW - timedelta(days=1000),
        not_after=NOW + timedelta(days=1000), chain=(), crl_url=_URL, ocsp_url="",
        certificate_url="",
    )  # fmt: skip
    return issuer, FileSigner("file:bench", key, spki, usual_algorithm(KeyType.P_256), threads)


def main(what: str, folder: Path, count: int, *more: str) -> None:
    """Do what is asked and print the figures as JSON."""
    sys.setswitchinterval(0.0005)  # as `digitalid serve` sets it
    match what:
        case "fill":
            asyncio.run(fill(folder, count))
        case "issue":
            print(json.dumps(asyncio.run(issue(folder, count, *more))))
        case "shards":
            print(json.dumps(asyncio.run(shards(folder, count, *map(int, more)))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
