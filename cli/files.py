"""Files that commands read and write: with limits, whole or not at all, never over another."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from cli.output import unwritten
from infra.errors import Failure, Rejected, Unavailable

STANDARD: Final = Path("-")
"""Stands for standard input or output."""

MAX_INPUT: Final = 1 << 20
PUBLIC: Final = 0o644
PRIVATE: Final = 0o600


def read(path: Path, *, limit: int = MAX_INPUT) -> bytes:
    """The content of a file, or of standard input for ``-``; at most ``limit`` octets.
    Errors: ``Rejected`` with ``cannot-read``, ``too-large``."""
    try:
        if path == STANDARD:
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as stream:
                content = stream.read(limit + 1)
    except OSError as error:
        raise Rejected("cannot-read", f"{path}: {error.strerror}") from error
    if len(content) > limit:
        raise Rejected("too-large", f"{path}: more than {limit} octets, which is no such thing")
    return content


def check_free(path: Path, *, force: bool) -> None:
    """Refuse early what ``write`` would refuse: before anything is done that cannot be undone.
    Errors: ``Rejected`` with ``file-exists``, ``cannot-write``."""
    if path == STANDARD:
        return
    if not force and os.path.lexists(path):
        raise _exists(path)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        why = "is a folder" if path.is_dir() else "its folder is missing or cannot be written"
        raise Rejected("cannot-write", f"{path}: {why}")


def write(path: Path, content: bytes, *, force: bool, mode: int = PUBLIC) -> None:
    """Write a file as a whole, or to standard output for ``-``.

    Readers see the old content or the new, never a part. Without ``force`` a file that is there
    stays. Errors: ``Rejected`` with ``file-exists``, ``cannot-write``;
    ``Unavailable("storage-full")``.
    """
    if path == STANDARD:
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise  # which click keeps silent about
        except OSError as error:
            raise unwritten(error, sys.stdout) from error
        return
    draft = path.with_name(f".{path.name[:200]}.{os.urandom(6).hex()}")
    try:
        if force and path.exists() and not stat.S_ISREG(path.stat().st_mode):
            path.write_bytes(content)  # a device or a pipe is written to, not replaced
            return
        try:
            _write_new(draft, content, mode)
            if force:
                draft.replace(path)
            else:
                # Unlike a rename, a link fails when the name is taken meanwhile.
                os.link(draft, path)
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise _cannot_write(path, error) from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    # The umask may take rights away from a public file, and cannot give any to a private one.
    with os.fdopen(os.open(path, flags, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _exists(path: Path) -> Rejected:
    return Rejected("file-exists", f"{path} is there already; name another file or use --force")


def _cannot_write(path: Path, error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable("storage-full", f"{path}: {error.strerror}")
    return Rejected("cannot-write", f"{path}: {error.strerror}")
