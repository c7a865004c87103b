"""How a status table passes from one writer to the next."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.errors import Rejected, Unavailable
from infra.state import sync_folder, unusable
from ocsp.table.layout import (
    BOOT_AT,
    CHUNK,
    CLEAN_AT,
    COUNTER_AT,
    FLAGS,
    GENERATION_AT,
    ISSUER_COUNT_AT,
    LIVE,
    PAGE,
    RETIRED_AT,
    REVOCATION_WORDS,
    RING,
    SEGMENTS_AT,
    Missing,
    OtherVersion,
    Table,
    lock_path,
    new_header,
)
from ocsp.table.reader import WHOLE_FILE

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> bytes:
    """Which run of the machine's kernel this is: 16 octets; random where that cannot be told."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return secrets.token_bytes(16)


def locked(path: Path) -> int:
    """Take the writer's lock; it is held until its descriptor is closed. Errors: ``state-locked``
    and those of the state folder."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, WHOLE_FILE)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise Unavailable(
                "state-locked", f"another process writes the status table {path}; stop it"
            ) from error
        raise unusable(path, error) from error
    return lock


def standing(path: Path) -> Table | None:
    """The table that is there, of this version. Errors: ``not-a-status-table``,
    ``status-table-corrupt`` and those of the state folder."""
    try:
        return Table.open(path, write=True)
    except (Missing, OtherVersion):
        return None


@contextmanager
def retiring(path: Path) -> Iterator[None]:
    """Tell the readers of the file that is at this path, if any, that another has replaced it."""
    try:
        old = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        yield
        os.pwrite(old, (1).to_bytes(8, sys.byteorder), 8 * RETIRED_AT)
    finally:
        os.close(old)


def create(path: Path, room: int, slots: int) -> None:
    """Put an empty table at this path, whole or not at all. Errors: ``bad-table-size`` and those of
    the state folder."""
    least = SEGMENTS_AT + 16 * slots + 8 * REVOCATION_WORDS * CHUNK
    if slots < 2 or slots & (slots - 1) or room < least or room % PAGE:
        raise Rejected(
            "bad-table-size",
            f"slots: a power of 2, here {slots}; room: a multiple of {PAGE}, at least {least}",
        )
    temporary = path.with_name(f".{path.name}.new")
    try:
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, room)
            os.posix_fallocate(file, 0, SEGMENTS_AT + 16 * slots)
            counter = secrets.randbits(60)
            os.pwrite(file, new_header(room, slots, secrets.token_bytes(32), counter), 0)
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unusable(path, error) from error


def begin(table: Table, boot: bytes) -> None:
    """Take a table over; on the disk too it is not closed, before anything else is there."""
    words = table.words
    if not words[CLEAN_AT]:
        # A status may have been changed and not announced, a directory turned and not told.
        words[COUNTER_AT] += RING
        words[GENERATION_AT] += 1
    end_live(table)
    words[CLEAN_AT] = 0
    words[BOOT_AT : BOOT_AT + 2] = memoryview(array("Q", boot))
    table.flush(PAGE)


def end_live(table: Table) -> None:
    """No issuer is live from here on."""
    for number in range(table.words[ISSUER_COUNT_AT]):
        table.words[table.of_issuer(number, FLAGS)] &= ~LIVE
