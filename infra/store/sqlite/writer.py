"""Group commit: one thread that applies whatever is waiting in one transaction.

Changes are applied in the order in which they were submitted. Everything that the caller's thread
can do (encoding, checking, laying out rows) is done before; this thread binds, steps once for a
whole batch, and reports the outcomes to the event loop in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep
from typing import Final, TypeAlias

from infra.errors import Broken, Failure, Unavailable
from infra.store.port import Conflict, Duplicate
from infra.store.sqlite.database import close_writer
from infra.store.sqlite.errors import translate
from infra.store.sqlite.schema import MAX_DOCUMENT, MAX_ROWS, Batch, Row

# While many callers are at it, a batch waits a moment for more of them: the sync costs the same for
# one as for all. With a few, the moment would only be lost: each of them waits for its own.
_GATHER: Final = 0.0005  # seconds
_FEW: Final = 5  # rows of the last batch
_MAX_OCTETS: Final = MAX_DOCUMENT  # of a batch; a single larger unit still goes, alone
_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Change:
    """What one caller waits for; ``left`` of its units are not committed yet."""

    number: int
    waiter: asyncio.Future[None]
    left: int = 1
    failure: Failure | None = field(default=None)


@dataclass(slots=True, eq=False)
class Unit:
    """Rows that belong into one transaction: documents, each with its outbox entries."""

    change: Change
    rows: list[Row] = field(default_factory=list)
    octets: int = 0


Outcome: TypeAlias = "tuple[Change, Failure | None]"


class Writer:
    """The thread, its connection and its queue."""

    def __init__(
        self, connection: sqlite3.Connection, batch: Batch, path: Path, name: str = "store-writer"
    ) -> None:
        self._connection = connection
        self._batch = batch
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Unit | None] = SimpleQueue()
        self._refused: dict[int, Duplicate | Conflict] = {}
        self._held: Unit | None = None
        self._last = 0  # rows of the last batch
        self._stopping = False
        self._stopped = self._loop.create_future()
        connection.create_function("report", 4, self._report)
        for sql in batch.setup_sql():
            connection.execute(sql)
        self._max_rows = min(
            MAX_ROWS,
            connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(batch.columns) - 1,
        )
        # A daemon, so that a process that forgot to close the store can end: what was
        # acknowledged is safe at any moment.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, units: Sequence[Unit]) -> None:
        """Queue ``units`` behind everything that is there; their change's waiter hears of it."""
        for unit in units:
            self._queue.put(unit)

    async def stop(self) -> None:
        """Finish what is queued, checkpoint, close the connection and end the thread."""
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def _run(self) -> None:
        try:
            while units := self._collect():
                self._last = sum(len(unit.rows) for unit in units)
                try:
                    outcomes = self._outcomes(units)
                except BaseException as error:  # nobody may wait for ever, whatever happens here
                    _LOG.exception("the writer of %s", self._path)
                    outcomes = _fail(units, translate(Exception(repr(error)), self._path), error)
                self._settle(outcomes)
        finally:
            try:
                close_writer(self._connection)
            except sqlite3.Error:
                _LOG.exception("closing %s", self._path)
            self._call(self._finish)

    def _collect(self) -> list[Unit]:
        """What is waiting, up to a batch, or at least one unit; nothing once it is the end."""
        unit = self._held or self._queue.get()
        self._held = None
        if self._last > _FEW:
            sleep(_GATHER)
        units: list[Unit] = []
        rows = octets = 0
        while unit is not None:
            rows += len(unit.rows)
            octets += unit.octets
            if units and (rows > self._max_rows or octets > _MAX_OCTETS):
                self._held = unit
                break
            units.append(unit)
            try:
                unit = self._queue.get_nowait()
            except Empty:
                break
        else:
            if units:  # the end comes after these
                self._queue.put(None)
        return units

    def _outcomes(self, units: list[Unit]) -> list[Outcome]:
        """What became of each change that is finished now. Raises nothing."""
        # A change that failed has been answered; what is left of it is not to be applied.
        units = [unit for unit in units if unit.change.failure is None]
        try:
            return self._commit(units)
        except Exception as error:
            failure = self._recover(error)
            if isinstance(failure, Broken) and failure.code == "storage-broken" and len(units) > 1:
                # Something about one of them that nobody foresaw: let it fail alone.
                return [outcome for unit in units for outcome in self._outcomes([unit])]
            return _fail(units, failure, error)

    def _commit(self, units: list[Unit]) -> list[Outcome]:
        if not units:
            return []
        self._refused = {}
        sql, values = self._batch.statement([row for unit in units for row in unit.rows])
        self._connection.execute(sql, values)
        if self._connection.in_transaction:
            raise Broken("storage-broken", "a batch was left uncommitted")
        outcomes: list[Outcome] = []
        for unit in units:
            change = unit.change
            if self._refused and change.number in self._refused:
                if change.failure is None:
                    change.failure = self._refused[change.number]
                    outcomes.append((change, change.failure))
                continue
            change.left -= 1
            if not change.left:
                outcomes.append((change, None))
        return outcomes

    def _report(self, change: int, collection: str, id: str, index: str) -> None:
        """Called at the end of a batch for each change that was refused, with the document that
        was; ``index``: the one that holds its value already, empty if its version was old."""
        self._refused[change] = (
            Duplicate(collection, id, index) if index else Conflict(collection, id)
        )

    def _recover(self, error: Exception) -> Failure:
        """Leave no transaction behind, whatever happened."""
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
        failure = translate(error, self._path)
        _LOG.error("%s", failure, exc_info=error if isinstance(failure, Broken) else None)
        return failure

    def _settle(self, outcomes: list[Outcome]) -> None:
        if outcomes:
            self._call(_answer, outcomes)

    def _call(self, function: object, *arguments: object) -> None:
        # The loop may be closed by someone who did not close the store: nobody is waiting then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]

    def _finish(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)


def _fail(units: list[Unit], failure: Failure, cause: BaseException) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for change in dict.fromkeys(unit.change for unit in units):
        # One exception each: raising the same one in many tasks would pile up their tracebacks.
        if isinstance(failure, Unavailable):
            change.failure = Unavailable(
                failure.code, failure.detail, retry_after=failure.retry_after
            )
        else:
            change.failure = Broken(failure.code, failure.detail)
        change.failure.__cause__ = cause
        outcomes.append((change, change.failure))
    return outcomes


def _answer(outcomes: list[Outcome]) -> None:
    """On the event loop: wake the callers; one that was cancelled meanwhile is past caring."""
    for change, failure in outcomes:
        if change.waiter.done():
            continue
        if failure is None:
            change.waiter.set_result(None)
        else:
            change.waiter.set_exception(failure)
