"""Whether a home folder holds what a backup holds, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Final

from cli.backup.file import Member

NOT_IN_THE_WAY: Final = frozenset({"lock", "log", "lost+found"})
"""What an empty home folder may hold: nothing of it is in a backup."""


def in_the_way(home: Path) -> list[str]:
    """What a folder holds that is not empty. Errors: ``OSError``."""
    return sorted(entry.name for entry in home.iterdir() if entry.name not in NOT_IN_THE_WAY)


def have_names_of(home: Path, members: Mapping[str, Member]) -> bool:
    """Whether these are its files, by name and size. Errors: ``OSError``."""
    return dict(_files(home, "")) == {name: member.size for name, member in members.items()}


def have_octets_of(home: Path, members: Mapping[str, Member]) -> bool:
    """Whether its files of these names hold what the backup says. Errors: ``OSError``."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for name, member in members.items():
        with os.fdopen(os.open(home / name, flags), "rb", buffering=0) as file:
            if file_digest(file, "sha256").hexdigest() != member.sha256:
                return False
    return True


def _files(home: Path, folder: str) -> Iterator[tuple[str, int]]:
    """Every file with its size; what no restore makes, such as an empty folder, a link or a file
    that others can read, under a name that no file has."""
    with os.scandir(home / folder) as entries:
        below = [one for one in entries if folder or one.name not in NOT_IN_THE_WAY]
    if folder and not below:
        yield f"{folder}/", 0
    for entry in below:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _files(home, name)
        else:
            about = entry.stat(follow_symlinks=False)
            own = stat.S_ISREG(about.st_mode) and not about.st_mode & 0o077
            yield name if own else f"{name}/", about.st_size
