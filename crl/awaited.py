"""A series whose CRLs are signed elsewhere: none is made here, but it is told when one is due."""

from __future__ import annotations

from datetime import timedelta

from crl.series import Series
from infra.clock import Clock
from infra.errors import Unavailable


class Awaited:
    """Stands where ``crl.schedule.Schedule`` does for a series that is made here.

    ``failures``: attempts that failed, of which there are none here.
    """

    failures = 0

    def __init__(self, series: Series, clock: Clock, *, overlap: timedelta) -> None:
        """``overlap``: how long before its nextUpdate a CRL is to be followed."""
        self._series = series
        self._clock = clock
        self._overlap = overlap
        self._reached = 0

    @property
    def failing(self) -> str | None:
        """``no-crl-yet``, ``crl-import-due`` when the current one ends soon or the ledger has
        changed since, or None."""
        try:
            current = self._series.current()
        except Unavailable as error:
            return error.code
        if current.final:
            return None
        overlap = min(self._overlap, (current.next_update - current.this_update) / 2)
        ends = self._clock.now() >= current.next_update - overlap
        return "crl-import-due" if ends or current.sequence < self._reached else None

    async def start(self, sequence: int) -> None:
        """``sequence``: the ledger's newest change of what the series covers."""
        self._reached = sequence

    def changed(self, sequence: int) -> None:
        """A certificate was revoked, held or released: a CRL is due."""
        self._reached = sequence

    async def caught_up(self, sequence: int) -> None:
        """Nobody waits for what is signed elsewhere."""

    async def stop(self) -> None:
        """There is nothing to stop."""
