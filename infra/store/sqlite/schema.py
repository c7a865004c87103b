"""Tables, indexes, and the one statement that applies a whole batch of changes.

A collection is a table: ``position`` in order of insertion, ``id``, ``version``, ``body`` in
msgpack, and a column for each indexed field, filled from the body at each write. Its indexes are
partial, so a document that lacks a field is in none of the indexes that name it.

Every change is a row that is inserted into the temporary view ``batch``; triggers turn the row into
what it stands for. So a batch of any mixture is one INSERT, and as that runs in autocommit, one
call of ``sqlite3_step`` begins, applies, commits and syncs. That matters because Python's sqlite3
gives the interpreter lock away at each step, and a writer beside a busy event loop waits up to a
switch interval to get it back each time.

A document that is refused (its id is taken, its version is old) does not fail the statement: it
goes to the temporary table ``refused``, which keeps the rest of its change out, and the last row of
the batch reports what is there.
"""

# ruff: noqa: S608 - identifiers are checked against IDENTIFIER, values are always bound

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from infra.errors import Broken, Rejected
from infra.store.port import Collection, Document, Event, Index, Key

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x44494453  # "DIDS", in the header of the file
MAX_DOCUMENT: Final = 16 * 1024 * 1024  # octets encoded; what MongoDB takes too
IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")

Bound: TypeAlias = "int | str | bytes | bytearray | None"
Row: TypeAlias = tuple[Bound, ...]

END: Final = 0
EVENT: Final = 1
ACKNOWLEDGE: Final = 2
FORGET: Final = 3
_FIRST_TABLE: Final = 4
_UNUSED: Final = -1  # what no trigger looks at, and a kind that has none
_FIXED_COLUMNS: Final = ("kind", "change", "id", "version", "body")
# A statement is prepared once for each of these numbers of rows; the rest is padding.
_SIZES: Final = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
MAX_ROWS: Final = _SIZES[-1] - 1
MAX_EVENTS: Final = 256  # of one change, so that it fits into one statement

COMMON_TABLES: Final = (
    "CREATE TABLE outbox (offset INTEGER PRIMARY KEY AUTOINCREMENT,"
    " topic TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE cursors (consumer TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID",
)

encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
decode: Callable[[bytes], Document] = msgspec.msgpack.Decoder(dict).decode


def encode_document(body: Document) -> bytes:
    """The body as it is kept. Errors: ``bad-document``, ``document-too-large``."""
    try:
        encoded = encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Rejected("bad-document", f"this cannot be stored: {error}") from error
    if len(encoded) > MAX_DOCUMENT:
        raise Rejected(
            "document-too-large",
            f"a document has at most {MAX_DOCUMENT} octets encoded, this one {len(encoded)}",
        )
    return encoded


