"""The CRLs of an instance: a series for each CA and for each of its partitions, kept current."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from conf.schema import Crl
from crl.awaited import Awaited
from crl.from_ledger import FromLedger
from crl.history import Kind, Publication
from crl.http import delta_url
from crl.schedule import Schedule, Timing
from crl.scope import Contents, Scope
from crl.series import COLLECTIONS as SERIES
from crl.series import Series
from crl.source import Part
from crl.surroundings import Recorder, Surroundings
from crl.terms import Terms
from crl.upkeep import Upkeep
from infra.clock import Clock
from infra.errors import Broken, Failure, Rejected
from infra.store.port import Collection, Conflict, Document, Duplicate
from infra.store.sqlite import SqliteStore
from pki.hierarchy import CrlIssuer
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.lint import Linter
from pki.partition import CA_CERTIFICATES, USER_CERTIFICATES, partition_url
from pki.record import Record
from pki.signer.port import Signer

PARTITIONS: Final = Collection("crl_partitions")
"""Which partitions a CA has ever had: what was issued into them needs their CRLs."""

COLLECTIONS: Final = (*SERIES, PARTITIONS)

FOLDER: Final = Path("crl")
"""Where, in the state folder, the files are."""

LAST_CRL: Final = timedelta(seconds=10)
"""How long an instance that is told to stop waits for the CRLs of its last changes."""

_TOGETHER: Final = 32
_KINDS: Final = {
    CA_CERTIFICATES: Contents.authorities,
    USER_CERTIFICATES: Contents.users,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A series and what keeps it current; ``ca``: who signs it."""

    ca: str
    series: Series
    schedule: Schedule | Awaited

    @property
    def whole(self) -> bool:
        """Whether this is the series of the CA, and not of a partition."""
        return self.series.name == self.ca


