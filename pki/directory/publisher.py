"""Keeps one directory equal to the ledger: follows its changes, and writes what they come to.

The ledger is its own outbox (``pki.ledger``): what was published is one number, kept by the store.
An entry is made anew as a whole from what the ledger says now, so whatever is done twice, late or
after an interruption comes to the same. Invariants:

- one entry is written by one task at a time, from what the ledger said after the write before it;
- the number that is kept is never beyond what the directory has;
- an entry that the directory refuses keeps none of the others waiting; it is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Final, Protocol

from infra.errors import Failure
from infra.store.port import Collection, Conflict, Document, Store
from pki.directory.authorities import container_entries
from pki.directory.entries import NOT_AFTER, SERIAL_NUMBER, Entry, Rules, Wanted, subject_of
from pki.directory.places import Place, Repository, places
from pki.directory.process import Connections
from pki.directory.result import Outcome
from pki.directory.source import DUE, Source
from pki.record import Record, micros

PLACED: Final = Collection("directory_placed")
"""By directory and name, the fingerprint of the entry of a CA or CRL that was written."""

BATCH: Final = 128
_PAGES: Final = 64  # of a batch each, until others may write
_LOOK: Final = 1.0  # seconds between two looks at what does not call
_REMEMBER: Final = 1.0
_SWEEP: Final = timedelta(hours=1)
_AGAIN: Final = 5.0  # seconds until a sweep that failed is tried again
_REFUSED: Final = timedelta(hours=1)  # until a refused entry is tried again
_LAST: Final = 5.0  # seconds for what is under way when it is told to end
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 60.0

_log = logging.getLogger(__name__)


class Clock(Protocol):
    """The time, as in ``infra.clock``."""

    def now(self) -> datetime:
        """Now, in UTC."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a directory stands. ``applied``: the last change that it shows; ``behind``: changes that
    it does not; ``lag``: seconds since the oldest of them; ``failing``: why it is not written to;
    ``refused``: entries that it does not take; ``left_out``: CRLs that are too large for it."""

    applied: int
    behind: int
    lag: float
    failing: str
    why: str
    entries: int
    failures: int
    refused: int
    left_out: tuple[str, ...]


class Publisher:
    """Publishes into the directory ``name``.

    ``max_crl``: octets; ``written``: entries so far; ``rounds``: how often it has found nothing
    left to do.
    """

    def __init__(
        self,
        name: str,
        connections: Connections,
        rules: Rules,
        source: Source,
        repository: Repository,
        store: Store,
        *,
        max_crl: int,
    ) -> None:
        self.name = name
        self.connections = connections
        self.rules = rules
        self.source = source
        self.repository = repository
        self._store = store
        self._max_crl = max_crl
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._applied = 0
        self._remembered = self._next_look = self._next_sweep = 0.0
        self._oldest: datetime | None = None
        self._swept: datetime | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._failure: Failure | None = None
        self._unswept: Failure | None = None
        self.written = self.rounds = self._failures = 0
        self._left_out: tuple[str, ...] = ()
        self._placed: dict[str, str] = {}
        self._ready = self._stopping = False

    async def start(self) -> None:
        """Follow the ledger from now on, and catch up with what has happened before."""
        self._applied = await self._store.cursor(self._cursor)
        self.source.ledger.follow(self._changed)
        self._task = asyncio.create_task(self._run(), name=f"directory-{self.name}")

    async def stop(self) -> None:
        """End it; what was not published is when it starts again."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            tasks = [task for task in (self._task, self._sweeping) if task is not None]
            await asyncio.wait(tasks, timeout=_LAST)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(Failure):
                await self._store.acknowledge(self._cursor, self._applied)
        await self.connections.close()

    @property
    def failing(self) -> str:
        """The code of why the directory is not written to, empty if it is."""
        failure = self._failure or self._unswept
        return "" if failure is None else failure.code

    async def standing(self) -> Standing:
        """How the directory stands now."""
        now = self.source.ledger.now()
        refused = await self._store.find(DUE, "due", (self.name,), low=micros(now), limit=10_000)
        last = await self.source.ledger.sequence()
        failure = self._failure or self._unswept
        return Standing(
            applied=self._applied,
            behind=max(0, last - self._applied),
            lag=max(0.0, (now - self._oldest).total_seconds()) if self._oldest else 0.0,
            failing=self.failing,
            why="" if failure is None else failure.detail,
            entries=self.written,
            failures=self._failures,
            refused=len(refused),
            left_out=self._left_out,
        )

    async def mend(self, subjects: Sequence[str]) -> None:
        """Make the entries of these subjects what they are to be now.

        Errors: those of ``pki.directory.ldap``; then some may be made.
        """
        async with self._writing:
            await self._write(subjects, await self.source.wanted(self.rules, subjects))

    async def remove(self, dns: Sequence[str]) -> None:
        """Remove entries that belong to nobody. Errors: as ``mend``."""
        async with self._writing:
            outcomes = await self.connections.apply([Wanted(None, (dn,)) for dn in dns])
        for outcome in outcomes:
            if outcome.code:
                _log.warning("directory %s keeps an entry: %s", self.name, outcome.code)

    async def prepare(self) -> None:
        """Make the branches of the tree. Errors: those of ``pki.directory.ldap``."""
        if not self._ready:
            await self.connections.ensure(container_entries(self.rules.tree))
            self._ready = True

    def wake(self) -> None:
        """Something is due."""
        self._next_look = 0.0
        self._wake.set()

    async def places(self) -> list[Place]:
        """The entries of CAs and CRLs that are to be."""
        found = await places(
            self.rules.tree,
            self.repository,
            self.source.ledger,
            self.rules.profiles,
            max_crl=self._max_crl,
        )
        self._left_out = tuple(place.name for place in found if place.too_large)
        return found

    async def place(self, place: Place) -> Entry:
        """Write the entry of a CA or CRL. Errors: as ``mend``; ``directory-schema``."""
        entry = await asyncio.to_thread(place.build)
        async with self._writing:
            [outcome] = await self.connections.apply([Wanted(entry)])
        if outcome.code:
            _log.error("directory %s refuses %s: %s", self.name, place.name, outcome.detail)
            return entry
        body: Document = {"fingerprint": place.fingerprint}
        await self.source.put([(PLACED, f"{self.name}/{place.name}", body)])
        self._placed[place.name] = place.fingerprint
        return entry

    async def placed(self) -> set[str]:
        """The names of all CAs and CRLs that were ever written here."""
        prefix = f"{self.name}/"
        found = [stored.id async for stored in self._store.scan(PLACED)]
        return {id.removeprefix(prefix) for id in found if id.startswith(prefix)}

    @property
    def _cursor(self) -> str:
        return f"directory/{self.name}"

    def _changed(self, record: Record) -> None:
        self._wake.set()

    async def _run(self) -> None:
        tries = 0
        while not self._stopping:
            try:
                await self.prepare()
                await self._catch_up()
                await self._look()
            except Failure as failure:
                self._fails(failure)
                pause = min(_FIRST_PAUSE * 2**tries, _LONGEST_PAUSE)
                tries = min(tries + 1, 20)
                # Many publishers do not come back at the same moment.
                await self._pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                continue
            except Exception:
                _log.exception("directory %s met a mistake in this program", self.name)
                await self._pause(_LONGEST_PAUSE)
                continue
            if self._failure is not None:
                _log.info("directory %s is written to again", self.name)
            self._failure, tries = None, 0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK)
            self._wake.clear()

    async def _look(self) -> None:
        """See to what does not call, once in a while."""
        if monotonic() < self._next_look:
            return
        self._next_look = monotonic() + _LOOK
        await self._do_due()
        await self._put_places()
        self._begin_sweep()
        self.rounds += 1

    async def _pause(self, seconds: float) -> None:
        """Let the directory be, whatever changes meanwhile, unless this is to end."""
        end = monotonic() + seconds
        while not self._stopping and (left := end - monotonic()) > 0:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)
        self._wake.set()

    def _fails(self, failure: Failure) -> None:
        if self._failure is None or self._failure.code != failure.code:
            _log.error("directory %s waits: %s", self.name, failure)
        self._failure, self._ready, self._next_look = failure, False, 0.0
        self._failures += 1

    async def _catch_up(self) -> None:
        while not self._stopping and await self._follow_on():
            pass

    async def _follow_on(self) -> bool:
        """Publish some pages of changes; whether there may be more. While one is written, the
        next is made: it is written after it, and from what the ledger said later."""
        ledger = self.source.ledger
        async with self._writing:
            writing: asyncio.Task[None] | None = None
            after, page = self._applied, list[Record]()
            try:
                for _ in range(_PAGES):
                    page = await ledger.changed(after, limit=BATCH)
                    if not page or self._stopping:
                        break
                    after = page[-1].sequence
                    if self._oldest is None:
                        self._oldest = page[0].changed_at
                    subjects = await self.source.concerned(self.rules, page)
                    wanted = await self.source.wanted(self.rules, subjects)
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._publish(page, subjects, wanted))
            finally:
                if writing is not None:
                    await writing
        if not page:
            self._oldest = None
        return bool(page)

    async def _publish(
        self, page: Sequence[Record], subjects: Sequence[str], wanted: Sequence[Wanted]
    ) -> None:
        await self._write(subjects, wanted)
        self._applied, self._oldest = page[-1].sequence, page[-1].changed_at
        if monotonic() - self._remembered > _REMEMBER:
            await self._store.acknowledge(self._cursor, self._applied)
            self._remembered = monotonic()

    async def _write(self, subjects: Sequence[str], wanted: Sequence[Wanted]) -> None:
        if not wanted:
            return
        outcomes = await self.connections.apply(wanted)
        self.written += len(wanted)
        for subject, outcome in zip(subjects, outcomes, strict=True):
            if outcome.code:
                await self._refused(subject, outcome)

    async def _do_due(self) -> None:
        while True:
            now = self.source.ledger.now()
            found = await self._store.find(
                DUE, "due", (self.name,), low=0, high=micros(now), limit=BATCH
            )
            if not found:
                return
            # What the directory refuses again is put off by ``mend``, so its version is another.
            await self.mend([str(stored.body["subject"]) for stored in found])
            for stored in found:
                with suppress(Conflict):
                    await self._store.replace(DUE, stored, {"subject": stored.body["subject"]})

    async def _put_places(self) -> None:
        for place in await self.places():
            if self._placed.get(place.name) == place.fingerprint:
                continue
            known = await self._store.get(PLACED, f"{self.name}/{place.name}")
            if known is None or known.body["fingerprint"] != place.fingerprint:
                await self.place(place)
            else:
                self._placed[place.name] = place.fingerprint

    def _begin_sweep(self) -> None:
        """Sweep beside what goes on, when it is time: it may take long in a large directory."""
        due = self._swept is None or self.source.ledger.now() - self._swept >= _SWEEP
        if self._stopping or not due or monotonic() < self._next_sweep:
            return
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep(), name=f"sweep-{self.name}")

    async def _sweep(self) -> None:
        """Take out what has expired: nothing in the ledger changes when it does."""
        now = self.source.ledger.now()
        try:
            if not self.rules.retention.expired:
                await self._take_out_expired(now)
        except Failure as failure:
            _log.error("directory %s keeps what has expired: %s", self.name, failure)
            self._unswept, self._swept = failure, None
            self._next_sweep = monotonic() + _AGAIN
        else:
            self._unswept, self._swept = None, now

    async def _take_out_expired(self, now: datetime) -> None:
        filter = f"({NOT_AFTER}<={now:%Y%m%d%H%M%SZ})"
        search = self.connections.search(self.rules.tree.base, filter, (SERIAL_NUMBER,))
        names = list(self.repository.issuers)
        async with aclosing(search) as pages:
            async for page in pages:
                if self._stopping:
                    return
                records = [await self.source.record_of(names, found) for _, found in page]
                subjects = dict.fromkeys(subject_of(record) for record in records if record)
                await self.mend(list(subjects))

    async def _refused(self, subject: str, outcome: Outcome) -> None:
        id = self.rules.id(subject)
        _log.warning("directory %s refuses entry %s: %s", self.name, id, outcome.detail)
        self._failures += 1
        body: Document = {
            "directory": self.name,
            "subject": subject,
            "at": micros(self.source.ledger.now() + _REFUSED),
            "code": outcome.code,
        }
        await self.source.put([(DUE, f"{self.name}/{id}", body)])
