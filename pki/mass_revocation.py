"""Many certificates revoked at once: those of a profile, an algorithm, a kind of key, a time, a
batch of keys, or a list.

A job is a document that says what was asked and how far it has come; a list is kept with it. It is
done a step at a time; whoever asks for the same again after a crash, or for what is unfinished,
goes on where it was, and a certificate that is revoked already is left alone. Each revocation is
logged as any other is.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import Collection, Conflict, Document, Duplicate, Index, Store, Stored
from pki.crl_entry import Entry, encode_entry
from pki.ledger import Ledger
from pki.mass_query import Growth, KeptList, Listed, ListKind, Order, Query, Step, framed
from pki.partition import series_of
from pki.profile import Profile
from pki.profile_check import require_profile
from pki.record import CERTIFICATES, Record, State, integer_of, micros, time_of
from pki.serial import SerialNumber, format_serial
from pki.status import RevocationReason, Revoked

JOBS: Final = Collection(
    "revocation_jobs", (Index("ended", ("ended",)), Index("unfinished", ("unfinished",)))
)
LISTS: Final = Collection("revocation_lists")
COLLECTIONS: Final = (JOBS, LISTS)

BATCH: Final = 500
"""Certificates of the ledger that one step looks at, or of a list that it takes."""

USUAL_RATE: Final = 200.0
"""Revocations a second that a rehearsal reckons with before any job has measured them."""

_TOGETHER: Final = 64


class Asked(msgspec.Struct, frozen=True):
    """What a job document keeps of what was asked."""

    query: Query | None
    listed: KeptList | None
    reason: str
    invalidity_date: datetime | None


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is not over. ``done``: how far it has come, in its own measure."""

    id: str
    asked: Asked
    by: str
    started: datetime
    revoked: int
    done: int


