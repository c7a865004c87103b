"""The CRLs of an instance: a series for each CA and for each of its partitions, kept current."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from conf.schema import Crl
from crl.from_ledger import FromLedger
from crl.history import Kind, Publication
from crl.http import delta_url
from crl.schedule import Schedule, Timing
from crl.scope import Scope
from crl.series import COLLECTIONS as SERIES
from crl.series import Recorder, Series, Surroundings
from crl.source import Part
from crl.terms import Terms
from crl.upkeep import Upkeep
from infra.clock import Clock
from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.store.port import Collection, Conflict, Duplicate
from infra.store.sqlite import SqliteStore
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.lint import Linter
from pki.partition import partition_url
from pki.record import Record
from pki.signer.port import Signer

PARTITIONS: Final = Collection("crl_partitions")
"""How many partitions a CA has ever had: what was issued into them needs their CRLs."""

COLLECTIONS: Final = (*SERIES, PARTITIONS)

FOLDER: Final = Path("crl")
"""Where, in the state folder, the files are."""

LAST_CRL: Final = timedelta(seconds=10)
"""How long an instance that is told to stop waits for the CRLs of its last changes."""

# The state folder belongs to one process at a time, so whoever opens it is the same node, and may
# go on at once where a process that was killed has stopped.
_HOLDER: Final = "node"
_TOGETHER: Final = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A series and what keeps it current."""

    ca: str
    partition: str | None
    series: Series
    upkeep: Upkeep
    schedule: Schedule


class Crls:
    """All series, by the names of their scopes: ``issuing``, ``issuing.17``."""

    def __init__(
        self,
        settings: Crl,
        home: Path,
        ledger: Ledger,
        store: SqliteStore,
        clock: Clock,
        recorder: Recorder,
        *,
        linter: Linter | None,
        gather: bool,
        step: Callable[[str], None] = lambda step: None,
    ) -> None:
        """``gather``: whether revocations are gathered for a while; ``step``: called with each
        step that is done, for crash tests."""
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._around = Surroundings(
            FromLedger(ledger, store),
            store,
            home / FOLDER,
            clock,
            recorder,
            _HOLDER,
            linter=linter,
            checkpoint=step,
        )
        self._terms = Terms(
            lifetime=settings.lifetime,
            delta_lifetime=settings.delta_lifetime,
            retention=settings.retention,
            keep=settings.keep,
            keep_for=settings.keep_for,
            lease=settings.lease,
        )
        self._timing = Timing(settings.overlap, settings.debounce if gather else timedelta(0))
        self._kept: dict[str, Kept] = {}

    @property
    def series(self) -> Mapping[str, Series]:
        """For whoever serves them."""
        return {name: kept.series for name, kept in self._kept.items()}

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept.values())

    def of(self, name: str) -> Kept:
        """A series by the name of its scope. Errors: ``no-such-authority``."""
        kept = self._kept.get(name)
        if kept is None:
            raise Rejected("no-such-authority", f"no CA or partition {name!r} has its CRLs here")
        return kept

    @property
    def failing(self) -> dict[str, str]:
        """The series whose newest CRL could not be made, with the codes of why."""
        return {
            name: kept.schedule.failing
            for name, kept in self._kept.items()
            if kept.schedule.failing is not None
        }

    @asynccontextmanager
    async def of_authority(self, issuer: Issuer, signer: Signer) -> AsyncIterator[None]:
        """Keep the CRLs of this CA current while the block runs, and when it ends once more.

        A CA that answers has a CRL from its first moment on; those of new partitions follow soon.
        Errors: those of making a CRL.
        """
        count = await self._partitions(issuer) if issuer.chain else 0
        made = [self._make(issuer, signer, None, alone=not count)]
        made += [self._make(issuer, signer, str(n + 1), alone=False) for n in range(count)]
        whole = made[0]
        await whole.series.recover()
        if not self._is_there(whole):
            await whole.upkeep.issue()
        for at in range(1, len(made), _TOGETHER):
            await asyncio.gather(*(one.series.recover() for one in made[at : at + _TOGETHER]))
        started: list[Kept] = []
        try:
            for one in made:
                self._kept[one.series.name] = one
                reached = await self._ledger.status_sequence(one.ca, one.partition)
                await one.schedule.start(reached)
                started.append(one)
            yield
        finally:
            await asyncio.gather(*(self._last(one) for one in started))

    def changed(self, record: Record) -> None:
        """A certificate was revoked, held or released: a CRL is due."""
        self._kept[_name(record.ca, record.partition)].schedule.changed()

    async def issue(self, name: str, kind: Kind, *, final: bool) -> list[Publication]:
        """Make a CRL now. With a full one comes a delta where there are delta CRLs, and a final
        one is made for every partition of a CA, too.

        Errors: ``no-such-authority``, ``no-delta-crls``, and those of ``Series``.
        """
        kept = self.of(name)
        deltas = kept.series.scope.delta_url is not None
        if kind is Kind.delta:
            if not deltas:
                raise Rejected(
                    "no-delta-crls",
                    f"{name} has no delta CRLs; turn them on with the setting crl.delta",
                )
            return [await kept.series.issue_delta()]
        if final:
            whole = kept.partition is None
            same = [one for one in self if one.ca == kept.ca and (whole or one is kept)]
            return [await one.series.issue_full(final=True) for one in same]
        made = await kept.series.issue_full()
        return [made, await kept.series.issue_delta()] if deltas else [made]

    def _make(self, issuer: Issuer, signer: Signer, partition: str | None, *, alone: bool) -> Kept:
        url = issuer.crl_url if partition is None else partition_url(issuer.crl_url, partition)
        scope = Scope(
            _name(issuer.name, partition),
            (Part(issuer.name, issuer.subject, partition),),
            # A CRL of all that a CA has issued need not say so (RFC 5280 §5.2.5).
            url=None if alone else url,
            delta_url=delta_url(url) if self._settings.delta else None,
        )
        series = Series(scope, issuer, signer, self._around, self._terms)
        upkeep = Upkeep(series, self._clock, overlap=self._timing.overlap)
        return Kept(
            issuer.name, partition, series, upkeep, Schedule(upkeep, self._clock, self._timing)
        )

    def _is_there(self, kept: Kept) -> bool:
        try:
            kept.upkeep.current()
        except Unavailable:
            return False
        return True

    async def _partitions(self, issuer: Issuer) -> int:
        """How many partitions this CA has, or has ever had."""
        wanted = self._settings.partitions
        while True:
            stored = await self._store.get(PARTITIONS, issuer.name)
            known = stored.body["count"] if stored is not None else 0
            if not isinstance(known, int):
                raise Broken("storage-corrupt", f"crl_partitions: {issuer.name} has no count")
            if wanted <= known:
                return known
            try:
                if stored is None:
                    await self._store.insert(PARTITIONS, issuer.name, {"count": wanted})
                else:
                    await self._store.replace(PARTITIONS, stored, {"count": wanted})
            except (Conflict, Duplicate):
                continue
            return wanted

    async def _last(self, kept: Kept) -> None:
        """Before an instance ends, its CRLs show every change that it made."""
        try:
            async with asyncio.timeout(LAST_CRL.total_seconds()):
                reached = await self._ledger.status_sequence(kept.ca, kept.partition)
                await kept.schedule.caught_up(reached)
        except (Failure, TimeoutError) as error:
            # The next run makes it: the ledger knows that one is due.
            _log.error("%s ends without a CRL of its last changes: %s", kept.series.name, error)
        await kept.schedule.stop()


def _name(ca: str, partition: str | None) -> str:
    return ca if partition is None else f"{ca}.{partition}"
