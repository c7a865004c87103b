"""From SQLite's result codes to ours."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from infra.errors import Broken, Failure, Unavailable

_BUSY: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
}
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_READ_ONLY: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_ROOM: Final = 1 << 20  # with less than this free, a failed write is taken to be a full disk


def full(path: Path) -> Unavailable:
    return Unavailable(
        "storage-full",
        f"no room left to write to {path}; free some space, nothing that was acknowledged is lost",
    )


def read_only(path: Path) -> Unavailable:
    return Unavailable(
        "storage-read-only",
        f"{path} and its folder must be writable for this user; check owner, mode and mount",
    )


def unavailable(path: Path, reason: str) -> Unavailable:
    return Unavailable("storage-unavailable", f"{path}: {reason}")


def corrupt(path: Path, reason: str) -> Broken:
    return Broken(
        "storage-corrupt",
        f"{path} is damaged or no database ({reason}); stop, keep a copy, restore the last backup",
    )


def translate(error: Exception, path: Path) -> Failure:
    """The failure that a vendor's ``error`` on the database at ``path`` stands for."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, OSError):
        return _from_system(error, path)
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return Broken("storage-broken", f"{path}: {type(error).__name__}: {error}")
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return full(path)
    if primary in _READ_ONLY or (primary == sqlite3.SQLITE_CANTOPEN and not writable(path)):
        return read_only(path)
    if primary in _CORRUPT:
        return corrupt(path, str(error))
    if primary in _BUSY:
        return unavailable(path, "another process holds its lock; close that one and try again")
    if primary == sqlite3.SQLITE_IOERR and _no_room(path):
        # Quotas and the shared-memory file report a full disk as an input/output error.
        return full(path)
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM):
        return unavailable(path, f"{error} ({getattr(error, 'sqlite_errorname', code)})")
    return Broken("storage-broken", f"{path}: {type(error).__name__}: {error}")


def writable(path: Path) -> bool:
    """Whether this process may write the database file, or make it when it is not there."""
    folder = path.parent
    return os.access(folder, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.W_OK))


def _no_room(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _ROOM


def _from_system(error: OSError, path: Path) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(path)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return read_only(path)
    return unavailable(path, str(error))