class MassRevocation:
    """Jobs over the ledger."""

    def __init__(self, store: Store, ledger: Ledger, profiles: Mapping[str, Profile]) -> None:
        self._store = store
        self._ledger = ledger
        self._profiles = profiles

    async def rehearse(self, query: Query, order: Order, after: int) -> Step:
        """What a step from ``after`` on would do; nothing is changed. Errors: ``unknown-profile``,
        ``bad-time``."""
        await self._require_meaning(query)
        page = await self._ledger.changed(after, limit=BATCH)
        step = await self._begin(after, page)
        for record in self._meant(query, page, self._ledger.now(), step):
            self._count(record, order, step)
        return step

    async def rehearse_list(self, listed: Listed, order: Order) -> Step:
        """The same of a list, of which nothing is kept."""
        step = Step(done=True)
        for record in await self._named(listed, self._ledger.now(), step):
            self._count(record, order, step)
        return step

    async def keep(self, digest: str, part: int, kind: ListKind, items: Sequence[bytes]) -> None:
        """Keep a part of a list, counted from 0; once more changes nothing."""
        body: Document = {"kind": kind.value, "items": list(items)}
        try:
            await self._store.insert(LISTS, _part(digest, part), body)
        except Duplicate as error:
            stored = await self._store.get(LISTS, _part(digest, part))
            if stored is None or stored.body != body:
                raise Rejected("bad-list", "another list was kept under this digest") from error

    async def begin(self, what: Query | KeptList, order: Order) -> str:
        """The job that does this, begun now unless it is under way. Errors: ``bad-list``,
        ``unknown-profile``, ``bad-time``, ``revocation-job-busy``."""
        if isinstance(what, Query):
            await self._require_meaning(what)
        asked = Asked(
            query=what if isinstance(what, Query) else None,
            listed=what if isinstance(what, KeptList) else None,
            reason=order.reason.name,
            invalidity_date=order.invalidity_date,
        )
        encoded = msgspec.json.encode(asked)
        id = hashlib.sha256(encoded).hexdigest()
        stored = await self._store.get(JOBS, id)
        if stored is not None and "ended" not in stored.body:
            return id
        if isinstance(what, KeptList):
            await self._require_whole(what)
        started = micros(self._ledger.now())
        body: Document = {
            "asked": encoded.decode(),
            "by": order.by,
            "started": started,
            "unfinished": started,
            "position": 0,
            "revoked": 0,
            "already": 0,
            "milliseconds": 0,
        }
        try:
            if stored is None:
                await self._store.insert(JOBS, id, body)
            else:
                await self._store.replace(JOBS, stored, body)  # the same once more, from now on
        except (Conflict, Duplicate) as error:
            raise _busy() from error
        return id

    async def unfinished(self) -> list[Job]:
        """Jobs that are not over, the oldest first."""
        return [_job(stored) for stored in await self._store.find(JOBS, "unfinished")]

    async def advance(self, id: str) -> Step:
        """Do one step of a job.

        ``Step.revoked`` and ``Step.already`` count from the job's beginning. Errors:
        ``no-such-job``; ``Unavailable`` with ``revocation-job-busy`` or what store and log say;
        what was revoked until then stays so.
        """
        began = time.monotonic()
        stored = await self._store.get(JOBS, id)
        if stored is None or "ended" in stored.body:
            raise Rejected("no-such-job", "no such job is unfinished")
        job, body = _job(stored), stored.body
        step, records = await self._next(job)
        reason = RevocationReason[job.asked.reason]
        await self._revoke(records, Order(reason, job.asked.invalidity_date, job.by), step)
        step.revoked += job.revoked
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
            del new["unfinished"]
        try:
            await self._store.replace(JOBS, stored, new)
        except Conflict as error:
            raise _busy() from error
        return step

    async def rate(self) -> tuple[float, bool]:
        """Revocations a second of the newest job, and whether there was one."""
        ended = await self._store.find(JOBS, "ended", reverse=True, limit=8)
        for stored in ended:
            revoked, spent = (integer_of(stored.body[name]) for name in ("revoked", "milliseconds"))
            if revoked >= BATCH and spent:
                return 1000 * revoked / spent, True
        return USUAL_RATE, False

    async def _require_meaning(self, query: Query) -> None:
        """Refuse what no certificate can match: who mistypes it must not read of success."""
        if query.profile is not None:
            await require_profile(query.profile, self._profiles, self._store)
        after, before = query.issued_after, query.issued_before
        if after is not None and before is not None and after >= before:
            raise Rejected("bad-time", "issued_after is to be earlier than issued_before")
        if after is not None and after > self._ledger.now():
            raise Rejected("bad-time", "issued_after is in the future; nothing was issued then")

    async def _next(self, job: Job) -> tuple[Step, list[Record]]:
        """What the next step is to revoke."""
        query, kept = job.asked.query, job.asked.listed
        if query is not None:
            page = await self._ledger.changed(job.done, limit=BATCH)
            step = await self._begin(job.done, page)
            # What is issued from now on is issued knowing of this.
            before = [record for record in page if record.issued_at <= job.started]
            return step, self._meant(query, before, job.started, step)
        if kept is None:
            raise Broken("storage-corrupt", f"revocation_jobs: {job.id} asks for nothing")
        position = job.done + 1
        step = Step(position=position, end=kept.parts, done=position == kept.parts)
        listed = Listed(kept.kind, await self._items(kept, job.done), kept.authorities)
        return step, await self._named(listed, job.started, step)

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

    async def _named(self, listed: Listed, started: datetime, step: Step) -> list[Record]:
        """What a list names and is not revoked; the rest is counted."""
        found = []
        for item in dict.fromkeys(listed.items):
            known = await self._known(listed, item)
            if not known:
                step.unknown.append(_shown(listed.kind, item))
            for record in known:
                if not _is_final(record):
                    found.append(record)
                elif record.changed_at < started:
                    step.already += 1
        return found

    async def _known(self, listed: Listed, item: bytes) -> list[Record]:
        match listed.kind:
            case ListKind.serials:
                serial = SerialNumber(int.from_bytes(item, "big"))
                found = [await self._record(name, serial) for name in listed.authorities]
            case ListKind.keys:
                stored = await self._store.find(CERTIFICATES, "key", (item,))
                found = [Record(one) for one in stored]
        return [
            record
            for record in found
            if record is not None
            and record.state is State.issued
            and record.ca in listed.authorities
        ]

    async def _record(self, ca: str, serial: SerialNumber) -> Record | None:
        try:
            return await self._ledger.record(ca, serial)
        except Rejected:
            return None

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
        growth = step.growth.setdefault(series_of(record.ca, record.partition), Growth())
        at = self._ledger.now().replace(microsecond=0)
        suspect = order.invalidity_date and order.invalidity_date.replace(microsecond=0)
        if not isinstance(record.status, Revoked):  # one on hold is listed already
            growth.entries += 1
            growth.octets += len(encode_entry(Entry(record.serial, at, order.reason, suspect)))

    async def _items(self, kept: KeptList, part: int) -> list[bytes]:
        stored = await self._store.get(LISTS, _part(kept.digest, part))
        items = stored.body["items"] if stored and stored.body["kind"] == kept.kind else None
        if not isinstance(items, list) or not all(isinstance(item, bytes) for item in items):
            raise Rejected("bad-list", f"part {part} of the list is not here; send all of it")
        return [item for item in items if isinstance(item, bytes)]

    async def _require_whole(self, kept: KeptList) -> None:
        whole = hashlib.sha256()
        for part in range(kept.parts):
            whole.update(framed(await self._items(kept, part)))
        if whole.hexdigest() != kept.digest:
            raise Rejected("bad-list", "the list that was sent is not the one that is named")


def _job(stored: Stored) -> Job:
    body = stored.body
    try:
        asked = msgspec.json.decode(str(body["asked"]), type=Asked)
    except msgspec.MsgspecError as error:
        raise Broken("storage-corrupt", f"revocation_jobs: {stored.id} cannot be read") from error
    return Job(
        id=stored.id,
        asked=asked,
        by=str(body["by"]),
        started=time_of(body["started"]),
        revoked=integer_of(body["revoked"]),
        done=integer_of(body["position"]),
    )


def _part(digest: str, part: int) -> str:
    return f"{digest}/{part:08}"


def _shown(kind: ListKind, item: bytes) -> str:
    if kind is ListKind.keys:
        return item.hex()
    return format_serial(SerialNumber(int.from_bytes(item, "big")))


def _is_final(record: Record) -> bool:
    return isinstance(record.status, Revoked) and not record.status.on_hold


def _busy() -> Unavailable:
    return Unavailable(
        "revocation-job-busy", "somebody else does the same job; wait for it", retry_after=1
    )
