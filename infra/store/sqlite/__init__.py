"""The document store in one SQLite file: the embedded default."""

from infra.store.sqlite.store import SqliteStore, copy_database

__all__ = ["SqliteStore", "copy_database"]
