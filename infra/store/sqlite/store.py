"""The store: changes go to the writer's queue, reads run where they are called."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from threading import Event as Flag
from typing import Any, Final

import msgspec

from infra.errors import Broken, Rejected
from infra.store.port import (
    Announced,
    Collection,
    Document,
    Event,
    Key,
    New,
    Replacement,
    Stored,
)
from infra.store.sqlite.database import (
    back_up,
    close_writer,
    open_copy,
    open_reader,
    open_writer,
    translated,
)
from infra.store.sqlite.errors import corrupt, read_only, unavailable
from infra.store.sqlite.schema import (
    ACKNOWLEDGE,
    FORGET,
    MAX_EVENTS,
    MAX_ROWS,
    Batch,
    Table,
    check_key,
    check_text,
    decode,
    encode_document,
)
from infra.store.sqlite.writer import Change, Unit, Writer

_BACKLOG: Final = 4096  # changes that may wait for the writer; later callers wait their turn
_PAGE: Final = 1000  # rows read before others on the event loop get a turn
_FORGET_PAGE: Final = 10_000  # outbox entries dropped in one transaction
_UNIT_ROWS: Final = MAX_ROWS - MAX_EVENTS  # a unit that has so many takes no further document
_UNIT_OCTETS: Final = 1 << 20


class SqliteStore:
    """``infra.store.port.Store`` in one SQLite file, written by this process alone.

    Write-ahead log, ``synchronous=FULL``: a change has been synced to the disk when its call
    returns. Reads run on the event loop's thread; one takes microseconds, and sees every change
    whose call has returned.
    """

    def __init__(
        self,
        path: Path,
        tables: Sequence[Table],
        batch: Batch,
        connections: tuple[sqlite3.Connection | None, sqlite3.Connection],
        busy_timeout: float,
    ) -> None:
        writer, self._reader = connections
        self._path = path
        self._busy_timeout = busy_timeout
        self._tables = {table.collection.name: table for table in tables}
        self._batch = batch
        self._writer = None if writer is None else Writer(writer, batch, path)
        self._numbers = count(1)
        self._turns = asyncio.Semaphore(_BACKLOG)
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, collections: Sequence[Collection], *, busy_timeout: float = 5.0
    ) -> SqliteStore:
        """Open the database at ``path``, made or brought up to date as need be.

        ``collections``: all that will be used; a new one or a new index is added and filled.
        ``busy_timeout``: seconds to wait while another process holds the lock. Errors: those of
        the port; ``storage-too-new``, ``storage-foreign``; ``storage-duplicate`` when a new unique
        index meets documents that share a value.
        """
        tables = [Table(collection, n) for n, collection in enumerate(collections)]
        batch = Batch(tables)
        writer = await asyncio.to_thread(open_writer, path, tables, busy_timeout)
        try:
            reader = open_reader(path, busy_timeout)
        except BaseException:
            close_writer(writer)
            raise
        return cls(path, tables, batch, (writer, reader), busy_timeout)

    @classmethod
    async def open_copy(
        cls, path: Path, collections: Sequence[Collection], *, check: bool = False
    ) -> SqliteStore:
        """A copy that ``backup`` made, wherever it has been since, to be read only: nothing is
        written, not even beside it. ``check``: look through all of it first.

        Errors: ``storage-corrupt``, ``storage-foreign``, ``storage-too-new``; of every change
        ``storage-read-only``; ``storage-broken`` where it has no such collection.
        """
        tables = [Table(collection, n) for n, collection in enumerate(collections)]
        reader = await asyncio.to_thread(open_copy, path, check=check)
        return cls(path, tables, Batch(tables), (None, reader), 0.0)

    async def insert(
        self, collection: Collection, id: str, body: Document, events: Sequence[Event] = ()
    ) -> Stored:
        change = self._change()
        unit = Unit(change)
        self._lay(unit, collection, New(id, body, tuple(events)))
        await self._commit(change, (unit,))
        return Stored(id, 1, body)

    async def insert_many(self, collection: Collection, documents: Sequence[New]) -> None:
        await self.write([(collection, new) for new in documents])

    async def replace(
        self, collection: Collection, before: Stored, body: Document, events: Sequence[Event] = ()
    ) -> Stored:
        change = self._change()
        unit = Unit(change)
        self._lay(unit, collection, Replacement(before, body, tuple(events)))
        await self._commit(change, (unit,))
        return Stored(before.id, before.version + 1, body)

    async def write(self, changes: Sequence[tuple[Collection, New | Replacement]]) -> None:
        if not changes:
            return
        change = self._change()
        units = [Unit(change)]
        for collection, what in changes:
            if len(units[-1].rows) >= _UNIT_ROWS or units[-1].octets >= _UNIT_OCTETS:
                units.append(Unit(change))
            self._lay(units[-1], collection, what)
        change.left = len(units)
        await self._commit(change, units)

    async def get(self, collection: Collection, id: str) -> Stored | None:
        rows = self._read(self._table(collection).get_sql, (check_text(id),))
        if not rows:
            return None
        version, body = rows[0]
        return Stored(id, version, self._decode(body))

    async def find(
        self,
        collection: Collection,
        index: str,
        equal: Sequence[Key] = (),
        *,
        low: Key | None = None,
        high: Key | None = None,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[Stored]:
        table = self._table(collection)
        for key in (*equal, low, high):
            if key is not None:
                check_key(index, key)
        found: list[Stored] = []
        after: list[Any] = []
        while (page := min(limit - len(found), _PAGE)) > 0:
            bounds = [key for key in (low, high) if key is not None]
            sql = table.find_sql(
                index,
                equal=len(equal),
                low=low is not None,
                high=high is not None,
                reverse=reverse,
                after=bool(after),
            )
            rows = self._read(sql, (*equal, *bounds, *after, page))
            found += [Stored(id, version, self._decode(body)) for _, id, version, body in rows]
            if len(rows) < page or len(found) >= limit:
                break
            last = found[-1].body
            fields = table.indexes[index].fields[len(equal) :]
            after = [*(last[field] for field in fields), rows[-1][0]]
            # Where the page before ended is the tighter bound; with both, SQLite may seek by the
            # other one and pass over all the pages before.
            low, high = (low, None) if reverse else (None, high)
            await asyncio.sleep(0)
        return found

    async def keys(
        self,
        collection: Collection,
        index: str,
        fields: Sequence[str],
        equal: Sequence[Key] = (),
        *,
        low: Key | None = None,
        high: Key | None = None,
        page: int = _PAGE,
    ) -> AsyncIterator[list[tuple[Key, ...]]]:
        table = self._table(collection)
        for key in (*equal, low, high):
            if key is not None:
                check_key(index, key)
        after: tuple[Any, ...] = ()
        while True:
            bounds = [key for key in (low, high) if key is not None]
            sql = table.keys_sql(
                index,
                fields,
                equal=len(equal),
                low=low is not None,
                high=high is not None,
                after=bool(after),
            )
            rows = self._read(sql, (*equal, *bounds, *after, page))
            if rows:
                yield rows
            if len(rows) < page:
                return
            places = [fields.index(field) for field in table.indexes[index].fields[len(equal) :]]
            after, low = tuple(rows[-1][place] for place in places), None
            await asyncio.sleep(0)

    async def scan(self, collection: Collection, *, page: int = _PAGE) -> AsyncIterator[Stored]:
        table = self._table(collection)
        rows = self._read(table.first_page_sql, (page,))
        while rows:
            for _, id, version, body in rows:
                yield Stored(id, version, self._decode(body))
            if len(rows) < page:
                return
            await asyncio.sleep(0)
            rows = self._read(table.next_page_sql, (rows[-1][1], page))

    async def count(self, collection: Collection) -> int:
        return self._number(self._table(collection).count_sql)

    async def events(self, after: int, *, limit: int = 1000) -> list[Announced]:
        rows = self._read(
            "SELECT offset, topic, key, body FROM outbox WHERE offset > ? ORDER BY offset LIMIT ?",
            (after, max(limit, 0)),
        )
        return [
            Announced(offset, Event(topic, key, self._decode(body)))
            for offset, topic, key, body in rows
        ]

    async def cursor(self, consumer: str) -> int:
        return self._number(
            "SELECT coalesce((SELECT offset FROM cursors WHERE consumer = ?), 0)",
            check_text(consumer),
        )

    async def acknowledge(self, consumer: str, offset: int) -> None:
        change = self._change()
        row = self._batch.row(ACKNOWLEDGE, change.number, check_text(consumer), offset)
        await self._commit(change, (Unit(change, [row]),))

    async def forget_events(self, up_to: int) -> None:
        first = self._number("SELECT coalesce(min(offset), 0) FROM outbox")
        last = self._number("SELECT coalesce(max(offset), 0) FROM outbox")
        up_to = min(up_to, last)
        while first and first <= up_to:
            first += _FORGET_PAGE
            change = self._change()
            row = self._batch.row(FORGET, change.number, "", min(first - 1, up_to))
            await self._commit(change, (Unit(change, [row]),))

    async def backup(self, path: Path) -> None:
        """Copy the database as it stands to the new file ``path``, while work goes on.

        The copy is a database of its own, complete and compact, and appears only when it is whole.
        Errors: ``backup-exists``; the port's, about the target.
        """
        self._check_open()
        await copy_database(self._path, path, busy_timeout=self._busy_timeout)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._reader.close()
        if self._writer is not None:
            await self._writer.stop()

    def _table(self, collection: Collection) -> Table:
        table = self._tables.get(collection.name)
        if table is None:
            raise Broken(
                "bad-collection", f"{collection.name} was not named when the store was opened"
            )
        return table

    def _change(self) -> Change:
        return Change(next(self._numbers), asyncio.get_running_loop().create_future())

    def _lay(self, unit: Unit, collection: Collection, what: New | Replacement) -> None:
        """Add the rows of a document and of its events to the unit."""
        table, body, events = self._table(collection), what.body, what.events
        if isinstance(what, New):
            kind, id, version = table.insert_kind, what.id, 1
        else:
            kind, id, version = table.replace_kind, what.before.id, what.before.version
        encoded = encode_document(body)
        number = unit.change.number
        unit.rows.append(
            self._batch.row(kind, number, check_text(id), version, encoded, table.keys(body))
        )
        unit.octets += len(encoded)
        if len(events) > MAX_EVENTS:
            raise Rejected("too-many-events", f"a change carries at most {MAX_EVENTS} events")
        for event in events:
            announced, size = self._batch.event_row(number, event)
            unit.rows.append(announced)
            unit.octets += size

    async def _commit(self, change: Change, units: Sequence[Unit]) -> None:
        # Without a wait while there are turns left, so calls are queued in the order made.
        await self._turns.acquire()
        try:
            self._check_open()
            if self._writer is None:
                raise read_only(self._path)
            self._writer.submit(units)
            await change.waiter
        finally:
            self._turns.release()

    def _check_open(self) -> None:
        if self._closed:
            raise unavailable(self._path, "the store is closed")

    def _read(self, sql: str, values: Sequence[object]) -> list[Any]:
        self._check_open()
        with translated(self._path):
            return self._reader.execute(sql, values).fetchall()

    def _number(self, sql: str, *values: object) -> int:
        ((number,),) = self._read(sql, values)
        return int(number)

    def _decode(self, body: bytes) -> Document:
        try:
            return decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise corrupt(self._path, f"a document in it: {error}") from error


async def copy_database(source: Path, target: Path, *, busy_timeout: float = 5.0) -> None:
    """What ``SqliteStore.backup`` does, of a database that need not be open here."""
    stop = Flag()
    copying = asyncio.ensure_future(
        asyncio.to_thread(back_up, source, target, busy_timeout, stop.is_set)
    )
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        # A thread cannot be cancelled, and the process would wait for it when it ends.
        stop.set()
        await asyncio.wait([copying])
        copying.exception()
        raise
