"""What of a home folder goes into a backup: what cannot be derived, and what its settings name."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from cli.backup.file import LEDGER, NOT_KEPT, allowed
from conf.kinds import Secret
from conf.load import FILE_NAME
from conf.schema import Settings
from infra.errors import Rejected, Unavailable

CRLS: Final = "crl"
STATE: Final = (FILE_NAME, CRLS, "authorities", "ceremonies", "responders")
PRIVATE: Final = ("backups", "keys", "secrets", "softhsm", "tokens")
"""Keys, and what opens them; ``tokens``, ``backups``: those of ceremonies."""

PRIVATE_SETTINGS: Final = ("keys.folder", "http.tls_key", "directory.key", "slapd.tls_key")
NOT_STATE: Final = ("keys.module", "store.path")

MAX_SMALL: Final = 256 << 20
"""Octets of all files together that are neither ledger nor CRLs."""

_ATTEMPTS: Final = 50
_PAUSE: Final = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Contents:
    """Names in the home folder. ``small``: files that are read as they are at one moment;
    ``crls``: files that never change; ``left_out``: what is nowhere said to be ours, or is no
    file (a folder with a slash at its end), and what settings name elsewhere."""

    small: tuple[str, ...]
    crls: tuple[str, ...]
    left_out: tuple[str, ...]


def choose(settings: Settings, *, with_keys: bool) -> Contents:
    """What goes into a backup of this home folder. Errors: ``OSError``."""
    kept, private, elsewhere = _roots(settings)
    if not with_keys:
        kept, private = kept - private, private | set(PRIVATE)
    else:
        kept |= private | set(PRIVATE)
        private = set()
    small: list[str] = []
    crls: list[str] = []
    left_out = [str(path) for path in elsewhere if path.exists()]
    ledger = os.path.relpath(os.path.normpath(settings.store.path), settings.home)
    for name, is_file in _walk(settings.home, "", kept | private | {ledger}):
        if _within(name, private) or name == ledger or name.startswith(f"{ledger}-"):
            continue
        if not is_file or not _within(name, kept) or not allowed(name) or name == LEDGER:
            left_out.append(name)
        else:
            (crls if name.startswith(f"{CRLS}/") else small).append(name)
    return Contents(tuple(small), tuple(crls), tuple(left_out))


def read_settled(settings: Settings, *, with_keys: bool) -> tuple[Contents, dict[str, bytes]]:
    """The contents, and the small files as they were at one moment.

    A token writes its files in place; so they are read again until nothing has changed. Errors:
    ``backup-busy``, ``backup-too-large``, ``OSError``.
    """
    for _ in range(_ATTEMPTS):
        try:
            before = choose(settings, with_keys=with_keys)
            seen = _seen(settings.home, before.small)
            if sum(size for _, size, _ in seen) > MAX_SMALL:
                raise Rejected(
                    "backup-too-large",
                    f"keys, secrets and settings take more than {MAX_SMALL} octets; something "
                    "else lies in their folders",
                )
            read = {name: _read(settings.home / name) for name in before.small}
            after = choose(settings, with_keys=with_keys)
            if before.small == after.small and seen == _seen(settings.home, after.small):
                return after, read
        except FileNotFoundError:
            continue
        time.sleep(_PAUSE)
    raise Unavailable("backup-busy", "keys or settings keep changing; try again later")


def _read(path: Path) -> bytes:
    # Not through a link that was put there since it was looked at: root may be reading.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        return file.read()


def _seen(home: Path, names: Sequence[str]) -> list[tuple[int, int, int]]:
    about = [(home / name).lstat() for name in names]
    return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in about]


def _roots(settings: Settings) -> tuple[set[str], set[str], list[Path]]:
    """Files and folders in the home folder that make the instance: public and private ones; and
    what settings name elsewhere."""
    kept, private, elsewhere = set(STATE), set[str](), list[Path]()
    for section in fields(settings):
        values = getattr(settings, section.name)
        for field in fields(values) if section.name != "home" else ():
            key, value = f"{section.name}.{field.name}", getattr(values, field.name)
            secret = isinstance(value, Secret) and value.scheme == "file"
            path = Path(value.location) if secret else value
            if key in NOT_STATE or not isinstance(path, Path):
                continue
            name = os.path.relpath(os.path.normpath(path), settings.home)
            if name.startswith(".."):
                elsewhere.append(path)
            elif name != ".":
                (private if secret or key in PRIVATE_SETTINGS else kept).add(name)
    return kept, private, elsewhere


def _walk(home: Path, folder: str, roots: set[str]) -> Iterator[tuple[str, bool]]:
    """Names with whether they are files, in order; of folders without roots only their own."""
    with os.scandir(home / folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{folder}/{entry.name}" if folder else entry.name
        # What begins with a dot is a draft, and has its name as soon as it is whole.
        if entry.name.startswith(".") or (not folder and name in NOT_KEPT):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield name, stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode)
        elif _within(name, roots) or any(root.startswith(f"{name}/") for root in roots):
            yield from _walk(home, name, roots)
        else:
            yield f"{name}/", False


def _within(name: str, roots: set[str]) -> bool:
    parts = name.rstrip("/").split("/")
    return any("/".join(parts[:depth]) in roots for depth in range(1, len(parts) + 1))
