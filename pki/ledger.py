"""What the CA has issued and revoked: the one writer of status.

Each certificate is one document. It begins as an intent that holds the to-be-signed octets, and
becomes issued or void, in one write with the leaf that tells of it; a change of its status is first
written down as pending, then logged, then made. So whatever is interrupted is found again when the
ledger is opened, and no change of status is visible before its leaf is in the log.

A document is numbered anew at each change, in the order in which the changes were kept: whoever
follows ``changed`` misses nothing, so the documents are their own outbox.

Invariants:

- a serial number is used once per CA: it is the document's id;
- a request id leads to one certificate: a unique index;
- the certificates of one key are numbered from 0: a unique index, so whoever certifies a key that
  is known hears of it, from the database and not from a look-up that may be late;
- the sequence number of a change is unique, and changes commit in its order.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from infra.clock import Clock
from infra.errors import Failure, Rejected, Unavailable
from infra.store.port import Conflict, Document, Duplicate, Store, Stored
from pki.certificate import parse_certificate
from pki.log.act import Act, encode, parse
from pki.log.log import Log
from pki.look_up import LookUp
from pki.record import (
    CERTIFICATES,
    COMPROMISE,
    Intent,
    Record,
    State,
    act_of,
    crl_fields,
    document_id,
    integer_of,
    intent_mac,
    micros,
    revocation_body,
    status_of,
    time_of,
)
from pki.serial import SerialNumber, format_serial
from pki.status import (
    CertStatus,
    RevocationReason,
    Revoked,
    Unknown,
    decide_hold,
    decide_release,
    decide_revoke,
)

CLOCK_TOLERANCE: Final = timedelta(seconds=2)

RENUMBERED: Final = 1 << 20
"""Sequence numbers that are left out before changes of status that were interrupted are finished;
more than there can be of those."""

LOG_CURSOR: Final = "log"

DOCUMENTS_CURSOR: Final = "ledger-documents"
DOCUMENTS: Final = 1
"""How documents are written: 1 has the fields of ``crl_fields`` once a status has changed."""


class Ledger(LookUp):
    """The certificates of every CA in this process, over a store and the log."""

    def __init__(
        self, store: Store, log: Log, clock: Clock, intent_key: bytes, step: Callable[[str], None]
    ) -> None:
        super().__init__(store)
        self._step = step
        self._intent_key = intent_key
        self._log = log
        self._clock = clock
        self._sequence = 0
        self._unlogged: set[int] = set()
        self._untold: set[int] = set()  # what a follower could not take
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._listeners: list[Callable[[Record], None]] = []
        self._followers: list[Callable[[Record], None]] = []

    @classmethod
    async def open(
        cls,
        store: Store,
        log: Log,
        clock: Clock,
        *,
        intent_key: bytes,
        step: Callable[[str], None] = lambda step: None,
    ) -> Ledger:
        """The ledger as it was left; leaves that are missing in the log are written, changes of
        status that were interrupted are finished.

        ``intent_key``: of the code that authenticates intents, 32 octets that the store does not
        hold; ``step``: called with the name of each step that is done, for crash tests.
        """
        ledger = cls(store, log, clock, intent_key, step)
        newest = await store.find(CERTIFICATES, "sequence", reverse=True, limit=1)
        if newest:
            ledger._sequence = integer_of(newest[0].body["sequence"])
            ledger._latest = time_of(newest[0].body["changed_at"])
        await ledger._bring_up_to_date()
        await ledger.catch_up()
        pending = [one for one in await ledger._all_unfinished() if "pending" in one.body]
        if pending:
            # If this is a copy, the original has finished them by itself, perhaps in another order:
            # whoever has followed that has to hear of all of them, so their numbers are beyond it.
            ledger._sequence += RENUMBERED
        for stored in pending:
            await ledger._finish(stored)
        return ledger

    def now(self) -> datetime:
        """The time, which never goes back behind what the ledger has written.

        Errors: ``clock-went-back``.
        """
        now = self._clock.now()
        if now >= self._latest:
            return now
        if self._latest - now <= CLOCK_TOLERANCE:
            return self._latest
        raise Unavailable(
            "clock-went-back",
            f"the clock says {now:%Y-%m-%dT%H:%M:%SZ} but the ledger has written at "
            f"{self._latest:%Y-%m-%dT%H:%M:%SZ}; set the clock right and try again",
            retry_after=min((self._latest - now).total_seconds(), 3600.0),
        )

    def subscribe(self, listener: Callable[[Record], None]) -> None:
        """Call ``listener`` after each change of status; it must not block."""
        self._listeners.append(listener)

    def follow(self, listener: Callable[[Record], None]) -> None:
        """Call ``listener`` with each certificate that is issued or whose status changes, when that
        is durable and before its asker hears of it; it must not block, and may hear of one twice.
        """
        self._followers.append(listener)

    @property
    def reached(self) -> int:
        """Every change up to this sequence number is logged, and was told to the followers."""
        return min(self._unlogged | self._untold, default=self._sequence + 1) - 1

    # Issuance

    async def intend(self, intent: Intent) -> Record:
        """Reserve the serial number and write the intent down, durably, in one change.

        Errors: ``Duplicate`` of ``id`` (the serial number), of ``key`` (with its number) or of
        ``request``.
        """
        now = self.now()
        body: Document = {
            "ca": intent.ca,
            "serial": format_serial(intent.serial),
            "state": State.intended.value,
            "profile": intent.profile,
            "subject": intent.subject,
            "tbs": intent.tbs_certificate,
            "key_hash": intent.key_hash,
            "key_number": intent.key_number,
            "not_before": micros(intent.not_before),
            "not_after": micros(intent.not_after),
            "by": intent.by,
            "request_hash": intent.request_hash,
            "unfinished_since": micros(now),
        }
        id = document_id(intent.ca, intent.serial)
        body["mac"] = intent_mac(self._intent_key, id, intent.tbs_certificate)
        if intent.request_id is not None:
            body["request"] = f"{intent.ca}/{intent.request_id}"
        if intent.partition is not None:
            body["partition"] = intent.partition
        if intent.consent:
            body["consent"] = True
        return Record(await self._store.insert(CERTIFICATES, id, body))

    def wrote(self, record: Record) -> bool:
        """Whether an intent that was found in the store is one that a CA has written there: who
        can write to the store alone cannot have anything signed."""
        mac = intent_mac(self._intent_key, record.stored.id, record.tbs_certificate)
        kept = record.stored.body.get("mac")
        return isinstance(kept, bytes) and hmac.compare_digest(mac, kept)

    async def complete(self, record: Record, certificate: bytes) -> Record:
        """Keep the signed certificate and log its issuance; both are durable on return."""
        return await self._end(
            record, ("tbs", "mac"), {"state": State.issued.value, "der": certificate}, issued=True
        )

    async def void(self, record: Record, why: str) -> Record:
        """Give an intent up: its serial number stays used, and the log says why."""
        # The request id is free again for whoever asks once more.
        gone = ("request", "mac")
        return await self._end(record, gone, {"state": State.void.value, "void": why})

    async def _end(
        self, record: Record, gone: tuple[str, ...], new: Document, *, issued: bool = False
    ) -> Record:
        """Make an intent what it becomes and log that, in one write."""
        before = record.stored
        body = before.body.copy()
        for field in ("unfinished_since", *gone):
            body.pop(field, None)
        body |= new
        after = Record(Stored(before.id, before.version + 1, body))
        sequence = 0

        def make() -> tuple[Stored, Act]:
            nonlocal sequence
            self._unlogged.discard(sequence)  # it was refused
            now = self.now()
            sequence = self._next(now)
            self._unlogged.add(sequence)
            body["sequence"] = sequence
            body["changed_at"] = at = micros(now)
            if issued:
                body["issued_at"] = at
            return after.stored, act_of(after)

        def kept(stored: Stored) -> None:
            self._unlogged.discard(sequence)
            self._tell(Record(stored))

        try:
            index = await self._log.append_change(CERTIFICATES, before, make, kept)
        except Failure as failure:
            refused = isinstance(failure, Conflict | Duplicate)
            with suppress(Failure):
                if refused or await self._store.get(CERTIFICATES, before.id) == before:
                    self._unlogged.discard(sequence)  # there is nothing to log
            raise
        self._step("logged")
        return Record(after.stored, index)

    async def logged(self, record: Record) -> int:
        """The place of an issued certificate in the log, which is written now if a full disk
        kept it from being written at its time."""
        index = await self._log.find(record.act_id)
        if index is None:
            index = await self._log.append(act_of(record))
            self._tell(record)
            self._unlogged.discard(record.sequence)
        return index

    async def catch_up(self) -> None:
        """Write the leaves that a crash kept from being written; then remember that it is done.

        Documents are numbered in the order in which they were kept, so what was logged is known
        by one number, which the store keeps for us under the name ``log``.
        """
        after = await self._store.cursor(LOG_CURSOR)
        while page := await self.changed(after):
            for record in page:
                if await self._log.find(record.act_id) is None:
                    await self._log.append(act_of(record))
                after = record.sequence
        await self._store.acknowledge(LOG_CURSOR, after)

    async def remember(self) -> None:
        """Tell the followers what they could not take, and note how far the log has everything, so
        that the next ``catch_up`` is short. Errors: the followers'."""
        for sequence in sorted(self._untold):
            found = await self.changed(sequence - 1, limit=1)
            if found and found[0].sequence == sequence:
                self._tell(found[0])
            else:  # it has changed again, and they heard of that
                self._untold.discard(sequence)
        await self._store.acknowledge(LOG_CURSOR, self.reached)

    async def unfinished(self) -> list[Record]:
        """Intents that are neither issued nor void, the oldest first."""
        found = [Record(stored) for stored in await self._all_unfinished()]
        return [record for record in found if record.state is State.intended]

    # Status

    async def revoke(
        self,
        ca: str,
        serial: SerialNumber,
        *,
        reason: RevocationReason,
        invalidity_date: datetime | None = None,
        by: str,
    ) -> Record:
        """Revoke for good. Errors: see ``pki.status.decide_revoke``."""

        def decide(status: CertStatus, now: datetime) -> CertStatus:
            return decide_revoke(
                status, at=now, reason=reason, invalidity_date=invalidity_date, sequence=0
            )

        return await self._change(ca, serial, "certificate.revoke", decide, by)

    async def hold(self, ca: str, serial: SerialNumber, *, by: str) -> Record:
        """Suspend (certificateHold). Errors: see ``pki.status.decide_hold``."""

        def decide(status: CertStatus, now: datetime) -> CertStatus:
            return decide_hold(status, at=now, sequence=0)

        return await self._change(ca, serial, "certificate.hold", decide, by)

    async def release(self, ca: str, serial: SerialNumber, *, by: str) -> Record:
        """End a hold. Errors: see ``pki.status.decide_release``."""

        def decide(status: CertStatus, now: datetime) -> CertStatus:
            return decide_release(status)

        return await self._change(ca, serial, "certificate.release", decide, by)

    async def _change(
        self,
        ca: str,
        serial: SerialNumber,
        what: str,
        decide: Callable[[CertStatus, datetime], CertStatus],
        by: str,
    ) -> Record:
        while True:
            record = await self.record(ca, serial)
            if "pending" in record.stored.body:
                # An earlier change is under way, or its leaf could not be written: it goes first.
                with suppress(Conflict):  # whoever asked for it has finished it meanwhile
                    await self._finish(record.stored)
                continue
            if record.state is State.issued and _is_root(record.certificate):
                raise Rejected(
                    "root-certificate",
                    "whoever trusts a root asks nobody about it: have it removed from the trust "
                    "stores, and revoke the CAs below it",
                )
            now = self.now()
            known = record.status if record.state is State.issued else Unknown()
            status = decide(known, now.replace(microsecond=0))
            detail: dict[str, str | int] = {"issuer": ca, "serial": format_serial(serial)}
            if isinstance(status, Revoked):
                detail["reason"] = status.reason.name
            act = Act(
                # The version makes it unique: a certificate can be held and released many times.
                id=f"{what.removeprefix('certificate.')}/{record.stored.id}/{record.stored.version}",
                what=what,
                who=by,
                when=now,
                object_hash=hashlib.sha256(record.certificate).digest(),
                detail=detail,
            )
            body = record.stored.body | {
                "pending": {"revocation": revocation_body(status), "act": encode(act)},
                "unfinished_since": micros(now),
            }
            try:
                stored = await self._store.replace(CERTIFICATES, record.stored, body)
            except Conflict:
                continue
            self._step("pending")
            try:
                return Record(await self._finish(stored))
            except Conflict:  # somebody whose own change waited for this one has finished it
                return await self.record(ca, serial)

    async def _finish(self, stored: Stored) -> Stored:
        """Log a pending change, then make it."""
        pending = cast(Document, stored.body["pending"])
        act = parse(cast(bytes, pending["act"]))
        await self._log.append(act)
        self._step("pending-logged")
        # To its end, though whoever asked for it be gone: no change is made that is not told.
        return await asyncio.shield(self._make(stored, pending))

    async def _make(self, stored: Stored, pending: Document) -> Stored:
        """Make a change that is logged, and tell of it."""
        now = self.now()
        sequence = self._next(now)
        self._unlogged.add(sequence)
        gone = ("pending", "unfinished_since", "revocation")
        body = {key: value for key, value in stored.body.items() if key not in gone}
        body |= {
            "sequence": sequence,
            "changed_at": micros(now),
        }
        revocation = cast("Document | None", pending["revocation"])
        if revocation is not None:
            body["revocation"] = revocation | {"sequence": sequence}
            if revocation["reason"] in COMPROMISE:
                body["compromised_key"] = body["key_hash"]
        body |= crl_fields(body, status_of(body), now)
        try:
            after = await self._store.replace(CERTIFICATES, stored, body)
        finally:
            self._unlogged.remove(sequence)
        try:
            self._tell(Record(after))
        finally:
            self._step("changed")
            for listener in self._listeners:
                listener(Record(after))
        return after

    async def _bring_up_to_date(self) -> None:
        """Give documents of an earlier version what CRLs are made from, once."""
        if await self._store.cursor(DOCUMENTS_CURSOR) >= DOCUMENTS:
            return
        after = 0
        while page := await self.changed(after):
            for record in page:
                body = record.stored.body
                if "changed_by" in body:
                    now = {key: value for key, value in body.items() if key != "changed_by"}
                    now |= crl_fields(body, record.status, record.changed_at)
                    await self._store.replace(CERTIFICATES, record.stored, now)
            after = page[-1].sequence
        await self._store.acknowledge(DOCUMENTS_CURSOR, DOCUMENTS)

    def _tell(self, record: Record) -> None:
        """Tell the followers. Errors: theirs; it is tried again by ``remember``."""
        self._untold.add(record.sequence)
        for follower in self._followers:
            follower(record)
        self._untold.discard(record.sequence)

    async def _all_unfinished(self) -> list[Stored]:
        found: dict[str, Stored] = {}
        low, known = 0, -1
        while len(found) > known:
            known = len(found)
            page = await self._store.find(CERTIFICATES, "unfinished", low=low)
            found |= {stored.id: stored for stored in page}
            if page:
                low = integer_of(page[-1].body["unfinished_since"])
        return list(found.values())

    def _next(self, now: datetime) -> int:
        # Taken just before the write is queued, with no await between: the store commits in the
        # order in which it was asked, so numbers and commits have the same order.
        self._sequence += 1
        self._latest = max(self._latest, now)
        return self._sequence


def _is_root(certificate: bytes) -> bool:
    read = parse_certificate(certificate)
    return read.issuer == read.subject
