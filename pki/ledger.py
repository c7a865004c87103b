"""What the CA has issued and revoked: the one writer of status.

Each certificate is one document. It begins as an intent that holds the to-be-signed octets, and
becomes issued or void; a change of its status is first written down as pending, then logged, then
made. So whatever is interrupted is found again by ``unfinished`` and ``open``, and nothing is
visible before its leaf is in the log.

Invariants:

- a serial number is used once per CA: it is the document's id;
- a request id leads to one certificate: a unique index;
- the sequence number of a change is unique, and changes commit in its order.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from infra.clock import Clock
from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import Conflict, Document, Event, Store, Stored
from pki.log.act import Act, encode, parse
from pki.log.log import Log
from pki.record import (
    CERTIFICATES,
    Intent,
    Record,
    State,
    document_id,
    int_of,
    micros,
    record_of,
    revocation_body,
    status_of,
    str_of,
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


COMPROMISE: Final = (RevocationReason.keyCompromise, RevocationReason.cACompromise)
"""Reasons after which a key is never certified again."""


@dataclass(frozen=True, slots=True)
class KeyUse:
    """For whom a key was certified: one subject, or two of several; and whether it was ever
    revoked as compromised."""

    subjects: frozenset[str]
    compromised: bool


class Ledger:
    """The certificates of every CA in this process, over a store and the log."""

    def __init__(self, store: Store, log: Log, clock: Clock, step: Callable[[str], None]) -> None:
        self._step = step
        self._store = store
        self._log = log
        self._clock = clock
        self._sequence = 0
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._listeners: list[Callable[[str, int], None]] = []

    @classmethod
    async def open(
        cls,
        store: Store,
        log: Log,
        clock: Clock,
        *,
        step: Callable[[str], None] = lambda step: None,
    ) -> Ledger:
        """The ledger as it was left; changes of status that were interrupted are finished.

        ``step``: called with the name of each step that is done, for crash tests.
        """
        ledger = cls(store, log, clock, step)
        newest = await store.find(CERTIFICATES, "sequence", reverse=True, limit=1)
        if newest:
            ledger._sequence = int_of(newest[0].body["sequence"])
            ledger._latest = time_of(newest[0].body["changed_at"])
        for stored in await ledger._all_unfinished():
            if "pending" in stored.body:
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

    def subscribe(self, listener: Callable[[str, int], None]) -> None:
        """Call ``listener(ca, sequence)`` after each change of status; it must not block."""
        self._listeners.append(listener)

    async def sequence(self) -> int:
        """The sequence number of the newest change that every look-up shows, 0 at first."""
        newest = await self._store.find(CERTIFICATES, "sequence", reverse=True, limit=1)
        return int_of(newest[0].body["sequence"]) if newest else 0

    async def status_sequence(self, ca: str) -> int:
        """The sequence number of the newest change of status under this CA, 0 if none."""
        newest = await self._store.find(CERTIFICATES, "status", (ca,), reverse=True, limit=1)
        return int_of(newest[0].body["sequence"]) if newest else 0

    # Issuance

    async def intend(self, intent: Intent) -> Record:
        """Reserve the serial number and write the intent down, durably, in one change.

        Errors: ``Duplicate`` of ``id`` (the serial number) or of ``request``.
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
            "not_after": micros(intent.not_after),
            "by": intent.by,
            "request_hash": intent.request_hash,
            "unfinished_since": micros(now),
        }
        if intent.request_id is not None:
            body["request"] = f"{intent.ca}/{intent.request_id}"
        return record_of(
            await self._store.insert(CERTIFICATES, document_id(intent.ca, intent.serial), body)
        )

    async def complete(self, record: Record, certificate: bytes) -> Record:
        """Keep the signed certificate and log its issuance; both are durable on return."""
        now = self.now()
        sequence = self._next(now)
        act = Act(
            id=record.act_id,
            what="certificate.issue",
            who=record.by,
            when=now,
            object_hash=hashlib.sha256(certificate).digest(),
            detail={
                "issuer": record.ca,
                "serial": format_serial(record.serial),
                "profile": record.profile,
                "sequence": sequence,
            },
        )
        body = {
            key: value
            for key, value in record.stored.body.items()
            if key not in ("tbs", "unfinished_since")
        }
        body |= {
            "state": State.issued.value,
            "der": certificate,
            "issued_at": micros(now),
            "changed_at": micros(now),
            "sequence": sequence,
        }
        stored = await self._store.replace(
            CERTIFICATES, record.stored, body, [_event("certificate.issued", record.stored.id, act)]
        )
        self._step("kept")
        await self._log.append(act)
        self._step("logged")
        return record_of(stored)

    async def void(self, record: Record, why: str) -> Record:
        """Give an intent up: its serial number stays used, and the log says why."""
        now = self.now()
        sequence = self._next(now)
        act = Act(
            id=f"void/{record.ca}/{format_serial(record.serial)}",
            what="certificate.void",
            who=record.by,
            when=now,
            object_hash=hashlib.sha256(record.tbs_certificate).digest(),
            detail={
                "issuer": record.ca,
                "serial": format_serial(record.serial),
                "why": why,
                "sequence": sequence,
            },
        )
        body = {k: v for k, v in record.stored.body.items() if k not in ("unfinished_since",)}
        # The request id and the key are free again for whoever asks once more.
        body.pop("request", None)
        body.pop("key_hash", None)
        body |= {
            "state": State.void.value,
            "void": why,
            "changed_at": micros(now),
            "sequence": sequence,
        }
        stored = await self._store.replace(
            CERTIFICATES, record.stored, body, [_event("certificate.voided", record.stored.id, act)]
        )
        await self._log.append(act)
        return record_of(stored)

    async def logged(self, record: Record) -> int:
        """The place of an issued certificate in the log, which is written now if a crash or a
        full disk kept it from being written at its time."""
        index = await self._log.find(record.act_id)
        if index is not None:
            return index
        await self.announce(0, only=record.stored.id)
        index = await self._log.find(record.act_id)
        if index is None:
            raise Broken("log-leaf-missing", f"{record.act_id} is issued but was never announced")
        return index

    async def announce(self, after: int, *, only: str | None = None) -> int:
        """Write the leaves of outbox entries beyond ``after`` that are not in the log yet;
        returns the offset that was reached."""
        while page := await self._store.events(after):
            for announced in page:
                if only is None or announced.event.key == only:
                    leaf = announced.event.body.get("act")
                    if isinstance(leaf, bytes):
                        await self._log.append(parse(leaf))
                after = announced.offset
        return after

    async def unfinished(self) -> list[Record]:
        """Intents that are neither issued nor void, the oldest first."""
        found = [record_of(stored) for stored in await self._all_unfinished()]
        return [record for record in found if record.state is State.intended]

    # Look-ups

    async def record(self, ca: str, serial: SerialNumber) -> Record:
        """One certificate. Errors: ``no-such-certificate``."""
        stored = await self._store.get(CERTIFICATES, document_id(ca, serial))
        if stored is None:
            raise Rejected(
                "no-such-certificate", f"{ca} never issued a certificate {format_serial(serial)}"
            )
        return record_of(stored)

    async def by_request(self, ca: str, request_id: str) -> Record | None:
        """What this request id has led to."""
        found = await self._store.find(CERTIFICATES, "request", (f"{ca}/{request_id}",), limit=1)
        return record_of(found[0]) if found else None

    async def key_use(self, key_hash: bytes) -> KeyUse | None:
        """What is known of a public key (SHA-256 of its SubjectPublicKeyInfo), if anything."""
        first = await self._store.find(CERTIFICATES, "key", (key_hash,), limit=1)
        if not first:
            return None
        # In order of the subject: if the first and the last are the same, they all are.
        last = await self._store.find(CERTIFICATES, "key", (key_hash,), reverse=True, limit=1)
        compromised = await self._store.find(CERTIFICATES, "compromised", (key_hash,), limit=1)
        return KeyUse(
            subjects=frozenset(str_of(stored.body["subject"]) for stored in (*first, *last)),
            compromised=bool(compromised),
        )

    async def by_subject(self, subject: str, *, limit: int) -> list[Record]:
        """Certificates of this subject (RFC 4514), newest last."""
        found = await self._store.find(CERTIFICATES, "subject", (subject,), limit=limit)
        return [record_of(stored) for stored in found]

    async def changed(self, after: int, *, limit: int = 1000) -> list[Record]:
        """Certificates whose newest change has a sequence number beyond ``after``, in order."""
        found = await self._store.find(CERTIFICATES, "sequence", low=after + 1, limit=limit)
        return [record_of(stored) for stored in found]

    async def status(self, ca: str, serial: int) -> CertStatus:
        """The status as OCSP tells it; ``Unknown`` for what was never issued, or is void."""
        stored = await self._store.get(CERTIFICATES, document_id(ca, serial))
        if stored is None or stored.body["state"] != State.issued:
            return Unknown()
        return status_of(stored.body)

    async def revoked(self, ca: str) -> AsyncIterator[tuple[int, Revoked]]:
        """Serial numbers of this CA that are revoked or on hold, in order of their change."""
        after = 0
        while page := await self._store.find(CERTIFICATES, "status", (ca,), low=after + 1):
            for stored in page:
                status = status_of(stored.body)
                if isinstance(status, Revoked):
                    yield int(str_of(stored.body["serial"]), 16), status
                after = int_of(stored.body["sequence"])

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
                # An earlier change was written down but its leaf could not be: it goes first.
                await self._finish(record.stored)
                continue
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
                self._step("pending")
                return record_of(await self._finish(stored))
            except Conflict:
                continue

    async def _finish(self, stored: Stored) -> Stored:
        """Log a pending change, then make it."""
        pending = cast(Document, stored.body["pending"])
        act = parse(cast(bytes, pending["act"]))
        await self._log.append(act)
        self._step("pending-logged")
        now = self.now()
        sequence = self._next(now)
        gone = ("pending", "unfinished_since", "revocation")
        body = {key: value for key, value in stored.body.items() if key not in gone}
        body |= {
            "sequence": sequence,
            "changed_at": micros(now),
            "changed_by": stored.body["ca"],
        }
        revocation = cast("Document | None", pending["revocation"])
        if revocation is not None:
            body["revocation"] = revocation | {"sequence": sequence}
            if revocation["reason"] in COMPROMISE:
                body["compromised_key"] = body["key_hash"]
        after = await self._store.replace(
            CERTIFICATES, stored, body, [_event("certificate.status", stored.id, act)]
        )
        self._step("changed")
        for listener in self._listeners:
            listener(str_of(stored.body["ca"]), sequence)
        return after

    async def _all_unfinished(self) -> list[Stored]:
        found: list[Stored] = []
        low = 0
        while page := await self._store.find(CERTIFICATES, "unfinished", low=low, limit=1000):
            new = [stored for stored in page if all(stored.id != other.id for other in found)]
            if not new:
                break
            found += new
            low = int_of(page[-1].body["unfinished_since"])
        return found

    def _next(self, now: datetime) -> int:
        # Taken just before the write is queued, with no await between: the store commits in the
        # order in which it was asked, so numbers and commits have the same order.
        self._sequence += 1
        self._latest = max(self._latest, now)
        return self._sequence


def _event(topic: str, key: str, act: Act) -> Event:
    return Event(topic, key, {"act": encode(act)})
