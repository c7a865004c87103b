"""The state folder: one process at a time, readable by its owner alone."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.errors import Rejected, Unavailable

ADMIN_SOCKET: Final = Path("run", "admin.sock")
"""Where, in the state folder, its process takes orders from its owner."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the state folder, made if need be, against other processes.

    The lock is the kernel's (flock): it goes with the process, however that ends. Errors:
    ``state-locked``, ``storage-read-only``, ``storage-full``, ``state-unusable``.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(folder, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise Unavailable(
                "state-locked",
                f"{folder} is in use by process {holder}; stop it, or use its API",
            ) from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise unusable(folder, error) from error
        yield
    finally:
        os.close(lock)


def kept_secret(path: Path, octets: int = 32) -> str:
    """The secret in this file, made at random on first use; only its owner may read it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(octets) + "\n")
                file.flush()
                os.fsync(file.fileno())
            # link, not rename: of two processes at the same moment the first one's secret stays.
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
            sync_folder(path.parent)
        return path.read_text().strip()
    except OSError as error:
        raise unusable(path, error) from error


def node_name(folder: Path) -> str:
    """A name that no other node has: the same after each start, so that a node goes on where it
    was killed, and another one for a copy of the folder. Errors: as ``kept_secret``."""
    path = folder / "node"
    name = kept_secret(path, 9)
    try:
        return f"{socket.gethostname()}/{name}/{path.stat().st_ino:x}"
    except OSError as error:
        raise unusable(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive power loss. Errors: ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(path: Path, error: OSError) -> Rejected | Unavailable:
    """What an error of the file system under the state folder means."""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Unavailable(
            "storage-read-only", f"{path} cannot be written; give this user write access to it"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable("storage-full", f"there is no room for {path}; make room and try again")
    return Rejected("state-unusable", f"{path} cannot be used: {error.strerror}")
