"""CRLs of the real ledger: what its indexes give is what its documents say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from crl.encode import parse_crl
from crl.from_ledger import FromLedger
from crl.scope import Scope
from crl.series import COLLECTIONS, Series, Terms
from crl.source import Part, Row, is_release
from crl.surroundings import Surroundings
from infra.clock import FixedClock
from infra.errors import Broken
from infra.store.sqlite import SqliteStore
from pki.crl_entry import Entry
from pki.record import CERTIFICATES, crl_fields, document_id, micros
from pki.serial import format_serial
from pki.status import CertStatus, Good, RevocationReason, Revoked
from tests.contract.crl_fixtures import DAY, NOW, Acts, authority


class LedgerOfDocuments:
    """The ledger's writes without its log: documents as ``pki.ledger`` makes them."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.changes = 0

    async def sequence(self) -> int:
        return self.changes

    async def put(
        self, serial: int, status: CertStatus, ca: str = "issuing", partition: str | None = None
    ) -> None:
        self.changes += 1
        body: dict[str, object] = {
            "ca": ca, "serial": format_serial(serial), "not_after": micros(NOW + serial * DAY),
            "sequence": self.changes,
        }  # fmt: skip
        if partition is not None:
            body["partition"] = partition
        body |= crl_fields(body, status, NOW)  # type: ignore[arg-type]
        known = await self.store.get(CERTIFICATES, document_id(ca, serial))
        if known is None:
            await self.store.insert(CERTIFICATES, document_id(ca, serial), body)  # type: ignore[arg-type]
        else:
            await self.store.replace(CERTIFICATES, known, body)  # type: ignore[arg-type]


def revoked(reason: RevocationReason = RevocationReason.unspecified) -> Revoked:
    return Revoked(NOW + timedelta(microseconds=5), reason, None, 0)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = await SqliteStore.open(tmp_path / "s.sqlite", (CERTIFICATES, *COLLECTIONS))
    yield made
    await made.close()


async def rows(pages: AsyncIterator[list[Row]]) -> list[Row]:
    return [row async for page in pages for row in page]


async def test_rows_come_in_the_three_orders(store: SqliteStore) -> None:
    ledger = LedgerOfDocuments(store)
    source = FromLedger(ledger, store)
    for serial in (300, 128, 5, 127):
        await ledger.put(serial, revoked())
    await ledger.put(7, revoked(), ca="other")
    await ledger.put(8, revoked(), partition="3")
    await ledger.put(5, Good())
    part, third = Part("issuing", b""), Part("issuing", b"", "3")
    by_serial = await rows(source.by_serial(part))
    assert [row[0].hex() for row in by_serial] == ["0080", "012c", "05", "7f"]
    assert [row[1] for row in await rows(source.changed(part, 0))] == [1, 2, 4, 7]
    assert [row[1] for row in await rows(source.changed(part, 4))] == [7]
    day = int(DAY.total_seconds())
    start = int(NOW.timestamp())
    ends = await rows(source.expired(part, start + 8 * day, start + 128 * day))
    assert [int.from_bytes(row[0], "big") for row in ends] == [127]
    assert [row[0] for row in await rows(source.by_serial(third))] == [b"\x08"]
    assert [row[1] for row in await rows(source.changed(third, 0))] == [6]
    assert [is_release(row[3]) for row in by_serial] == [False, False, True, False]


async def test_more_rows_than_a_page(store: SqliteStore) -> None:
    ledger = LedgerOfDocuments(store)
    for serial in range(1, 12):
        await ledger.put(serial, revoked())
    fields = ("crl_serial", "sequence", "crl_until", "crl_entry")
    pages = store.keys(CERTIFICATES, "crl_serial", fields, ("issuing",), page=5)
    found = [page async for page in pages]
    assert [len(page) for page in found] == [5, 5, 1]
    assert [row[1] for page in found for row in page] == list(range(1, 12))
    for wrong in (("crl_serial",), (*fields, "subject")):
        with pytest.raises(Broken, match="bad-query"):
            await anext(store.keys(CERTIFICATES, "crl_serial", wrong, ("issuing",)))


async def test_a_series_over_the_ledger(
    store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    ca = authority(threads)
    ledger = LedgerOfDocuments(store)
    around = Surroundings(
        FromLedger(ledger, store), store, tmp_path / "crl", FixedClock(NOW), Acts(), "test"
    )

    scope = Scope("issuing", (Part("issuing", ca.issuer.subject),), delta_url="http://crl.test/d")
    series = Series(scope, ca.issuer, ca.signer, around, Terms())
    await ledger.put(5, revoked(RevocationReason.keyCompromise))
    await ledger.put(6, revoked(RevocationReason.certificateHold))
    full = await series.issue_full()
    await ledger.put(6, Good())
    delta = await series.issue_delta()
    assert list(parse_crl(full.read()).tbs.entries()) == [
        Entry(5, NOW, RevocationReason.keyCompromise),
        Entry(6, NOW, RevocationReason.certificateHold),
    ]
    assert list(parse_crl(delta.read()).tbs.entries()) == [
        Entry(6, NOW, RevocationReason.removeFromCRL)
    ]
    assert (await series.issue_full()).count == 1
