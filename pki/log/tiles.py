"""The tree cut into tiles of 256 hashes (C2SP tlog-tiles).

Entry i of tile n at level l is the root over 256 ** l leaves; level 0 holds the leaf hashes. A
tile is written once, when it is full; what is not full yet is the tail, and stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pki.log.merkle import HASH_SIZE, Node, fold, peaks, root_of

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT


class TileId(NamedTuple):
    """Tile ``number`` of ``level``, both from 0."""

    level: int
    number: int

    def __str__(self) -> str:
        return f"{self.level:02d}/{self.number:012d}"


class Place(NamedTuple):
    """Where the leaves of a perfect subtree are: entries ``start`` to ``end - 1`` of a tile."""

    tile: TileId
    start: int
    end: int


class FullTile(NamedTuple):
    """A tile that has just been filled: 256 hashes of 32 octets."""

    id: TileId
    hashes: tuple[bytes, ...]


def place(node: Node) -> Place:
    """The tile entries from which the hash of ``node`` is made."""
    level, height = divmod(node.height, HEIGHT)
    first = node.number << height
    start = first % WIDTH
    return Place(TileId(level, first // WIDTH), start, start + (1 << height))


def cut(data: bytes) -> tuple[bytes, ...]:
    """The hashes of a stored tile, one after the other."""
    return tuple(data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE))


class Tail:
    """The tiles that are not full yet, one a level, and with them the root of the tree.

    Immutable: ``grow`` returns the tail after. Invariant: ``levels[l]`` holds
    ``size // 256 ** l % 256`` hashes.
    """

    __slots__ = ("levels", "size")

    def __init__(self, size: int = 0, levels: Iterable[Sequence[bytes]] = ()) -> None:
        self.size = size
        self.levels = tuple(tuple(level) for level in levels) or ((),)
        for number, level in enumerate(self.levels):
            if len(level) != (size >> HEIGHT * number) % WIDTH:
                raise ValueError(f"the tail of {size} leaves has another width at level {number}")

    def grow(self, hashes: Sequence[bytes]) -> tuple[Tail, list[FullTile]]:
        """The tail after these leaf hashes, and the tiles that they filled, in the order in
        which they are to be written: a tile after the one above it, so that after a crash
        whoever finds a tile can rely on everything that was made from it."""
        levels = [list(level) for level in self.levels]
        full: list[FullTile] = []
        at = 0
        while at < len(hashes):
            room = WIDTH - len(levels[0])
            levels[0] += hashes[at : at + room]
            at += room
            if len(levels[0]) == WIDTH:
                full += self._carry(levels, (self.size + min(at, len(hashes))) // WIDTH - 1)
        return Tail(self.size + len(hashes), levels), full

    @staticmethod
    def _carry(levels: list[list[bytes]], number: int) -> list[FullTile]:
        full: list[FullTile] = []
        level = 0
        while len(levels[level]) == WIDTH:
            hashes = tuple(levels[level])
            full.insert(0, FullTile(TileId(level, number), hashes))
            levels[level] = []
            level += 1
            if level == len(levels):
                levels.append([])
            levels[level].append(root_of(hashes))
            number //= WIDTH
        return full

    def root(self) -> bytes:
        """MTH of all leaves (RFC 6962 §2.1)."""
        return fold([peak for level in reversed(self.levels) for peak in peaks(level)])

    def partial(self, tile: TileId) -> tuple[bytes, ...] | None:
        """What the tail holds of this tile; nothing when it is full or lies beyond the tree."""
        if tile.level < len(self.levels) and tile.number == self.size >> HEIGHT * (tile.level + 1):
            return self.levels[tile.level]
        return None
