"""Which CRL of a series is due next, for ``crl.schedule.Schedule``: a delta after a change, a full
one before the current one runs out or when too much has changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from crl.contents import Anew, require_coverage
from crl.history import Kind, Publication
from crl.series import Series
from infra.clock import Clock
from infra.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Standing:
    """How current a series is: it shows every change up to ``sequence``; the times are those of
    the CRL that runs out first."""

    sequence: int
    this_update: datetime
    next_update: datetime


class Upkeep:
    """Makes what is due. ``overlap``: how long before its nextUpdate a full CRL is followed."""

    def __init__(self, series: Series, clock: Clock, *, overlap: timedelta) -> None:
        self._series = series
        self._clock = clock
        self._overlap = overlap

    @property
    def name(self) -> str:
        """The name of the scope."""
        return self._series.name

    def current(self) -> Standing:
        """Errors: ``Unavailable("no-crl-yet")`` when one that should be there is not, or covers
        what the series covered before its settings were changed."""
        found: list[Publication] = [self._full()]
        if self._deltas:
            found.append(self._series.current(Kind.delta))
        first = min(found, key=lambda crl: crl.next_update)
        sequence = max(crl.sequence for crl in found)
        return Standing(sequence, first.this_update, first.next_update)

    async def issue(self) -> Standing:
        """Make what is due now and publish it; after a full CRL a delta, so that the one before,
        which starts from an older base, is not looked at any more. Errors: as ``Series``."""
        if not self._deltas or self._full_is_due():
            await self._series.issue_full()
        if self._deltas:
            try:
                await self._series.issue_delta()
            except Anew:
                await self._series.issue_full()
                await self._series.issue_delta()
        return self.current()

    def _full(self) -> Publication:
        full = self._series.current(Kind.full)
        try:
            if not full.final:
                require_coverage(self._series.scope, full)
        except Anew as error:
            raise Unavailable("no-crl-yet", error.detail, retry_after=1) from error
        return full

    @property
    def _deltas(self) -> bool:
        if self._series.scope.delta_url is None:
            return False
        try:
            return not self._series.current(Kind.full).final
        except Unavailable:
            return True

    def _full_is_due(self) -> bool:
        try:
            full = self._full()
        except Unavailable:
            return True
        overlap = min(self._overlap, (full.next_update - full.this_update) / 2)
        return self._clock.now() >= full.next_update - overlap