def check_text(text: str) -> str:
    """``text`` if it can be stored. Errors: ``bad-document`` for lone surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Rejected("bad-document", f"this text cannot be stored: {error}") from error
    return text


def check_key(field: str, value: object) -> Key:
    """``value`` if an index can hold it. Errors: ``bad-key``."""
    kind = type(value)
    if kind is str or kind is bytes:
        return value  # type: ignore[return-value]
    if kind is int and -(1 << 63) <= value < 1 << 63:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise Rejected(
        "bad-key", f"{field} is indexed: it has to be text, bytes or an integer of 64 bits"
    )


class Table:
    """A collection in SQL. ``kind``: the number of its insert rows; its replace rows have the
    next one."""

    def __init__(self, collection: Collection, position: int) -> None:
        for name in (collection.name, *(index.name for index in collection.indexes)):
            _check_identifier(name)
        self.collection = collection
        self.insert_kind = _FIRST_TABLE + 2 * position
        self.replace_kind = self.insert_kind + 1
        self.name = f"c_{collection.name}"
        self.fields = tuple(
            dict.fromkeys(chain.from_iterable(index.fields for index in collection.indexes))
        )
        for field in self.fields:
            _check_identifier(field)
        self.columns = tuple(f"f_{field}" for field in self.fields)
        self.indexes = {index.name: index for index in collection.indexes}
        if len(self.indexes) < len(collection.indexes) or not all(
            index.fields for index in collection.indexes
        ):
            raise Broken("bad-collection", f"{collection.name}: its indexes need names and fields")
        columns = f"SELECT position, id, version, body FROM {self.name}"
        self.get_sql = f"SELECT version, body FROM {self.name} WHERE id = ?"
        self.first_page_sql = f"{columns} ORDER BY id LIMIT ?"
        self.next_page_sql = f"{columns} WHERE id > ? ORDER BY id LIMIT ?"
        # The port has no way to delete, and a refused insert takes no position.
        self.count_sql = f"SELECT coalesce(max(position), 0) FROM {self.name}"
        self._find_sql: dict[tuple[str, int, bool, bool, bool, bool], str] = {}

    def keys(self, body: Document) -> list[Key | None]:
        """What the indexed columns hold for this body; None where it lacks the field."""
        return [
            None if (value := body.get(field)) is None else check_key(field, value)
            for field in self.fields
        ]

    def create_sql(self) -> str:
        columns = "".join(f", {column}" for column in self.columns)
        return (
            f"CREATE TABLE {self.name} (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
            f" version INTEGER NOT NULL, body BLOB NOT NULL{columns})"
        )

    def index_name(self, index: Index) -> str:
        return f"i_{self.collection.name}__{index.name}"

    def index_sql(self, index: Index) -> str:
        unique = "UNIQUE " if index.unique else ""
        columns = [f"f_{field}" for field in index.fields]
        present = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        return (
            f"CREATE {unique}INDEX {self.index_name(index)} ON {self.name}"
            f" ({', '.join(columns)}) WHERE {present}"
        )

    def find_sql(
        self, name: str, *, equal: int, low: bool, high: bool, reverse: bool, after: bool
    ) -> str:
        """The query for one page of ``find``; binds the equal keys, low, high, then, if ``after``,
        the keys and the position of the last row of the page before, then the limit."""
        shape = (name, equal, low, high, reverse, after)
        sql = self._find_sql.get(shape)
        if sql is None:
            sql = self._find_sql[shape] = self._build_find(*shape)
        return sql

    def keys_sql(
        self, name: str, fields: Sequence[str], *, equal: int, low: bool, high: bool, after: bool
    ) -> str:
        """The query for one page of ``keys``; binds the equal keys, low, high, then, if ``after``,
        what the last row of the page before holds of the fields after ``equal``, then the limit."""
        index = self.indexes.get(name)
        rest = () if index is None else index.fields[equal:]
        if index is None or set(rest) != set(fields):
            raise Broken("bad-query", f"{self.collection.name}: {name} does not hold {fields}")
        sql = self._build_find(name, equal, low, high, False, after)
        columns = ", ".join(f"f_{field}" for field in fields)
        sql = sql.replace("position, id, version, body", columns, 1)
        return sql.replace(", position) > (?, ", ") > (").replace(", position LIMIT", " LIMIT")

    def _build_find(
        self, name: str, equal: int, low: bool, high: bool, reverse: bool, after: bool
    ) -> str:
        index = self.indexes.get(name)
        if index is None:
            raise Broken("bad-query", f"{self.collection.name} has no index {name}")
        columns = [f"f_{field}" for field in index.fields]
        rest = columns[equal:]
        if equal > len(columns) or ((low or high) and not rest):
            raise Broken("bad-query", f"{name} has only {len(columns)} fields")
        where = [f"{column} = ?" for column in columns[:equal]]
        where += [f"{column} >= ?" for column in rest[:low]]
        where += [f"{column} < ?" for column in rest[:high]]
        # Spelt out so that SQLite sees that the partial index holds every answer.
        where += [f"{column} IS NOT NULL" for column in rest]
        order = [*rest, "position"]
        if after:
            compare = "<" if reverse else ">"
            where.append(f"({', '.join(order)}) {compare} ({', '.join('?' * len(order))})")
        direction = " DESC" if reverse else ""
        return (
            f"SELECT position, id, version, body FROM {self.name}"
            f" INDEXED BY {self.index_name(index)} WHERE {' AND '.join(where)}"
            f" ORDER BY {', '.join(column + direction for column in order)} LIMIT ?"
        )

    def _assignments(self) -> Iterator[tuple[str, str]]:
        """What a replacement may set, from the cheapest on, each with what must then be as it was.

        An UPDATE writes every index that it names a column of, whether that changes or not. The
        first leaves them all alone, the second those that last; once one of them has raised the
        version, the next finds nothing to do.
        """
        indexes = self.collection.indexes
        passing = {field for index in indexes if not index.lasting for field in index.fields}
        for changing in dict.fromkeys(map(frozenset, ((), passing, self.fields))):
            assign = same = ""
            for number, field in enumerate(self.fields):
                if field in changing:
                    assign += f", f_{field} = NEW.k{number}"
                else:
                    same += f" AND f_{field} IS NEW.k{number}"
            yield assign, same

    def trigger_sql(self) -> list[str]:
        """The two triggers that apply this collection's rows of a batch."""
        table, columns = self.name, self.columns
        keys = [f"NEW.k{n}" for n in range(len(columns))]
        reasons = "".join(
            f" WHEN EXISTS (SELECT 1 FROM {table} WHERE id IS NOT NEW.id AND "
            + " AND ".join(f"f_{field} = NEW.k{self.fields.index(field)}" for field in index.fields)
            + f") THEN '{index.name}'"
            for index in self.collection.indexes
            if index.unique
        )
        name = self.collection.name
        as_read = (
            "id = NEW.id AND version = NEW.version"
            " AND NEW.change NOT IN (SELECT change FROM refused)"
        )
        updates = "".join(
            f"UPDATE OR IGNORE {table} SET version = version + 1, body = NEW.body{assign}"
            f" WHERE {as_read}{same};"
            for assign, same in self._assignments()
        )
        insert = f"""
            INSERT OR IGNORE INTO {table} ({", ".join(("id", "version", "body", *columns))})
                SELECT {", ".join(("NEW.id", "1", "NEW.body", *keys))}
                WHERE NEW.change NOT IN (SELECT change FROM refused);
            INSERT OR IGNORE INTO refused
                SELECT NEW.change, '{name}', NEW.id, CASE
                    WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) THEN 'id'{reasons}
                    ELSE 'id' END
                WHERE changes() = 0;"""
        replace = f"""
            INSERT OR IGNORE INTO refused
                SELECT NEW.change, '{name}', NEW.id, ''
                WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {as_read});
            {updates}
            INSERT INTO refused
                SELECT NEW.change, '{name}', NEW.id, CASE WHEN FALSE THEN ''{reasons} ELSE '' END
                WHERE EXISTS (SELECT 1 FROM {table} WHERE {as_read});"""
        return [
            _trigger(f"insert_{table}", self.insert_kind, insert),
            _trigger(f"replace_{table}", self.replace_kind, replace),
        ]


