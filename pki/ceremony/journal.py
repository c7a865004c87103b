"""The transcript's file: only ever appended to, on the disk before anything follows from it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.clock import Clock
from infra.errors import Rejected
from infra.state import sync_folder, unusable
from pki.ceremony.transcript import MAXIMUM_SIZE, NOTHING, Entry, Kind, lines_of, parse_entry


class Journal:
    """The entries so far, and the file that takes the next.

    ``torn``: octets after the last whole line, which a power loss has left and which were cut off:
    an entry counts once its line is whole on the disk.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or make the file. Errors: ``bad-transcript``; those of the file system."""
        self.path = path
        self._clock = clock
        try:
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if new:
                sync_folder(path.parent)
            data = path.read_bytes()
        except OSError as error:
            raise unusable(path, error) from error
        if len(data) > MAXIMUM_SIZE:
            raise Rejected("bad-transcript", f"{path} is larger than any ceremony")
        self.entries = [parse_entry(line) for line in lines_of(data)]
        previous = NOTHING
        for number, entry in enumerate(self.entries):
            if (entry.number, entry.previous) != (number, previous):
                raise Rejected(
                    "bad-transcript", f"{path}: entry {number} does not follow the one before it"
                )
            previous = entry.digest
        whole = data.rfind(b"\n") + 1
        self.torn = len(data) - whole
        os.ftruncate(self._file, whole)
        self._size = whole

    def draft(self, kind: Kind, body: Mapping[str, Any]) -> Entry:
        """The entry that would come next."""
        at = self._clock.now()
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        previous = self.entries[-1].digest if self.entries else NOTHING
        return Entry(len(self.entries), previous, at, kind, body)

    def append(self, entry: Entry) -> Entry:
        """Write an entry; on return it is on the disk. Errors: ``Unavailable``."""
        parse_entry(entry.line)  # nothing is written that could not be read again
        data = entry.line + b"\n"
        try:
            # What an earlier attempt has left half-written is written over.
            os.ftruncate(self._file, self._size)
            if os.pwrite(self._file, data, self._size) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            raise unusable(self.path, error) from error
        self._size += len(data)
        self.entries.append(entry)
        return entry

    def write(self, kind: Kind, body: Mapping[str, Any]) -> Entry:
        """Write an entry that nobody signs."""
        return self.append(self.draft(kind, body))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
