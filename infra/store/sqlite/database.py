"""The database file: made, brought up to date, opened for writing and for reading."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from infra.errors import Broken, Rejected
from infra.store.sqlite.errors import corrupt, read_only, translate, writable
from infra.store.sqlite.schema import (
    APPLICATION_ID,
    COMMON_TABLES,
    SCHEMA_VERSION,
    Table,
    decode,
)

# Pages of 4 KiB. Rows of random keys touch the same index pages again and again, and a page that
# changed many times since the last checkpoint is copied once; the price is a longer stall.
_CHECKPOINT_PAGES: Final = 16_000
_LOG_LIMIT: Final = 96 * 1024 * 1024  # octets; a log that outgrew this is cut back
_BACKFILL_PAGE: Final = 1000
_STEPS: Final = 100_000  # of SQLite's machine, between two looks at whether to stop


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system raise into our failures."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path) from error


def make_file(path: Path) -> None:
    """An empty file of mode 0600 in a folder that, if it is made here, has 0700.

    SQLite gives its journal the mode of the database file.
    """
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync(folder.parent)
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _sync(path.parent)
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)


def open_writer(path: Path, tables: Sequence[Table], busy_timeout: float) -> sqlite3.Connection:
    """The one connection that writes, on a database that has all ``tables`` and their indexes.

    ``busy_timeout``: seconds to wait for another process's lock. Errors: ``storage-…``.
    """
    with translated(path):
        if not writable(path) and path.parent.exists():
            raise read_only(path)
        make_file(path)
        connection = sqlite3.connect(
            path, timeout=busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA cache_size = -65536")
            _recognise(connection, path)
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise Broken("storage-broken", f"{path}: no write-ahead log, only {mode}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
            _bring_up_to_date(connection, tables)
        except BaseException:
            connection.close()
            raise
        return connection


def open_reader(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """A connection that cannot write."""
    with translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA cache_size = -16384")
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection


def close_writer(connection: sqlite3.Connection) -> None:
    """Move the log into the database, cut it to nothing, and let go of the file."""
    try:
        # A full disk or another process may keep this from happening; the log then stays, whole.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


def open_copy(path: Path, *, check: bool = False) -> sqlite3.Connection:
    """A connection to a copy that ``back_up`` made and nobody writes to, wherever it has been.

    ``check``: look through all of it. Errors: ``storage-corrupt``, ``storage-foreign``,
    ``storage-too-new``.
    """
    with translated(path):
        # Not even a lock: the copy may lie where nothing can be written.
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            # What SQLite advises for files from elsewhere (sqlite.org/security.html).
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA mmap_size = 0")
            connection.execute("PRAGMA query_only = ON")
            _recognise(connection, path)
            if check:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise corrupt(path, str(found))
        except BaseException:
            connection.close()
            raise
        return connection


def back_up(
    source: Path,
    target: Path,
    busy_timeout: float,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the database as it stands to ``target``, which appears whole or not at all.

    ``stop``: asked from time to time whether to give up.
    """
    with translated(target):
        if target.exists():
            raise Rejected("backup-exists", f"{target} is there already; choose another name")
        make_file(target.parent / f"{target.name}.part")
    part = target.parent / f"{target.name}.part"
    reader = open_reader(source, busy_timeout)
    reader.set_progress_handler(stop, _STEPS)
    try:
        with translated(target):
            os.truncate(part, 0)
            reader.execute("VACUUM INTO ?", (str(part),))
            _sync(part)
            part.rename(target)
            _sync(target.parent)
    finally:
        reader.close()
        part.unlink(missing_ok=True)


def _recognise(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not ours, or is of a later version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise Rejected("storage-foreign", f"{path} is a database of another program")
    if version > SCHEMA_VERSION:
        raise Rejected(
            "storage-too-new",
            f"{path} has schema {version}, this program knows {SCHEMA_VERSION}; "
            "use the program that wrote it or a later one",
        )
    if tables:
        (found,) = connection.execute("PRAGMA schema_version").fetchone()
        if not found:
            raise corrupt(path, "its schema is empty")


def _bring_up_to_date(connection: sqlite3.Connection, tables: Sequence[Table]) -> None:
    """All of it or nothing; also shows, at start, that the file can be written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "outbox" not in names:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for sql in COMMON_TABLES:
                connection.execute(sql)
        for table in tables:
            if table.name not in names:
                connection.execute(table.create_sql())
            _index(connection, table)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _index(connection: sqlite3.Connection, table: Table) -> None:
    """Make the table's indexes what the collection says, with columns filled from the bodies."""
    wanted = {table.index_name(index): table.index_sql(index) for index in table.indexes.values()}
    there = dict(
        connection.execute(
            "SELECT name, sql FROM sqlite_master"
            " WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
            (table.name,),
        )
    )
    for name in there.keys() - {n for n, sql in wanted.items() if there.get(n) == sql}:
        connection.execute(f"DROP INDEX {name}")
    missing = {name: sql for name, sql in wanted.items() if there.get(name) != sql}
    if not missing:
        return
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
    for column in table.columns:
        if column not in columns:
            connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    # Not only new columns: one that no index named for a while was not kept up to date.
    _backfill(connection, table)
    for name, sql in missing.items():
        try:
            connection.execute(sql)
        except sqlite3.IntegrityError as error:
            raise Broken(
                "storage-duplicate", f"{name} cannot be unique: documents share a value ({error})"
            ) from error


def _backfill(connection: sqlite3.Connection, table: Table) -> None:
    assign = ", ".join(f"{column} = ?" for column in table.columns)
    position = 0
    while rows := connection.execute(
        f"SELECT position, body FROM {table.name} WHERE position > ? ORDER BY position LIMIT ?",  # noqa: S608
        (position, _BACKFILL_PAGE),
    ).fetchall():
        connection.executemany(
            f"UPDATE {table.name} SET {assign} WHERE position = ?",  # noqa: S608
            [(*table.keys(decode(body)), position) for position, body in rows],
        )
        position = rows[-1][0]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
