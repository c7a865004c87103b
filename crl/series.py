"""The CRLs of one scope, one after the other, each made from the one before it.

Reserve the number → gather the entries → write and hash → intend → sign → close → check → keep →
complete → log → put in front. Invariants:

- a number is used once and numbers only grow, whichever process makes the CRL (``crl.head``);
- nothing is signed whose hash was not written down before;
- what ``current`` gives was read back and checked, is durable and is in the log; until the next
  one is all of that, the previous one stays;
- whatever is kept to make the next CRL quickly can be lost: it is then made from the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import Final

from crl.assembly import sync
from crl.blocks import Damaged, Spill
from crl.contents import (
    Anew,
    Contents,
    TooMany,
    all_contents,
    delta_contents,
    next_contents,
    require_coverage,
)
from crl.former import FORMER, FORMER_OCTETS, former_crls, former_publication
from crl.head import CRL_HEADS, Head, Turn, current_head, milliseconds
from crl.history import CRL_RECORDS, History, Kind, Publication, State, integer
from crl.imported import reach
from crl.making import Draft, Maker, intent_of, on_disk
from crl.newer import newer_than
from crl.scope import Scope
from crl.surroundings import Surroundings
from crl.terms import CLOCK_TOLERANCE, Terms, times
from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.store.port import Event, Stored
from pki.issuer import Issuer
from pki.signer.port import Signer

COLLECTIONS: Final = (CRL_HEADS, CRL_RECORDS, FORMER, FORMER_OCTETS)

_log = logging.getLogger(__name__)


class Series:
    """Makes the CRLs of a scope, signed by ``issuer``. Call ``recover`` first."""

    def __init__(
        self,
        scope: Scope,
        issuer: Issuer,
        signer: Signer | None,
        around: Surroundings,
        terms: Terms,
    ) -> None:
        """``signer``: None when the key is kept elsewhere and its CRLs are adopted. Errors:
        ``Broken("wrong-crl-key")``."""
        self.scope = scope
        self.terms = terms
        self.history = History(around.store, around.folder, scope.name)
        self._issuer = issuer
        self._around = around
        self._maker = Maker(
            scope, issuer, signer, linter=around.linter, checkpoint=around.checkpoint
        )
        self._lock = asyncio.Lock()
        self._current: dict[Kind, Publication] = {}
        self._last: dict[Kind, Publication] = {}  # the same, though its file be lost
        self._newer = 0  # of a CRL that the ledger does not know

    @property
    def name(self) -> str:
        """The name of the scope."""
        return self.scope.name

    @property
    def newer(self) -> int:
        """The number of a newer CRL that this ledger does not know (``crl.newer``); 0 for none."""
        return self._newer

    async def recover(self) -> list[int]:
        """Take up what an earlier run left; call it once, before anything else.

        A CRL that was complete is published; an unfinished one becomes void. While another
        process makes CRLs, nothing is touched. Returns the numbers that became void.
        """
        async with self._lock:
            try:
                async with self._turn() as turn:
                    void = await self._settle(turn)
                    self._newer = await newer_than(turn.head, self.history)
                    return void
            except Unavailable as error:
                if error.code != "crl-signer-elsewhere":
                    raise
                await self.refresh()
                return []

    async def refresh(self) -> None:
        """See what other processes have published. Errors: those of the store."""
        await self._look(await current_head(self._around.store, self.name))

    def current(self, kind: Kind = Kind.full) -> Publication:
        """The CRL to serve. Errors: ``no-delta-crls``, ``Unavailable("no-crl-yet")``."""
        found = self._current.get(kind)
        if found is None and kind is Kind.delta and self.scope.delta_url is None:
            raise Rejected("no-delta-crls", f"{self.name} has no delta CRLs; ask for the full one")
        if found is None:
            raise Unavailable(
                "no-crl-yet", f"{self.name} has no {kind} CRL yet; try again", retry_after=5
            )
        return found

    async def by_number(self, number: int) -> Publication:
        """A CRL that was published. Errors: ``no-such-crl``, ``crl-not-kept``."""
        if await self.history.find(number) is None:
            path = self.history.path(number)
            return await former_publication(self._around.store, self.name, number, path)
        return await self.history.publication(number)

    async def latest(self, *, limit: int, before: int | None = None) -> list[Stored]:
        """What was made of all states, newest first; ``before``: only of smaller numbers."""
        found = await self.history.latest(limit=limit, before=before)
        if left := limit - len(found):
            store = self._around.store
            found += await former_crls(store, self.name, limit=left, before=before)
        return found

    async def issue_full(self, *, final: bool = False) -> Publication:
        """Make a full CRL (RFC 5280 §5) of what is revoked now, and publish it.

        ``final``: none follows it, and it never runs out. Errors: ``issuer-expired``,
        ``crl-series-ended``; ``Unavailable`` with ``clock-went-back``, ``crl-signer-elsewhere``,
        ``crl-turn-lost`` or what signer and store say; ``Broken("crl-check")``. After any of them
        the previous CRL stays.
        """
        async with self._lock, self._around.room, self._turn() as turn:
            await self._settle(turn)
            try:
                return await self._make(turn, Kind.full, final=final, warm=True)
            except (Damaged, Anew) as why:
                if not isinstance(why, TooMany):
                    _log.warning("%s: %s", self.name, why.detail)
            return await self._make(turn, Kind.full, final=final, warm=False)

    async def issue_delta(self) -> Publication:
        """Make a delta CRL (§5.2.4) of what changed since the current full one, and publish it.

        Errors: as ``issue_full``; ``too-many-changes``; ``Unavailable("no-crl-yet")`` before the
        first full one.
        """
        async with self._lock, self._around.room, self._turn() as turn:
            await self._settle(turn)
            return await self._make(turn, Kind.delta, final=False, warm=True)

    async def adopt(self, octets: bytes) -> Publication:
        """Publish a full CRL that was signed elsewhere, as that of a root in a ceremony.

        Errors: ``bad-crl``, ``bad-der``, ``crl-too-large``, ``bad-signature``,
        ``unknown-algorithm``, ``wrong-crl-issuer``, ``wrong-crl-scope``, ``crl-differs``,
        ``crl-number-used``, ``crl-out-of-date``, ``crl-series-ended``; ``Unavailable`` as
        ``issue_full``.
        """
        read = await asyncio.to_thread(self._maker.read, octets)
        async with self._lock, self._around.room, self._turn() as turn:
            await self._settle(turn)
            self._require_open(turn.head)
            now = self._around.clock.now()
            early = read.this_update - now > CLOCK_TOLERANCE
            old = milliseconds(read.this_update) < turn.head.this_update
            if early or old or read.next_update <= now:
                raise Rejected(
                    "crl-out-of-date",
                    f"it is from {read.this_update:%Y-%m-%dT%H:%M:%SZ} to "
                    f"{read.next_update:%Y-%m-%dT%H:%M:%SZ}; it must be newer than the current "
                    "one and hold now",
                )
            reached = await reach(self._around.source, self.scope.parts, read.tbs)
            await turn.claim(read.number)
            part = self.history.part(f"{read.number}.crl")
            await on_disk(part, part.write_bytes, octets)
            await on_disk(part, sync, part)
            intent = intent_of(read, hashlib.sha256(read.tbs.der).digest())
            last = self._last.get(Kind.full)
            at = read.this_update
            stored = await self._intend(read.number, intent, reached.sequence, at, last)
            await on_disk(part, self.history.keep, part, read.number, None)
            sha256 = hashlib.sha256(octets).digest()
            stored = await self.history.become(
                stored, State.complete, sha256=sha256, size=len(octets), layout=None
            )
            return await self._publish(turn, stored)

    def _require_open(self, head: Head) -> None:
        if head.ended:
            raise Rejected("crl-series-ended", f"CRL {head.ended} of {self.name} was the last one")

    def _turn(self) -> Turn:
        around = self._around
        return Turn(around.store, around.clock, self.name, around.holder, self.terms.lease)

    async def _settle(self, turn: Turn) -> list[int]:
        """Finish what is unfinished, so that a CRL begins with nothing open before it."""
        await on_disk(self._around.folder, self.history.prepare)
        head = turn.head
        await self._look(head)
        void = []
        for stored in await self.history.in_state(State.complete):
            number = integer(stored, "number")
            if number in (head.full, head.delta):
                await self.history.become(stored, State.published)
            elif number > max(head.full, head.delta) and not head.ended:
                await asyncio.to_thread(self.history.verify_file, self.history.described(stored))
                await self._publish(turn, stored)
            else:
                void.append(await self._void(stored, "a later CRL was published before it"))
        ended = "the process ended before it was complete"
        void += [
            await self._void(stored, ended)
            for stored in await self.history.in_state(State.intended)
        ]
        await self._look(turn.head)
        return void

    async def _look(self, head: Head) -> None:
        for kind, number in ((Kind.full, head.full), (Kind.delta, head.delta)):
            known = self._last.get(kind)
            if not number or (known is not None and known.number == number):
                continue
            stored = await self.history.find(number)
            if stored is None:
                raise Broken("storage-corrupt", f"CRL {number} of {self.name} has no document")
            found = self._last[kind] = self.history.described(stored)
            try:
                await asyncio.to_thread(self.history.verify_file, found)
            except Broken as error:  # the next one takes its place, made from the ledger
                self._current.pop(kind, None)
                _log.error("CRL %d of %s cannot be served: %s", number, self.name, error)
            else:
                self._current[kind] = found

    async def _make(self, turn: Turn, kind: Kind, *, final: bool, warm: bool) -> Publication:
        around, head = self._around, turn.head
        self._require_open(head)
        self._maker.signer  # noqa: B018 - refuses when the key is kept elsewhere
        last = self._last.get(Kind.full)
        if last is None and kind is Kind.delta:
            self.current()
        now = around.clock.now()
        this_update, next_update = times(now, head, self._issuer, self.terms, kind, final=final)
        sequence = await around.source.sequence()
        number = await turn.reserve(now)
        around.checkpoint("reserved")
        part = self.history.part(f"{number}.crl")
        stored: Stored | None = None
        with ExitStack() as files:
            try:
                spilled = files.enter_context(tempfile.TemporaryFile(dir=part.parent))
                spill = Spill(spilled, self.scope.parts, indirect=self.scope.indirect)
                draft = Draft(
                    kind=kind,
                    number=number,
                    base=last.number if last is not None and kind is Kind.delta else None,
                    this_update=this_update,
                    next_update=next_update,
                    expired_since=self.terms.expired_since(last, self._issuer),
                    contents=await self._contents(kind, last if warm else None, last, spill, files),
                )
                unsigned = await self._maker.write(part, draft)
                around.checkpoint("written")
                intent = intent_of(draft, unsigned.sha256)
                stored = await self._intend(number, intent, sequence, this_update, last)
                checked, layout = await self._maker.finish(unsigned, draft)
                kept = layout if kind is Kind.full else None
                layout_sha256 = await on_disk(part, self.history.keep, part, number, kept)
                around.checkpoint("kept")
                stored = await self.history.become(
                    stored,
                    State.complete,
                    sha256=checked.sha256,
                    size=checked.size,
                    layout=layout_sha256,
                )
            except Failure as failure:
                part.unlink(missing_ok=True)
                if stored is not None:
                    await self._try_void(stored, failure.code)
                raise
        around.checkpoint("completed")
        made = await self._publish(turn, stored)
        await self._prune(now)
        return made

    async def _intend(
        self,
        number: int,
        intent: Mapping[str, object],
        sequence: int,
        this_update: datetime,
        last: Publication | None,
    ) -> Stored:
        stored = await self.history.intend(
            number,
            {
                **intent,
                "sequence": sequence,
                "cutoff": self.terms.cutoff(this_update, last),
                "dropped_before": last.cutoff if last else 0,
                "sequence_before": last.sequence if last else 0,
                "coverage": self.scope.coverage,
            },
        )
        self._around.checkpoint("intended")
        return stored

    async def _contents(
        self,
        kind: Kind,
        warm: Publication | None,
        last: Publication | None,
        spill: Spill,
        files: ExitStack,
    ) -> Contents:
        source, scope = self._around.source, self.scope
        if warm is None:
            return await all_contents(source, scope, last, spill)
        require_coverage(scope, warm)
        if kind is Kind.delta:
            return await delta_contents(source, scope, warm, spill)
        layout = self.history.layout(warm.number, warm.layout)
        try:
            file = files.enter_context(warm.path.open("rb", buffering=0))
        except OSError as error:
            raise Damaged(f"{warm.path}: {error.strerror}") from error
        return await next_contents(source, scope, warm, layout, file, spill)

    async def _publish(self, turn: Turn, stored: Stored) -> Publication:
        """Log it, then put it in front: nothing is served that is not in the log."""
        crl = self.history.described(stored)
        detail: dict[str, str | int] = {
            "issuer": self._issuer.name,
            "scope": self.name,
            "crl_number": crl.number,
            "entries": crl.count,
            "sequence": crl.sequence,
        }
        if crl.base is not None:
            detail["base"] = crl.base
        await self._around.recorder.record("crl.issue", crl.sha256, detail, f"crl/{stored.id}")
        self._around.checkpoint("logged")
        body = {"number": crl.number, "kind": crl.kind.value, "scope": self.name}
        event = Event("crl.published", self._issuer.name, {**body})
        await turn.put_in_front(crl.kind.value, crl.number, crl.this_update, [event], end=crl.final)
        self._around.checkpoint("published")
        await self.history.become(stored, State.published)
        self._current[crl.kind] = self._last[crl.kind] = crl
        if crl.number > self._newer:
            self._newer = 0
        return crl

    async def _void(self, stored: Stored, why: str) -> int:
        number, tbs_hash = integer(stored, "number"), stored.body["tbs_hash"]
        if not isinstance(tbs_hash, bytes):
            raise Broken("storage-corrupt", f"CRL {number} of {self.name} has no hash")
        detail: dict[str, str | int] = {
            "issuer": self._issuer.name,
            "scope": self.name,
            "crl_number": number,
            "why": why,
        }
        await self._around.recorder.record("crl.void", tbs_hash, detail, f"crl-void/{stored.id}")
        self.history.discard(number)
        await self.history.become(stored, State.void, why=why)
        _log.warning("CRL %d of %s is void: %s", number, self.name, why)
        return number

    async def _try_void(self, stored: Stored, why: str) -> None:
        try:
            await self._void(stored, why)
        except Failure as failure:
            # Whatever stopped the CRL stops this, too; the next one finds the intent.
            _log.warning("CRL intent %s stays unfinished: %s", stored.id, failure.code)

    async def _prune(self, now: datetime) -> None:
        wanted = {crl.number for crl in self._last.values()}
        wanted |= {crl.base for crl in self._last.values() if crl.base is not None}
        try:
            await self.history.prune(
                now, count=self.terms.keep, age=self.terms.keep_for, wanted=wanted
            )
        except Failure as failure:  # the CRL is out; old files can go next time
            _log.warning("old CRLs of %s stay: %s", self.name, failure)