class Crls:
    """All series, by the names of their scopes: ``issuing``, ``issuing.17``, ``root.ca``."""

    def __init__(
        self,
        settings: Crl,
        home: Path,
        ledger: Ledger,
        store: SqliteStore,
        clock: Clock,
        recorder: Recorder,
        *,
        holder: str,
        linter: Linter | None,
        gather: bool,
        step: Callable[[str], None] = lambda step: None,
    ) -> None:
        """``holder``: the name of this node, different from that of any other; ``gather``:
        whether revocations are gathered for a while; ``step``: called with each step that is
        done, for crash tests."""
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
            holder,
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
        self._by_part: dict[tuple[str, str | None], list[Kept]] = {}

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
        return self._told(Schedule)

    @property
    def awaited(self) -> dict[str, str]:
        """The series that wait for a CRL from elsewhere, with why."""
        return self._told(Awaited)

    @property
    def went_back(self) -> dict[str, int]:
        """The series that serve an older CRL than they once did, with the number of that one."""
        return {name: kept.series.newer for name, kept in self._kept.items() if kept.series.newer}

    def _told(self, kind: type[Schedule | Awaited]) -> dict[str, str]:
        return {
            name: told
            for name, kept in self._kept.items()
            if isinstance(kept.schedule, kind) and (told := kept.schedule.failing) is not None
        }

    @asynccontextmanager
    async def of_authority(self, issuer: Issuer, signer: Signer) -> AsyncIterator[None]:
        """Keep the CRLs of this CA current while the block runs, and when it ends once more.

        A CA that answers has a CRL from its first moment on, unless it signs them elsewhere; those
        of new partitions follow soon. Errors: those of making a CRL.
        """
        partitions = await self._partitions(issuer)
        scopes = [self._whole(issuer, partitions)]
        scopes += [self._scope(issuer, one) for one in partitions]
        key = None if issuer.name in self._settings.offline else signer
        async with self._current([self._make(scope, issuer, key) for scope in scopes]):
            yield

    @asynccontextmanager
    async def of_offline(self, issuer: Issuer) -> AsyncIterator[None]:
        """Publish while the block runs what a CA signs whose key never was here: one CRL of all
        that it has issued, which the ledger need not know."""
        async with self._current([self._make(self._whole(issuer, ()), issuer, None)]):
            yield

    @asynccontextmanager
    async def of_crl_issuer(self, one: CrlIssuer) -> AsyncIterator[None]:
        """The same for an indirect CRL."""
        issuer = one.issuer
        if not one.covers:
            yield
            return
        scope = Scope(
            issuer.name,
            tuple(Part(ca.name, ca.subject, issuer.name) for ca in one.covers),
            url=issuer.crl_url,
            indirect=True,
            delta_url=self._delta_url(issuer.crl_url),
            issuer_url=issuer.certificate_url,
        )
        async with self._current([self._make(scope, issuer, one.signer)]):
            yield

    def changed(self, record: Record) -> None:
        """A certificate was revoked, held or released: a CRL is due."""
        for kept in self._by_part[record.ca, record.partition]:
            kept.schedule.changed(record.sequence)

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
                    f"{name} has no delta CRLs; set crl.delta to have them",
                )
            return [await kept.series.issue_delta()]
        if final:
            same = [one for one in self if one is kept or (kept.whole and one.ca == kept.ca)]
            return [await one.series.issue_full(final=True) for one in same]
        made = await kept.series.issue_full()
        return [made, await kept.series.issue_delta()] if deltas else [made]

    def _whole(self, issuer: Issuer, partitions: Sequence[str]) -> Scope:
        """Of all that a CA has issued, which need not say so (RFC 5280 §5.2.5), and which the
        certificate of a root needs, for it names no CRL; with shards, of what is in no partition.
        """
        sharded = any(partition not in _KINDS for partition in partitions)
        listed = [None, *(() if sharded else partitions)]
        return Scope(
            issuer.name,
            tuple(Part(issuer.name, issuer.subject, partition) for partition in listed),
            url=issuer.crl_url if sharded else None,
            delta_url=self._delta_url(issuer.crl_url),
        )

    def _scope(self, issuer: Issuer, partition: str) -> Scope:
        url = partition_url(issuer.crl_url, partition)
        # What was issued into a number never was a CA's.
        contents = Contents.users if self._settings.by_kind else Contents.everybody
        return Scope(
            f"{issuer.name}.{partition}",
            (Part(issuer.name, issuer.subject, partition),),
            url=url,
            contents=_KINDS.get(partition, contents),
            delta_url=self._delta_url(url),
        )

    def _delta_url(self, url: str) -> str | None:
        return delta_url(url) if self._settings.delta else None

    def _make(self, scope: Scope, issuer: Issuer, signer: Signer | None) -> Kept:
        overlap = self._timing.overlap
        if signer is None:
            scope = replace(scope, delta_url=None)
            series = Series(scope, issuer, None, self._around, self._terms)
            return Kept(issuer.name, series, Awaited(series, self._clock, overlap=overlap))
        series = Series(scope, issuer, signer, self._around, self._terms)
        upkeep = Upkeep(series, self._clock, overlap=overlap)
        return Kept(issuer.name, series, Schedule(upkeep, self._clock, self._timing))

    @asynccontextmanager
    async def _current(self, made: Sequence[Kept]) -> AsyncIterator[None]:
        """Keep these series current, the first of them from the first moment on."""
        first = made[0]
        await first.series.recover()
        if isinstance(first.schedule, Schedule):
            await first.schedule.first()
        for at in range(1, len(made), _TOGETHER):
            await asyncio.gather(*(one.series.recover() for one in made[at : at + _TOGETHER]))
        started: list[Kept] = []
        try:
            for one in made:
                self._kept[one.series.name] = one
                for part in one.series.scope.parts:
                    self._by_part.setdefault((part.issuer, part.partition), []).append(one)
                await one.schedule.start(await self._reached(one))
                started.append(one)
            yield
        finally:
            await asyncio.gather(*(self._last(one) for one in started))

    async def _reached(self, kept: Kept) -> int:
        """The newest change of status of what a series covers."""
        parts = kept.series.scope.parts
        return max([await self._ledger.status_sequence(p.issuer, p.partition) for p in parts])

    async def _partitions(self, issuer: Issuer) -> list[str]:
        """The partitions that this CA has, or has ever had."""
        while True:
            stored = await self._store.get(PARTITIONS, issuer.name)
            known: Document = {"count": 0, "kinds": False} | (stored.body if stored else {})
            count, kinds = known["count"], known["kinds"]
            if not isinstance(count, int) or not isinstance(kinds, bool):
                raise Broken("storage-corrupt", f"crl_partitions: {issuer.name} has no count")
            count = max(count, self._settings.partitions if issuer.chain else 0)
            kinds = kinds or self._settings.by_kind
            wanted: Document = {"count": count, "kinds": kinds}
            if wanted == known:
                return [*(_KINDS if kinds else ()), *(str(n + 1) for n in range(count))]
            try:
                if stored is None:
                    await self._store.insert(PARTITIONS, issuer.name, wanted)
                else:
                    await self._store.replace(PARTITIONS, stored, wanted)
            except (Conflict, Duplicate):
                continue

    async def _last(self, kept: Kept) -> None:
        """Before an instance ends, its CRLs show every change that it made."""
        try:
            async with asyncio.timeout(LAST_CRL.total_seconds()):
                await kept.schedule.caught_up(await self._reached(kept))
        except (Failure, TimeoutError) as error:
            # The next run makes it: the ledger knows that one is due.
            _log.error("%s ends without a CRL of its last changes: %s", kept.series.name, error)
        await kept.schedule.stop()
