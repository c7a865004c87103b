"""Makes the CRLs of one CA: reserve the number → build → check → sign → complete → log → publish.

Invariants:

- a CRL number is used once: a unique index; it grows for ever, because it is the time in
  milliseconds, or one more than the last where that is greater. So it grows even when the store
  was restored from an old copy;
- ``thisUpdate`` never goes back from one published CRL to the next;
- what ``current`` gives was checked, is durable and is in the log; until the next one is all of
  that, the previous one stays.

The octets stand in a collection of their own, so that history reads without them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from crl.encode import (
    Entry,
    assemble,
    authority_key_identifier,
    build_tbs,
    crl_number,
    encode_entry,
    parse_tbs,
)
from infra.clock import Clock
from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.store.port import Collection, Document, Duplicate, Event, Index, Store, Stored
from pki.algorithms import verify
from pki.issuer import Issuer
from pki.signer.port import Signer
from pki.status import RevocationReason, Revoked

CRLS: Final = Collection(
    "crls",
    (
        Index("number", ("issuer", "number"), unique=True),
        Index("state", ("issuer", "state", "number")),
    ),
)
CRL_OCTETS: Final = Collection("crl_octets")
COLLECTIONS: Final = (CRLS, CRL_OCTETS)

INTENDED: Final = "intended"
COMPLETE: Final = "complete"
PUBLISHED: Final = "published"
VOID: Final = "void"

CLOCK_TOLERANCE: Final = timedelta(seconds=2)

_log = logging.getLogger(__name__)


class RevokedSource(Protocol):
    """What of the ledger a CRL is made of."""

    async def sequence(self) -> int:
        """The sequence number of the newest change that ``revoked`` already shows."""

    def revoked(self, issuer: str, /) -> AsyncIterator[tuple[int, Revoked]]:
        """Serial numbers that are revoked or on hold, in order of their change. When one changes
        meanwhile it may come twice; what comes later counts."""


class Recorder(Protocol):
    """Writes an act into the log; an ``id`` that is there already changes nothing."""

    async def record(
        self, what: str, object_hash: bytes, detail: Mapping[str, str | int], id: str
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class IssuedCrl:
    """A published CRL. ``sequence``: it shows every change of the ledger up to this one."""

    issuer: str
    number: int
    this_update: datetime
    next_update: datetime
    sequence: int
    count: int
    der: bytes
    sha256: bytes


def no_checkpoint(step: str) -> None:
    """Between any two steps nothing happens; a test puts a crash here."""


class CrlIssuer:
    """The CRLs of one CA, made one at a time. ``open`` makes one of these."""

    def __init__(
        self,
        issuer: Issuer,
        signer: Signer,
        revoked: RevokedSource,
        store: Store,
        clock: Clock,
        recorder: Recorder,
        *,
        lifetime: timedelta,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        """``lifetime``: from thisUpdate to nextUpdate; ``checkpoint`` is called with the name of
        each step that is done. Errors: ``Broken("wrong-crl-key")``."""
        if signer.public_key_info != issuer.public_key_info:
            raise Broken("wrong-crl-key", f"{signer.uri} is not the key of CA {issuer.name}")
        self._issuer = issuer
        self._signer = signer
        self._revoked = revoked
        self._store = store
        self._clock = clock
        self._recorder = recorder
        self._lifetime = lifetime
        self._checkpoint = checkpoint
        self._lock = asyncio.Lock()
        self._current: IssuedCrl | None = None

    @property
    def name(self) -> str:
        """The short name of the CA."""
        return self._issuer.name

    async def recover(self) -> list[int]:
        """Take up what an earlier run left; call it once, before anything else.

        A CRL that was completed, but not yet logged, is published; an unfinished intent becomes
        void. Returns the numbers that became void; each is in the log, too.
        """
        async with self._lock:
            published = await self._newest(PUBLISHED)
            if published is not None:
                self._current = await self._load(published)
            void = []
            for stored in await self._unfinished(COMPLETE):
                if self._current is None or self._current.number < _int(stored, "number"):
                    await self._publish(stored, await self._load(stored))
                else:
                    void.append(await self._void(stored, "a later CRL was published before it"))
            ended = "the process ended before it was complete"
            void += [await self._void(stored, ended) for stored in await self._unfinished(INTENDED)]
            return void

    def current(self) -> IssuedCrl:
        """The CRL to serve. Errors: ``Unavailable("no-crl-yet")``."""
        if self._current is None:
            raise Unavailable("no-crl-yet", f"CA {self.name} has not made a CRL yet; try again")
        return self._current

    async def by_number(self, number: int) -> IssuedCrl:
        """A CRL that was published, now or earlier. Errors: ``no-such-crl``."""
        if self._current is not None and self._current.number == number:
            return self._current
        stored = await self._store.get(CRLS, _id(self.name, number)) if number >= 0 else None
        if stored is None or stored.body["state"] != PUBLISHED:
            raise Rejected("no-such-crl", f"CA {self.name} never published CRL {number}")
        return await self._load(stored)

    async def issue(self) -> IssuedCrl:
        """Make a full CRL (RFC 5280 §5) of what is revoked now, and publish it.

        Errors: ``issuer-expired``; ``Unavailable`` with ``clock-went-back`` or what signer and
        store say; ``Broken("crl-check")``. After any of them the previous CRL stays.
        """
        async with self._lock:
            now = self._clock.now()
            sequence = await self._revoked.sequence()
            entries = await self._entries()
            this_update, next_update = self._times(now, entries)
            number = await self._next_number(now)
            tbs = await asyncio.to_thread(self._build, number, this_update, next_update, entries)
            intent: Document = {
                "issuer": self.name,
                "number": number,
                "state": INTENDED,
                "tbs_hash": hashlib.sha256(tbs).digest(),
                "this_update": int(this_update.timestamp()),
                "next_update": int(next_update.timestamp()),
                "sequence": sequence,
                "count": len(entries),
            }
            stored = await self._reserve(intent)
            self._checkpoint("reserved")
            try:
                await asyncio.to_thread(self._check, tbs, intent, entries)
                self._checkpoint("checked")
                octets = await self._sign(tbs)
                self._checkpoint("signed")
                stored = await self._complete(stored, octets)
            except Failure as failure:
                await self._try_void(stored, failure.code)
                raise
            self._checkpoint("completed")
            return await self._publish(stored, _issued(stored, octets))

    async def _entries(self) -> list[Entry]:
        found: dict[int, Entry] = {}
        async for serial, status in self._revoked.revoked(self.name):
            found.pop(serial, None)  # it changed while this was reading: the later one counts
            found[serial] = entry_of(serial, status)
        return list(found.values())

    def _times(self, now: datetime, entries: list[Entry]) -> tuple[datetime, datetime]:
        latest = self._current.this_update if self._current else self._issuer.not_before
        newest = max((entry.at for entry in entries), default=latest)
        if max(latest, newest) - now > CLOCK_TOLERANCE:
            raise Unavailable(
                "clock-went-back",
                f"the clock says {now:%Y-%m-%dT%H:%M:%SZ} but CA {self.name} has already signed "
                f"or revoked at {max(latest, newest):%Y-%m-%dT%H:%M:%SZ}; set the clock right",
                retry_after=60,
            )
        this_update = max(now.replace(microsecond=0), latest)
        next_update = min(this_update + self._lifetime, self._issuer.not_after)
        if next_update <= this_update:
            raise Rejected(
                "issuer-expired",
                f"CA {self.name} ended on {self._issuer.not_after:%Y-%m-%d} and signs no more CRLs",
            )
        return this_update, next_update.replace(microsecond=0)

    async def _next_number(self, now: datetime) -> int:
        last = await self._store.find(CRLS, "number", (self.name,), reverse=True, limit=1)
        by_time = int(now.timestamp() * 1000)
        return max(by_time, _int(last[0], "number") + 1) if last else by_time

    def _build(
        self, number: int, this_update: datetime, next_update: datetime, entries: list[Entry]
    ) -> bytes:
        return build_tbs(
            issuer=self._issuer.subject,
            algorithm=self._signer.algorithm.identifier,
            this_update=this_update,
            next_update=next_update,
            entries=map(encode_entry, entries),
            extensions=(
                authority_key_identifier(self._issuer.key_identifier),
                crl_number(number),
            ),
        )

    async def _reserve(self, intent: Document) -> Stored:
        try:
            return await self._store.insert(CRLS, _id(self.name, intent["number"]), intent)
        except Duplicate as error:
            raise Unavailable(
                "crl-number-taken",
                f"another process makes CRLs for CA {self.name}; one at a time can",
                retry_after=1,
            ) from error

    def _check(self, tbs: bytes, intent: Document, entries: list[Entry]) -> None:
        """Read back what is about to be signed and compare it with what it is to say."""
        try:
            read = parse_tbs(tbs)
            same = list(read.entries()) == entries
        except Rejected as error:
            raise Broken("crl-check", f"the CRL does not read back: {error.detail}") from error
        wrong = [
            name
            for name, right in (
                ("entries", same),
                ("number", read.number == intent["number"]),
                ("thisUpdate", int(read.this_update.timestamp()) == intent["this_update"]),
                ("nextUpdate", int(read.next_update.timestamp()) == intent["next_update"]),
                ("issuer", read.issuer == self._issuer.subject),
                ("algorithm", read.algorithm == self._signer.algorithm.identifier),
                ("authorityKeyIdentifier", read.key_identifier == self._issuer.key_identifier),
                ("extensions", len(read.extensions) == 2),
                ("order", self._current is None or read.number > self._current.number),
                ("validity", read.next_update <= self._issuer.not_after),
            )
            if not right
        ]
        if wrong:
            raise Broken("crl-check", f"the CRL does not say what it should: {', '.join(wrong)}")

    async def _sign(self, tbs: bytes) -> bytes:
        signature = await self._signer.sign(tbs)
        algorithm = self._signer.algorithm
        try:
            verify(algorithm, self._issuer.public_key_info, signature, tbs)
        except Rejected as error:
            raise Broken("crl-check", "the key made a signature that does not verify") from error
        return assemble(tbs, algorithm.identifier, signature)

    async def _complete(self, stored: Stored, octets: bytes) -> Stored:
        await self._store.insert(CRL_OCTETS, stored.id, {"der": octets})
        body = stored.body | {
            "state": COMPLETE,
            "sha256": hashlib.sha256(octets).digest(),
            "size": len(octets),
        }
        return await self._store.replace(CRLS, stored, body)

    async def _publish(self, stored: Stored, crl: IssuedCrl) -> IssuedCrl:
        """Log it, say that it is out, and serve it: nothing is served that is not in the log."""
        detail: dict[str, str | int] = {
            "issuer": crl.issuer,
            "crl_number": crl.number,
            "entries": crl.count,
            "sequence": crl.sequence,
        }
        await self._recorder.record("crl.issue", crl.sha256, detail, f"crl/{stored.id}")
        self._checkpoint("logged")
        event = Event("crl.published", crl.issuer, {"number": crl.number})
        await self._store.replace(CRLS, stored, stored.body | {"state": PUBLISHED}, [event])
        self._checkpoint("published")
        self._current = crl
        return crl

    async def _void(self, stored: Stored, why: str) -> int:
        number, tbs_hash = _int(stored, "number"), stored.body["tbs_hash"]
        if not isinstance(tbs_hash, bytes):
            raise _corrupt(stored)
        detail: dict[str, str | int] = {"issuer": self.name, "crl_number": number, "why": why}
        await self._recorder.record("crl.void", tbs_hash, detail, f"crl-void/{stored.id}")
        await self._store.replace(CRLS, stored, stored.body | {"state": VOID, "why": why})
        _log.warning("CRL %d of CA %s is void: %s", number, self.name, why)
        return number

    async def _try_void(self, stored: Stored, why: str) -> None:
        try:
            await self._void(stored, why)
        except Failure as failure:
            # Whatever stopped the CRL stops this, too; ``recover`` finds the intent.
            _log.warning("CRL intent %s stays unfinished: %s", stored.id, failure.code)

    async def _newest(self, state: str) -> Stored | None:
        found = await self._store.find(CRLS, "state", (self.name, state), reverse=True, limit=1)
        return found[0] if found else None

    async def _unfinished(self, state: str) -> list[Stored]:
        return await self._store.find(CRLS, "state", (self.name, state))

    async def _load(self, stored: Stored) -> IssuedCrl:
        kept = await self._store.get(CRL_OCTETS, stored.id)
        octets = kept.body["der"] if kept else None
        if not isinstance(octets, bytes) or hashlib.sha256(octets).digest() != stored.body.get(
            "sha256"
        ):
            raise _corrupt(stored)
        return _issued(stored, octets)


def entry_of(serial: int, status: Revoked) -> Entry:
    """The entry that says this status (RFC 5280 §5.1.2.6); times lose their fractions."""
    since = status.invalidity_date
    if status.reason is RevocationReason.removeFromCRL:
        raise Broken("crl-check", "a full CRL cannot say removeFromCRL")
    return Entry(serial, _second(status.at), status.reason, since and _second(since))


def _second(at: datetime) -> datetime:
    if at.tzinfo is UTC and not at.microsecond:  # as the ledger keeps them
        return at
    return at.astimezone(UTC).replace(microsecond=0)


def _issued(stored: Stored, octets: bytes) -> IssuedCrl:
    digest = stored.body["sha256"]
    if not isinstance(digest, bytes):
        raise _corrupt(stored)
    return IssuedCrl(
        issuer=str(stored.body["issuer"]),
        number=_int(stored, "number"),
        this_update=datetime.fromtimestamp(_int(stored, "this_update"), UTC),
        next_update=datetime.fromtimestamp(_int(stored, "next_update"), UTC),
        sequence=_int(stored, "sequence"),
        count=_int(stored, "count"),
        der=octets,
        sha256=digest,
    )


def _id(issuer: str, number: object) -> str:
    return f"{issuer}/{number:020}"  # in order of the number when scanned


def _int(stored: Stored, field: str) -> int:
    value = stored.body[field]
    if not isinstance(value, int):
        raise _corrupt(stored)
    return value


def _corrupt(stored: Stored) -> Broken:
    return Broken("storage-corrupt", f"crls: {stored.id} does not hold what was put there")