class Batch:
    """The view ``batch`` on one connection: how wide its rows are and the statements to fill it."""

    def __init__(self, tables: Sequence[Table]) -> None:
        keys = max([1, *(len(table.columns) for table in tables)])
        self.columns = (*_FIXED_COLUMNS, *(f"k{n}" for n in range(keys)))
        self._tables = tables
        self._padding = [(_UNUSED,) * n for n in range(len(self.columns) + 1)]
        self._statements: dict[int, str] = {}

    def setup_sql(self) -> list[str]:
        """The temporary view, table and triggers; they need the function ``report``."""
        event = """
            INSERT INTO outbox (topic, key, body)
                SELECT NEW.id, NEW.k0, NEW.body
                WHERE NEW.change NOT IN (SELECT change FROM refused);"""
        acknowledge = """
            INSERT INTO cursors VALUES (NEW.id, NEW.version)
                ON CONFLICT (consumer) DO UPDATE SET offset = max(offset, excluded.offset);"""
        end = """
            SELECT report(change, collection, id, found) FROM refused;
            DELETE FROM refused;"""
        forget = "DELETE FROM outbox WHERE offset <= NEW.version;"
        nothing = ", ".join(f"NULL AS {column}" for column in self.columns)
        return [
            "CREATE TEMP TABLE refused (change INTEGER PRIMARY KEY, collection TEXT, id TEXT,"
            " found TEXT)",
            f"CREATE TEMP VIEW batch AS SELECT {nothing}",
            _trigger("end_batch", END, end),
            _trigger("event", EVENT, event),
            _trigger("acknowledge", ACKNOWLEDGE, acknowledge),
            _trigger("forget", FORGET, forget),
            *chain.from_iterable(table.trigger_sql() for table in self._tables),
        ]

    def row(
        self,
        kind: int,
        change: int,
        id: str,
        version: int = 0,
        body: bytes = b"",
        keys: Sequence[Key | None] = (),
    ) -> Row:
        """A row of the batch, as wide as they all are."""
        used = len(_FIXED_COLUMNS) + len(keys)
        # sqlite3 looks for an adapter of each bytes object and each None, for a bytearray or an
        # integer it does not: what is laid out so costs a fifth.
        octets = bytearray(body)
        return (kind, change, id, version, octets, *keys, *self._padding[len(self.columns) - used])

    def event_row(self, change: int, event: Event) -> tuple[Row, int]:
        """An outbox entry of the change before it, and its octets."""
        topic, key, body = check_text(event.topic), check_text(event.key), event.body
        encoded = encode_document(body)
        return self.row(EVENT, change, topic, 0, encoded, (key,)), len(encoded)

    def statement(self, rows: Sequence[Row]) -> tuple[str, list[Bound]]:
        """The statement that applies at most ``MAX_ROWS`` rows, and what to bind."""
        size = next(size for size in _SIZES if size > len(rows))
        sql = self._statements.get(size)
        if sql is None:
            values = f"({', '.join('?' * len(self.columns))})"
            sql = self._statements[size] = f"INSERT INTO batch VALUES {', '.join([values] * size)}"
        bound = list(chain.from_iterable(rows))
        bound.append(END)
        bound.extend((_UNUSED,) * (size * len(self.columns) - len(bound)))
        return sql, bound


def _trigger(name: str, kind: int, body: str) -> str:
    return (
        f"CREATE TEMP TRIGGER {name} INSTEAD OF INSERT ON batch WHEN NEW.kind = {kind}"
        f" BEGIN {body} END"
    )


def _check_identifier(name: str) -> None:
    if not IDENTIFIER.fullmatch(name):
        raise Broken(
            "bad-collection",
            f"{name!r}: collections, indexes and their fields have names of a-z, 0-9 and _",
        )
