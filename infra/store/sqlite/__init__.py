"""The document store in one SQLite file: the embedded default."""

from infra.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
