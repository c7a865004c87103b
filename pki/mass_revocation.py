"""Many certificates revoked at once: those of a profile, of a kind of key, of a time, or a list.

A job is a document that says how far it has come. It is done a batch at a time; whoever asks for
the same again after a crash goes on where it was, and a certificate that is revoked already is
left alone. Each revocation is logged as any other is.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from infra.errors import Rejected, Unavailable
from infra.store.port import Collection, Conflict, Document, Duplicate, Index, Store, Stored
from pki.algorithms import KeyType, key_type_of
from pki.certificate import parse_certificate
from pki.crl_entry import Entry, encode_entry
from pki.ledger import Ledger
from pki.profile import Profile
from pki.record import Record, State, integer_of, micros, time_of
from pki.serial import SerialNumber
from pki.status import RevocationReason, Revoked

JOBS: Final = Collection("revocation_jobs", (Index("ended", ("ended",)),))

BATCH: Final = 500
"""Certificates of the ledger that one step looks at, or of a list that it takes."""

USUAL_RATE: Final = 200.0
"""Revocations a second that a rehearsal reckons with before any job has measured them."""

_TOGETHER: Final = 64


@dataclass(frozen=True, slots=True)
class Query:
    """Which certificates are meant: all that is given must match, and something must be given.

    ``issued_after``: inclusive; ``issued_before``: exclusive.
    """

    ca: str | None = None
    profile: str | None = None
    key_type: KeyType | None = None
    issued_after: datetime | None = None
    issued_before: datetime | None = None

    def __post_init__(self) -> None:
        if (self.profile, self.key_type, self.issued_after, self.issued_before) == (None,) * 4:
            raise Rejected(
                "empty-query",
                "say which certificates: a profile, a key type, when they were issued, or serials",
            )

    def matches(self, record: Record) -> bool:
        """Whether this certificate is meant, whatever its status."""
        if record.state is not State.issued or self.ca not in (None, record.ca):
            return False
        if self.profile not in (None, record.profile):
            return False
        at = record.issued_at
        if self.issued_after is not None and at < self.issued_after:
            return False
        if self.issued_before is not None and at >= self.issued_before:
            return False
        return self.key_type is None or self.key_type is key_type_of(
            parse_certificate(record.certificate).public_key_info
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done to them. ``by``: who asks, for the log."""

    reason: RevocationReason
    invalidity_date: datetime | None
    by: str


@dataclass(slots=True)
class Growth:
    """What a CRL grows by."""

    entries: int = 0
    octets: int = 0


@dataclass(slots=True)
class Step:
    """What one step has done, or would do.

    ``revoked``: certificates; ``already``: that were revoked before; ``unknown``: serial numbers
    of a list that nobody has; ``position``: where the next step begins; ``end``: where the last
    one does, at present; ``growth``: by the name of the CRL's scope.
    """

    revoked: int = 0
    already: int = 0
    unknown: list[str] = field(default_factory=list)
    position: int = 0
    end: int = 0
    done: bool = False
    growth: dict[str, Growth] = field(default_factory=dict)


