"""Media between machines: one expected file comes in, known files go out, nothing else passes."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infra.errors import Rejected
from infra.state import sync_folder

MAXIMUM_SIZE: Final = 64 * 1024  # octets of a file that comes in

# What formatting a medium leaves on it.
_HARMLESS: Final = frozenset({"lost+found", "System Volume Information"})


def read_medium(folder: Path) -> bytes:
    """The one file on a medium. Errors: ``bad-medium`` for anything beside it, and for what is no
    plain file of at most 64 KiB."""
    names = _names(folder)
    if len(names) != 1:
        raise _bad(folder, f"it holds {len(names)} things, and one file is expected on it")
    path = folder / names[0]
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _bad(folder, f"{names[0]!r} is no plain file")
            content = file.read(MAXIMUM_SIZE + 1)
    except OSError as error:
        raise _bad(folder, f"{names[0]!r} cannot be read: {error.strerror}") from error
    if not content or len(content) > MAXIMUM_SIZE:
        raise _bad(folder, f"{names[0]!r} is empty or has more than {MAXIMUM_SIZE} octets")
    return content


def write_medium(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a medium that holds nothing else, and read them back. Errors:
    ``bad-medium``."""
    others = sorted(set(_names(folder)) - set(files))
    if others:
        raise _bad(folder, f"it is not empty: {', '.join(map(repr, others[:5]))}")
    for name, content in files.items():
        path = folder / name
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if path.read_bytes() != content:
                raise _bad(folder, f"{name} does not read back as it was written")
        except OSError as error:
            raise _bad(folder, f"{name} cannot be written: {error.strerror}") from error
    sync_folder(folder)


def _names(folder: Path) -> list[str]:
    if not folder.is_absolute():
        raise Rejected("bad-medium", "name the folder of the medium from / on")
    try:
        return sorted({path.name for path in folder.iterdir()} - _HARMLESS)
    except OSError as error:
        raise _bad(folder, error.strerror or "it cannot be read") from error


def _bad(folder: Path, why: str) -> Rejected:
    return Rejected("bad-medium", f"{folder}: {why}; nothing was taken from it or put on it")
