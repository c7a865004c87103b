"""What of the ledger a directory shows: subjects with their certificates, and who was erased."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol

from infra.errors import Rejected
from infra.store.port import (
    Collection,
    Conflict,
    Document,
    Duplicate,
    Index,
    New,
    Replacement,
    Store,
)
from pki.directory.entries import SERIAL_NUMBER, Rules, Wanted, may_be_shown, subject_of, wanted
from pki.log.act import Act
from pki.log.log import Log
from pki.record import CERTIFICATES, Record, micros, time_of
from pki.serial import SerialNumber, parse_serial

ERASURES: Final = Collection("directory_erasures")
"""By the opaque id of a subject: until when what was issued to it is not shown."""

DUE: Final = Collection("directory_due", (Index("due", ("directory", "at")),))
"""Subjects whose entry is to be made, besides those that have changed: erased, or refused."""

_AT_ONCE: Final = 4  # subjects, 1 ms
_MOST: Final = 1000  # certificates of a subject that are looked at


class Ledger(Protocol):
    """The ledger, as the directory follows it (``pki.ledger.Ledger``)."""

    async def changed(self, after: int, *, limit: int = ...) -> list[Record]: ...

    async def by_subject(self, subject: str, *, limit: int) -> list[Record]: ...

    async def record(self, ca: str, serial: SerialNumber) -> Record: ...

    async def sequence(self) -> int: ...

    def follow(self, listener: Callable[[Record], None], /) -> None:
        """Call ``listener`` with each change."""

    def now(self) -> datetime:
        """The time."""


class Source:
    """What the entries are made of."""

    def __init__(self, ledger: Ledger, store: Store, log: Log) -> None:
        self.ledger = ledger
        self._store = store
        self._log = log

    async def wanted(self, rules: Rules, subjects: Iterable[str]) -> list[Wanted]:
        """What the directory is to show of each of these subjects."""
        found = []
        for number, subject in enumerate(subjects, 1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # issuance goes on meanwhile
            records = await self.ledger.by_subject(subject, limit=_MOST)
            if not records:  # one without a subject is named by its document
                stored = await self._store.get(CERTIFICATES, subject)
                records = [] if stored is None else [Record(stored)]
            erased = await self._erased(rules.id(subject))
            found.append(wanted(rules, subject, records, self.ledger.now(), erased=erased))
        return found

    async def concerned(self, rules: Rules, records: Sequence[Record]) -> list[str]:
        """The subjects of those certificates that the directory may show, each once."""
        return list(
            dict.fromkeys(subject_of(record) for record in records if may_be_shown(rules, record))
        )

    async def record_of(
        self, authorities: Iterable[str], attributes: dict[str, tuple[bytes, ...]]
    ) -> Record | None:
        """A certificate of ours that an entry says it has."""
        names = list(authorities)
        for octets in attributes.get(SERIAL_NUMBER, ()):
            with suppress(Rejected, UnicodeDecodeError):
                serial = parse_serial(octets.decode("ascii"))
                for name in names:
                    with suppress(Rejected):
                        return await self.ledger.record(name, serial)
        return None

    async def erase(
        self, rules: Rules, subject: str, directories: Iterable[str], *, by: str
    ) -> None:
        """Show nothing any more that was issued to this subject until now; the log says that
        somebody was erased, not who. The entry is due in each of these directories.
        """
        id, now = rules.id(subject), self.ledger.now()
        # Logged first: no change is seen that the log does not know. Without the second step
        # nothing is erased, and whoever asked asks again.
        await self._log.append(
            Act(
                id=f"directory-erase/{id}/{micros(now)}",
                what="directory.erase",
                who=by,
                when=now,
                object_hash=hashlib.sha256(id.encode()).digest(),
            )
        )
        # In this order: where somebody is erased, the removal is due, whatever crashes.
        due: Document = {"subject": subject, "at": 0}
        bodies = [(DUE, f"{name}/{id}", due | {"directory": name}) for name in directories]
        await self.put([*bodies, (ERASURES, id, {"until": micros(now)})])

    async def put(self, documents: Sequence[tuple[Collection, str, Document]]) -> None:
        """Write these documents in this order, whatever they were before."""
        while True:
            changes: list[tuple[Collection, New | Replacement]] = []
            for collection, id, body in documents:
                known = await self._store.get(collection, id)
                change = New(id, body) if known is None else Replacement(known, body)
                changes.append((collection, change))
            with suppress(Conflict, Duplicate):
                return await self._store.write(changes)

    async def _erased(self, id: str) -> datetime | None:
        stored = await self._store.get(ERASURES, id)
        return None if stored is None else time_of(stored.body["until"])