class MassRevocation:
    """Jobs over the ledger."""

    def __init__(self, store: Store, ledger: Ledger, profiles: Mapping[str, Profile]) -> None:
        self._store = store
        self._ledger = ledger
        self._profiles = profiles

    async def rehearse(self, query: Query, order: Order, after: int) -> Step:
        """What a step from ``after`` on would do; nothing is changed."""
        page = await self._ledger.changed(after, limit=BATCH)
        step = await self._begin(after, page)
        for record in self._meant(query, page, self._ledger.now(), step):
            self._count(record, order, step)
        return step

    async def advance(self, query: Query, order: Order) -> Step:
        """Do one step of the job of this query and order, which begins with its first.

        ``Step.revoked`` and ``Step.already`` count from the job's beginning. Errors:
        ``Unavailable`` with ``revocation-job-busy`` or what store and log say; what was revoked
        until then stays so.
        """
        began = time.monotonic()
        stored = await self._job(query, order)
        body = stored.body
        after, started = integer_of(body["position"]), time_of(body["started"])
        page = await self._ledger.changed(after, limit=BATCH)
        step = await self._begin(after, page)
        # What is issued from now on is issued knowing of this.
        before = [record for record in page if record.issued_at <= started]
        await self._revoke(self._meant(query, before, started, step), order, step)
        step.revoked += integer_of(body["revoked"])
        step.already += integer_of(body["already"])
        new: Document = body | {
            "position": step.position,
            "revoked": step.revoked,
            "already": step.already,
            "milliseconds": integer_of(body["milliseconds"])
            + int(1000 * (time.monotonic() - began)),
        }
        if step.done:
            new["ended"] = micros(self._ledger.now())
        try:
            await self._store.replace(JOBS, stored, new)
        except Conflict as error:
            raise _busy() from error
        return step

    async def revoke(
        self, serials: Sequence[SerialNumber], authorities: Sequence[str], order: Order,
        *, rehearse: bool,
    ) -> Step:  # fmt: skip
        """Revoke these, of whichever of ``authorities``; ``rehearse``: only say what would be."""
        step = Step(done=True)
        found: list[Record] = []
        for serial in dict.fromkeys(serials):
            record = await self._find(serial, authorities)
            if record is None:
                step.unknown.append(f"{serial:x}")
            elif _is_final(record):
                step.already += 1
            elif rehearse:
                self._count(record, order, step)
            else:
                found.append(record)
        await self._revoke(found, order, step)
        return step

    async def rate(self) -> tuple[float, bool]:
        """Revocations a second of the newest job, and whether there was one."""
        ended = await self._store.find(JOBS, "ended", reverse=True, limit=8)
        for stored in ended:
            revoked, spent = (integer_of(stored.body[name]) for name in ("revoked", "milliseconds"))
            if revoked >= BATCH and spent:
                return 1000 * revoked / spent, True
        return USUAL_RATE, False

    async def _begin(self, after: int, page: Sequence[Record]) -> Step:
        step = Step(position=page[-1].sequence if page else after, done=len(page) < BATCH)
        step.end = max(step.position, await self._ledger.sequence())
        return step

    def _meant(
        self, query: Query, page: Sequence[Record], started: datetime, step: Step
    ) -> list[Record]:
        found = []
        for record in page:
            if record.not_after < started or not query.matches(record):
                continue
            # Certificates that speak for a CA are meant only when they are named.
            profile = self._profiles.get(record.profile)
            if query.profile is None and profile is not None and (profile.ca or profile.reserved):
                continue
            if not _is_final(record):
                found.append(record)
            elif record.changed_at < started:  # what the job itself has revoked comes again
                step.already += 1
        return found

    async def _revoke(self, records: Sequence[Record], order: Order, step: Step) -> None:
        async def one(record: Record) -> None:
            try:
                await self._ledger.revoke(
                    record.ca,
                    record.serial,
                    reason=order.reason,
                    invalidity_date=order.invalidity_date,
                    by=order.by,
                )
            except Rejected as error:
                if error.code != "already-revoked":
                    raise
                step.already += 1
            else:
                self._count(record, order, step)

        for at in range(0, len(records), _TOGETHER):
            done = await asyncio.gather(
                *(one(record) for record in records[at : at + _TOGETHER]), return_exceptions=True
            )
            for failure in done:
                if failure is not None:
                    raise failure

    def _count(self, record: Record, order: Order, step: Step) -> None:
        step.revoked += 1
        scope = record.ca if record.partition is None else f"{record.ca}.{record.partition}"
        growth = step.growth.setdefault(scope, Growth())
        at = self._ledger.now().replace(microsecond=0)
        suspect = order.invalidity_date and order.invalidity_date.replace(microsecond=0)
        if not isinstance(record.status, Revoked):  # one on hold is listed already
            growth.entries += 1
            growth.octets += len(encode_entry(Entry(record.serial, at, order.reason, suspect)))

    async def _find(self, serial: SerialNumber, authorities: Sequence[str]) -> Record | None:
        for name in authorities:
            try:
                record = await self._ledger.record(name, serial)
            except Rejected:
                continue
            return record if record.state is State.issued else None
        return None

    async def _job(self, query: Query, order: Order) -> Stored:
        asked = msgspec.to_builtins((query, order.reason.name, order.invalidity_date))
        id = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()
        stored = await self._store.get(JOBS, id)
        if stored is not None and "ended" not in stored.body:
            return stored
        body: Document = {
            "asked": msgspec.json.encode(asked).decode(),
            "by": order.by,
            "started": micros(self._ledger.now()),
            "position": 0,
            "revoked": 0,
            "already": 0,
            "milliseconds": 0,
        }
        try:
            if stored is None:
                return await self._store.insert(JOBS, id, body)
            return await self._store.replace(JOBS, stored, body)  # the same once more, from now on
        except (Conflict, Duplicate) as error:
            raise _busy() from error


def _is_final(record: Record) -> bool:
    return isinstance(record.status, Revoked) and not record.status.on_hold


def _busy() -> Unavailable:
    return Unavailable(
        "revocation-job-busy", "somebody else does the same job; wait for it", retry_after=1
    )
