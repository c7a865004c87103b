"""Keeps the status table of the CA's own process equal to its ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ocsp.table import TableReader, TableWriter
from ocsp.tree_head import TreeHead
from pki.record import Record, State
from pki.status import Unknown


class Changes(Protocol):
    """The ledger, as whoever follows it needs it (``pki.ledger.Ledger``)."""

    async def changed(self, after: int, *, limit: int = ...) -> list[Record]: ...

    async def sequence(self) -> int:
        """The number of the newest change."""

    def follow(self, listener: Callable[[Record], None], /) -> None:
        """Call ``listener`` with each change, before whoever asked for it hears of it."""

    @property
    def reached(self) -> int:
        """Every change up to this sequence number has been told to the listeners."""


class Leaves(Protocol):
    """The ledger's log (``pki.log.log.Log``)."""

    @property
    def size(self) -> int: ...

    @property
    def mark(self) -> tuple[int, bytes]:
        """The size, and a hash over all leaves."""

    async def mark_at(self, size: int, /) -> bytes:
        """The hash over the first ``size`` leaves."""


class FromLedger:
    """A status table that follows the ledger, whose log this is, in the same process."""

    def __init__(self, ledger: Changes, log: Leaves, table: TableWriter) -> None:
        self._ledger = ledger
        self._log = log
        self._table = table

    async def is_other(self) -> bool:
        """Whether the table holds what this ledger need not know: it is a copy from before, or one
        that went on elsewhere, and the table is to be begun anew."""
        known = self._table.head
        if self._table.newest > await self._ledger.sequence() or known.size > self._log.size:
            return True
        # Here the head has a running hash for a root: that costs nothing at each change.
        return known.size > 0 and await self._log.mark_at(known.size) != known.root

    async def start(self) -> None:
        """Write down what the ledger has beyond the table, and from now on each change."""
        self._know()
        self._ledger.follow(self._put)
        after = self._table.applied
        while page := await self._ledger.changed(after):
            for record in page:
                self._put(record)
            after = page[-1].sequence
        self._table.applied = after

    def reader(self) -> TableReader:
        """A reader of the table, in this process."""
        return self._table.reader()

    async def remember(self) -> None:
        """Note how far the table is, so that the next ``start`` is short."""
        self._table.applied = max(self._table.applied, self._ledger.reached)

    def _put(self, record: Record) -> None:
        if record.state is State.issued:
            # First, so that whatever is in the table is known of by its number (``Table.newest``).
            self._table.reach(record.sequence)
            self._know()
            status = record.status
            if not isinstance(status, Unknown):
                self._table.put(record.ca, record.serial, status)

    def _know(self) -> None:
        """Keep what the log is now, with the acts of all changes that were told so far."""
        mark = TreeHead(*self._log.mark)
        if mark != self._table.head:
            self._table.head = mark
