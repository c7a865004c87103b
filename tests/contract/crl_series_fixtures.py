"""A ledger in memory that CRLs of every scope are made of, and a series of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from crl.making import no_checkpoint
from crl.scope import Scope
from crl.series import COLLECTIONS, Series
from crl.source import Part, Row
from crl.surroundings import Surroundings
from crl.terms import Terms
from infra.clock import FixedClock
from infra.store.port import Store
from infra.store.sqlite import SqliteStore
from pki.crl_entry import Entry, encode_entry
from pki.signer.port import Signer
from pki.status import (
    CertStatus,
    Good,
    RevocationReason,
    Revoked,
    decide_hold,
    decide_release,
    decide_revoke,
)
from tests.contract.crl_fixtures import DAY, NOW, Acts, Authority


@dataclass
class Known:
    """A certificate: its status, when it ends, and the sequence number of its newest change."""

    not_after: datetime
    partition: str | None = None
    status: CertStatus = field(default_factory=Good)
    sequence: int = 0
    at: datetime = NOW


@dataclass
class Ledger:
    """Statuses by CA and serial number, changed by the rules of ``pki.status``."""

    known: dict[tuple[str, int], Known] = field(default_factory=dict)
    changes: int = 0
    page: int = 3

    def issue(
        self, serial: int, not_after: datetime = NOW + 365 * DAY, *,
        ca: str = "issuing", partition: str | None = None,
    ) -> None:  # fmt: skip
        self.known.setdefault((ca, serial), Known(not_after, partition))

    def revoke(
        self, serial: int, at: datetime = NOW,
        reason: RevocationReason = RevocationReason.unspecified, *,
        ca: str = "issuing", invalidity_date: datetime | None = None,
    ) -> None:  # fmt: skip
        before = self._of(ca, serial).status
        after = decide_revoke(
            before, at=at, reason=reason, invalidity_date=invalidity_date, sequence=0
        )
        self._put(ca, serial, after, at)

    def hold(self, serial: int, at: datetime = NOW, *, ca: str = "issuing") -> None:
        self._put(ca, serial, decide_hold(self._of(ca, serial).status, at=at, sequence=0), at)

    def release(self, serial: int, at: datetime = NOW, *, ca: str = "issuing") -> None:
        self._put(ca, serial, decide_release(self._of(ca, serial).status), at)

    def _of(self, ca: str, serial: int) -> Known:
        self.issue(serial, ca=ca)
        return self.known[ca, serial]

    def _put(self, ca: str, serial: int, status: CertStatus, at: datetime) -> None:
        self.changes += 1
        known = self.known[ca, serial]
        known.status, known.sequence, known.at = status, self.changes, at

    # RevocationSource

    async def sequence(self) -> int:
        return self.changes

    def by_serial(self, part: Part, /) -> AsyncIterator[list[Row]]:
        return self._pages(part, lambda row: row[0], lambda row: True)

    def changed(self, part: Part, after: int, /) -> AsyncIterator[list[Row]]:
        return self._pages(part, lambda row: row[1], lambda row: row[1] > after)

    def expired(self, part: Part, low: int, high: int, /) -> AsyncIterator[list[Row]]:
        return self._pages(part, lambda row: row[2], lambda row: low <= row[2] < high)

    async def issued(self, part: Part, serial: int, /) -> bool:
        return (part.issuer, serial) in self.known

    async def _pages(
        self, part: Part, order: Callable[[Row], object], wanted: Callable[[Row], bool]
    ) -> AsyncIterator[list[Row]]:
        rows = [
            row_of(serial, known)
            for (ca, serial), known in self.known.items()
            if ca == part.issuer and known.sequence and part.partition == known.partition
        ]
        rows = sorted(filter(wanted, rows), key=order)  # type: ignore[arg-type]
        for at in range(0, len(rows), self.page):
            yield rows[at : at + self.page]


def row_of(serial: int, known: Known) -> Row:
    match known.status:
        case Revoked(at, reason, since):
            entry = Entry(serial, at, reason, since)
        case _:
            entry = Entry(serial, known.at, RevocationReason.removeFromCRL)
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return octets, known.sequence, int(known.not_after.timestamp()), encode_entry(entry)


@dataclass
class House:
    """Everything that a series stands on, so that a test can change it or start anew."""

    authority: Authority
    store: Store
    folder: Path
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    ledger: Ledger = field(default_factory=Ledger)
    acts: Acts = field(default_factory=Acts)
    terms: Terms = field(default_factory=lambda: Terms(delta_lifetime=timedelta(hours=6)))

    def scope(self, name: str = "issuing", **more: object) -> Scope:
        part = Part("issuing", self.authority.issuer.subject)
        return Scope(**{"name": name, "parts": (part,), **more})  # type: ignore[arg-type]

    def series(
        self,
        scope: Scope | None = None,
        *,
        signer: Signer | None = None,
        holder: str = "test",
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> Series:
        around = Surroundings(
            self.ledger, self.store, self.folder, self.clock, self.acts, holder,
            checkpoint=checkpoint,
        )  # fmt: skip
        return Series(
            scope or self.scope(),
            self.authority.issuer,
            signer or self.authority.signer,
            around,
            self.terms,
        )


async def open_house_store(folder: Path) -> SqliteStore:
    return await SqliteStore.open(folder / "state.sqlite", COLLECTIONS)
