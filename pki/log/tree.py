"""The hashes of the tree, read from and written to its stored tiles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from infra.errors import Broken
from infra.store.port import Duplicate, New, Store
from pki.log.merkle import HASH_SIZE, Span, decompose, fold, leaf_hash, root_of
from pki.log.records import LEAVES, TILES, LeafRecord, leaf_record, record_id, tile_hashes
from pki.log.tiles import HEIGHT, WIDTH, FullTile, Tail, TileId, cut, place

CACHED_TILES: Final = 128


class Tree:
    """Full tiles in the store, with the newest and the last used in memory.

    A tile is made of leaves that are durable already, so one that is not written yet, or lost in
    a crash, is made anew from what is below it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unwritten: dict[TileId, bytes] = {}
        self._cached: OrderedDict[TileId, bytes] = OrderedDict()

    def add(self, full: Iterable[FullTile]) -> None:
        """Take tiles that have just been filled; ``write`` stores them."""
        for tile in full:
            self._unwritten[tile.id] = b"".join(tile.hashes)

    async def write(self) -> None:
        """Store what is not stored yet. Errors: the store's, after which it can be tried again;
        ``Broken("log-altered")`` when a stored tile is not made of its leaves."""
        tiles = list(self._unwritten.items())
        if not tiles:
            return
        try:
            await self._store.insert_many(
                TILES, [New(str(id), {"hashes": hashes}) for id, hashes in tiles]
            )
        except Duplicate:
            # Another writer filled them too, or a write that failed had stored a part.
            for id, hashes in tiles:
                await self._write_one(id, hashes)
        for id, hashes in tiles:
            self._cache(id, hashes)
            self._unwritten.pop(id, None)

    async def hash(self, span: Span, tail: Tail) -> bytes:
        """The hash of a subtree; ``tail``: what no full tile holds."""
        roots = []
        for node in decompose(span):
            where = place(node)
            hashes = tail.partial(where.tile) or await self._full(where.tile)
            roots.append(root_of(hashes[where.start : where.end]))
        return fold(roots)

    async def hashes(self, spans: Sequence[Span], tail: Tail) -> tuple[bytes, ...]:
        """The hashes of several subtrees, in this order."""
        return tuple([await self.hash(span, tail) for span in spans])

    async def tail(self, full: int) -> Tail:
        """The tail of a tree that consists of exactly ``full`` full tiles of leaves."""
        levels: list[list[bytes]] = [[]]
        entries = full
        while entries:
            below = len(levels) - 1
            first = entries // WIDTH * WIDTH
            levels.append(
                [root_of(await self._full(TileId(below, n))) for n in range(first, entries)]
            )
            entries >>= HEIGHT
        return Tail(full * WIDTH, levels)

    async def leaf(self, index: int) -> LeafRecord:
        """A leaf that is known to be there. Errors: ``Broken("log-incomplete")``."""
        stored = await self._store.get(LEAVES, record_id(index))
        record = None if stored is None else leaf_record(stored)
        if record is None:
            raise Broken("log-incomplete", f"leaf {index} is missing or cannot be read")
        return record

    async def _full(self, id: TileId) -> tuple[bytes, ...]:
        hashes = self._unwritten.get(id) or self._cached.get(id)
        if hashes is None:
            stored = await self._store.get(TILES, str(id))
            hashes = None if stored is None else tile_hashes(stored)
            if hashes is None or len(hashes) != WIDTH * HASH_SIZE:
                hashes = await self._made(id)
        self._cache(id, hashes)
        return cut(hashes)

    async def _made(self, id: TileId) -> bytes:
        below = range(id.number * WIDTH, (id.number + 1) * WIDTH)
        if id.level == 0:
            return b"".join([leaf_hash((await self.leaf(index)).leaf) for index in below])
        return b"".join([root_of(await self._full(TileId(id.level - 1, n))) for n in below])

    async def _write_one(self, id: TileId, hashes: bytes) -> None:
        try:
            await self._store.insert(TILES, str(id), {"hashes": hashes})
        except Duplicate:
            stored = await self._store.get(TILES, str(id))
            if stored is None or tile_hashes(stored) != hashes:
                raise Broken("log-altered", f"tile {id} is not made of its leaves") from None

    def _cache(self, id: TileId, hashes: bytes) -> None:
        self._cached[id] = hashes
        self._cached.move_to_end(id)
        if len(self._cached) > CACHED_TILES:
            self._cached.popitem(last=False)
