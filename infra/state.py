"""The state folder: one process at a time, readable by its owner alone."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from infra.errors import Rejected, Unavailable
from infra.secrets import SHORTEST_TOKEN, read_token

ADMIN_SOCKET: Final = Path("run", "admin.sock")
"""Where, in the state folder, its process takes orders from its owner."""


RESTORING: Final = Path(".restoring")
"""There, in the state folder, while a backup is restored into it, and after that was cut off."""


@contextmanager
def owned(
    folder: Path, *, within: Path | None = None, restoring: bool = False, theirs: bool = False
) -> Iterator[None]:
    """Hold the state folder, made if need be, against other processes.

    The lock is the kernel's (flock): it goes with the process, however that ends. ``within``: the
    state folder, when this is one in it; ``restoring``: whether a folder may be one that a restore
    has not finished; ``theirs``: whether it may be another user's, who gets what is made there; a
    restore may do that, too. Errors: ``state-locked``, ``state-exposed``, ``restore-unfinished``,
    ``storage-read-only``, ``storage-full``, ``state-unusable``.
    """
    try:
        for one in (folder,) if within is None else (within, folder):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (restoring or theirs):
                check_folder(one)
        # Not through a link: root may be about to write in somebody else's folder.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(folder / "lock", flags, 0o600)
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
            for path in () if restoring or theirs else folder.iterdir():
                with suppress(FileNotFoundError):  # a command had it there for a moment
                    _check_owner(path, path.lstat())
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise unusable(folder, error) from error
        if not restoring and (folder / RESTORING).exists():
            raise Rejected(
                "restore-unfinished",
                f"a restore into {folder} was cut off; run the same digitalid backup restore again",
            )
        yield
    finally:
        os.close(lock)


def check_folder(folder: Path) -> None:
    """Refuse a folder into which another user can put something. Errors: ``state-exposed``,
    ``OSError``."""
    about = folder.stat()
    _check_owner(folder, about)
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Rejected(
            "state-exposed",
            f"others than its owner can write in {folder}; see that nothing there is of theirs, "
            f"then run: chmod go-w {folder}",
        )


def _check_owner(path: Path, about: os.stat_result) -> None:
    if about.st_uid not in (0, os.geteuid()):
        raise Rejected(
            "state-exposed",
            f"{path} belongs to another user; run this as that user (number {about.st_uid}), or, "
            f"if nobody else has put anything there, run: chown -R {os.geteuid()} {path}",
        )


def kept_secret(path: Path, octets: int = 32, *, new: bool = True) -> str:
    """The secret in this file, made at random on first use; only its owner may read it.

    ``new``: whether this may be the first use. Errors: ``no-such-secret`` if it may not; those of
    ``make_secret`` and of ``infra.secrets.read_token``.
    """
    if not new and not path.exists():
        raise Rejected(
            "no-such-secret",
            f"{path} is gone, and another one would not do: put it back, from a backup",
        )
    make_secret(path, octets)
    return read_token(path, min(SHORTEST_TOKEN, octets * 4 // 3))


def make_secret(path: Path, octets: int = 32) -> None:
    """Make a secret at random in this file, unless there is one; only its owner may read it.

    Errors: ``state-exposed``, ``storage-read-only``, ``storage-full``, ``state-unusable``.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(path.parent)
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
