"""Unix sockets at paths of any length, though an address takes 107 octets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MAX_SOCKET_PATH: Final = 107
"""Octets of ``sun_path`` (unix(7)) without the zero at its end."""


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for the socket ``path`` that fits into an address, while the block runs: that of its
    folder's descriptor in place of the folder's, where need be."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield str(path)
        return
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        yield f"/proc/self/fd/-1/{path.name}"
        return
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
