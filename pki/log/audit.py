"""The replay of a whole log from its store, offline: every leaf, tile and checkpoint.

Leaves stream through in blocks of 256, one tile each, so memory does not grow with the log. A
block whose records agree costs three hashes a leaf; one whose records do not is judged leaf by
leaf.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from infra.errors import Rejected
from infra.store.port import Document, Store, Stored
from pki.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from pki.log.evidence import (
    ACT_ALTERED,
    CHECKPOINT_ALTERED,
    LEAF_ALTERED,
    LEAF_FOREIGN,
    LEAF_MISSING,
    LEAF_UNREADABLE,
    LEAVES_ALTERED,
    TILE_ALTERED,
    TILE_MISSING,
    Finding,
    follows_itself,
    judge,
    settle,
)
from pki.log.evidence import Report as Report
from pki.log.heads import signed_heads
from pki.log.merkle import EMPTY_ROOT, HASH_SIZE, Frontier, leaf_hash, peaks, root_of
from pki.log.records import (
    CHECKPOINTS,
    LEAVES,
    PARTIAL,
    START,
    TILES,
    LeafRecord,
    checkpoint_record,
    leaf_record,
    record_id,
    record_number,
    running,
    tile_hashes,
)
from pki.log.tiles import HEIGHT, WIDTH, Tail, TileId, cut

MAX_FINDINGS: Final = 100
PROGRESS_EVERY: Final = 32  # blocks

Progress = Callable[[int, int], None]
Read = Callable[[int, bytes], None]


class _Block(NamedTuple):
    """The documents of one tile of leaves, and the one after them."""

    number: int
    documents: list[Document | None]
    following: Document | None


class _Id(msgspec.Struct):
    id: str


_act_id = msgspec.json.Decoder(_Id).decode


async def verify_log(
    store: Store,
    *,
    origin: str,
    keys: Sequence[VerifierKey],
    trusted: Sequence[bytes] = (),
    progress: Progress | None = None,
    read: Read | None = None,
) -> Report:
    """Replay the log in ``store`` and report whatever is not as it was written.

    ``keys``: every key that has signed checkpoints of this log; ``trusted``: checkpoints kept
    elsewhere, which show what was cut off after them or signed anew; ``progress``: called with
    leaves done and in all; ``read``: called with the index and octets of each leaf that is there,
    in order. Errors: ``Rejected`` with ``bad-note``, ``bad-note-signature``,
    ``bad-checkpoint`` when a trusted checkpoint is none of this log; those of the store.
    """
    anchors = [open_checkpoint(note, keys) for note in trusted]
    if any(anchor.origin != origin for anchor in anchors):
        raise Rejected("bad-checkpoint", f"a trusted checkpoint is not one of {origin}")
    replay = _Replay(store, origin, keys, sorted(anchors, key=lambda anchor: anchor.size))
    return await replay.run(progress or (lambda done, total: None), read)


class _Replay:
    def __init__(
        self, store: Store, origin: str, keys: Sequence[VerifierKey], anchors: list[Checkpoint]
    ) -> None:
        self._store = store
        self._keys = keys
        self._anchors = anchors
        self._findings: list[Finding] = []
        self._doubtful: list[Finding] = []  # tiles above level 0 that do not fit what is below
        self._running = START
        self._blocks = Frontier()  # over the roots of full tiles of leaves
        self._above = Tail()  # the same, cut into tiles
        self._covered = 0
        self._checked = 0
        self._unknown: list[int] = []  # leaves of whose true hash no record is left
        self._lost = False  # a root differed, so that every later one will
        self._heads = signed_heads(store, origin, keys, self._find)
        self._head: Checkpoint | None = None

    async def run(self, progress: Progress, read: Read | None) -> Report:
        total = await self._bound()
        await self._advance()
        size, root = 0, EMPTY_ROOT
        await self._check_heads(0, [])
        async for block in self._stream(total):
            number = block.number
            hashes = await self._block(block, total)
            if read is not None:
                _read(block, read)
                await asyncio.sleep(0)
            await self._check_heads(number * WIDTH, hashes)
            size = number * WIDTH + len(hashes)
            if len(hashes) == WIDTH:
                await self._grow(number, hashes, total)
                root = self._blocks.root()
            else:
                root = self._blocks.root(peaks(hashes))
            if number % PROGRESS_EVERY == 0:
                progress(size, total)
        await self._check_end(size)
        progress(size, total)
        return Report(size, root, self._covered, self._checked, self._conclude())

    async def _bound(self) -> int:
        """How many leaves there can be: no document past that is one."""
        bound = max([await self._store.count(LEAVES), *(anchor.size for anchor in self._anchors)])
        for stored in await self._store.find(CHECKPOINTS, "number", reverse=True, limit=1):
            record = checkpoint_record(stored)
            if record is not None:
                try:
                    bound = max(bound, open_checkpoint(record.note, self._keys).size)
                except Rejected:
                    continue  # said when its turn comes
        return bound

    async def _stream(self, bound: int) -> AsyncIterator[_Block]:
        """The documents in blocks, with nothing where one is missing."""
        block = _Block(0, [], None)
        at = 0
        async for stored in self._store.scan(LEAVES):
            index = record_number(stored.id)
            if index is None or not at <= index < max(at, bound) + WIDTH:
                self._find(LEAF_FOREIGN, f"the document {stored.id!r} is no leaf of this log")
                continue
            while at <= index:
                body = stored.body if at == index else None
                if len(block.documents) == WIDTH:
                    yield block._replace(following=body)
                    block = _Block(at // WIDTH, [], None)
                block.documents.append(body)
                at += 1
        if block.documents:
            yield block

    async def _block(self, block: _Block, total: int) -> list[bytes]:
        """The leaf hashes of a block, as they are believed to have been."""
        documents, first = block.documents, block.number * WIDTH
        tile = await self._tile(block.number, total)
        running_hash = self._running
        hashes = []
        try:
            for body in documents:
                leaf: bytes = body["leaf"]  # type: ignore[index, assignment]
                hash_ = sha256(b"\x00" + leaf).digest()
                after = sha256(running_hash + hash_).digest()
                if (
                    body["after"] != after  # type: ignore[index]
                    or body["before"] != running_hash  # type: ignore[index]
                    or body["act"] != _act_id(leaf).id  # type: ignore[index]
                ):
                    break
                hashes.append(hash_)
                running_hash = after
        except (TypeError, KeyError, msgspec.DecodeError):
            hashes = []
        if (
            len(hashes) == len(documents)
            and b"".join(hashes).startswith(tile[: HASH_SIZE * len(hashes)])
            and (block.following is None or block.following.get("before") == running_hash)
        ):
            self._running = running_hash
            return hashes
        if len(self._findings) < MAX_FINDINGS:
            return await self._judge(first, documents, cut(tile))
        # Enough is known: what follows only has to be counted.
        records = [None if body is None else _parsed(body) for body in documents]
        self._unknown.append(first)
        return [bytes(HASH_SIZE) if r is None else leaf_hash(r.leaf) for r in records]

    async def _tile(self, number: int, total: int) -> bytes:
        """The leaf hashes that are stored apart from the leaves: all, some or none."""
        id = TileId(0, number)
        stored = await self._store.get(TILES, str(id))
        if stored is not None:
            hashes = tile_hashes(stored)
            if hashes is not None and len(hashes) == WIDTH * HASH_SIZE:
                return hashes
            self._find(TILE_ALTERED, f"tile {id} cannot be read")
            return b""
        partial = await self._store.get(TILES, PARTIAL)
        if partial is not None and partial.body.get("number") == number:
            return tile_hashes(partial) or b""
        # A tile is stored before the batch after the one that fills it (Tree.write).
        if (number + 2) * WIDTH <= total:
            self._find(TILE_MISSING, f"tile {id} is missing")
        return b""

    async def _judge(
        self, first: int, block: list[Document | None], entries: Sequence[bytes]
    ) -> list[bytes]:
        hashes = []
        places = {entry: first + at for at, entry in enumerate(entries)}
        for at, body in enumerate(block):
            index = first + at
            entry = entries[at] if at < len(entries) else None
            record = None if body is None else _parsed(body)
            following = await self._record(index + 1)
            if record is None:
                code = LEAF_MISSING if body is None else LEAF_UNREADABLE
                self._find(code, f"leaf {index} is missing or cannot be read", index)
                hashes.append(entry or bytes(HASH_SIZE))
                if entry is None:
                    self._unknown.append(index)
                if following is not None:
                    self._running = following.before
                elif entry is not None:
                    self._running = running(self._running, entry)
                continue
            verdict = judge(
                self._running,
                record,
                entry,
                following,
                following_holds=following is not None
                and await self._holds(index + 1, following, entries[at + 1 : at + 2]),
            )
            hashes.append(verdict.hash)
            self._running = verdict.running
            if verdict.code is not None:
                own = leaf_hash(record.leaf)
                if verdict.code == LEAF_ALTERED and verdict.hash == own:
                    self._unknown.append(index)
                belongs = places.get(own, index)
                self._find(
                    verdict.code,
                    f"leaf {index} is not as it was written"
                    if belongs == index
                    else f"leaf {index} is the one that belongs at {belongs}",
                    index,
                )
            elif record.act != _named(record.leaf):
                self._find(ACT_ALTERED, f"leaf {index} is filed under another act", index)
        return hashes

    async def _record(self, index: int) -> LeafRecord | None:
        stored = await self._store.get(LEAVES, record_id(index))
        return None if stored is None else leaf_record(stored)

    async def _holds(self, index: int, record: LeafRecord, entry: Sequence[bytes]) -> bool:
        """Whether a document agrees with itself, its tile and the one after it."""
        following = await self._record(index + 1)
        return (
            follows_itself(record)
            and (not entry or entry[0] == leaf_hash(record.leaf))
            and (following is None or following.before == record.after)
        )

    async def _grow(self, number: int, hashes: list[bytes], total: int) -> None:
        """Go up from a full block, and compare the tiles above that it fills."""
        root = root_of(hashes)
        self._blocks.append(root)
        self._above, full = self._above.grow([root])
        for tile in full:
            id = TileId(tile.id.level + 1, tile.id.number)
            stored = await self._store.get(TILES, str(id))
            if stored is None:
                if (number + 2) * WIDTH <= total:
                    self._find(TILE_MISSING, f"tile {id} is missing")
                continue
            entries = cut(tile_hashes(stored) or b"")
            if entries == tile.hashes:
                continue
            wide = 1 << HEIGHT * id.level
            at = next(
                (n for n, hash_ in enumerate(tile.hashes) if entries[n : n + 1] != (hash_,)), 0
            )
            start = (id.number * WIDTH + at) * wide
            detail = f"entry {at} of tile {id} is not made of leaves {start} to {start + wide - 1}"
            self._doubtful.append(Finding(TILE_ALTERED, detail, start, start + wide))

    async def _advance(self) -> None:
        self._head = await anext(self._heads, None)
        self._checked += self._head is not None

    async def _check_heads(self, first: int, hashes: list[bytes]) -> None:
        """Compare the checkpoints, stored and trusted, that end within this block."""
        end = first + len(hashes)
        while self._head is not None and self._head.size <= end:
            if self._head.size < first:
                self._find(CHECKPOINT_ALTERED, f"a checkpoint of {self._head.size} comes too late")
            else:
                self._compare(self._head, first, hashes)
            await self._advance()
        while self._anchors and self._anchors[0].size <= end:
            self._compare(self._anchors.pop(0), first, hashes)

    def _compare(self, head: Checkpoint, first: int, hashes: list[bytes]) -> None:
        root = self._blocks.root(peaks(hashes[: head.size - first]))
        if root == head.root:
            self._covered = max(self._covered, head.size)
        elif not self._lost:
            self._lost = True
            if self._explained(self._covered, head.size):
                return
            self._find(
                LEAVES_ALTERED,
                f"the checkpoint of {head.size} leaves signed another root, "
                f"the one of {self._covered} this very one",
                self._covered,
                head.size,
            )

    async def _check_end(self, size: int) -> None:
        """Whatever speaks of leaves past the last one says that the tail was cut off."""
        known = [anchor.size for anchor in self._anchors]
        while self._head is not None:
            known.append(self._head.size)
            await self._advance()
        number = size // WIDTH
        if await self._store.get(TILES, str(TileId(0, number))) is not None:
            known.append((number + 1) * WIDTH)
        partial = await self._store.get(TILES, PARTIAL)
        if partial is not None and isinstance(before := partial.body.get("number"), int):
            width = len(tile_hashes(partial) or b"") // HASH_SIZE
            if width:
                known.append(before * WIDTH + width)
        end = max(known, default=0)
        # A leaf that is there now was appended since the last one was read.
        if end > size and await self._store.get(LEAVES, record_id(end - 1)) is None:
            self._find(
                LEAF_MISSING, f"leaves {size} to {end - 1} were there once, and are gone", size, end
            )

    def _conclude(self) -> tuple[Finding, ...]:
        for doubt in self._doubtful:
            if doubt.start is None or doubt.end is None:
                continue
            if doubt.end <= self._covered:
                self._findings.append(Finding(TILE_ALTERED, doubt.detail))
            else:
                self._findings.append(Finding(LEAVES_ALTERED, doubt.detail, doubt.start, doubt.end))
        return settle(self._findings)

    def _explained(self, start: int, end: int) -> bool:
        """Whether a leaf that has been named is why a hash over these leaves differs."""
        return any(start <= index < end for index in self._unknown)

    def _find(
        self, code: str, detail: str, start: int | None = None, end: int | None = None
    ) -> None:
        if start is not None and end is None:
            end = start + 1
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(code, detail, start, end))


def _read(block: _Block, read: Read) -> None:
    for index, body in enumerate(block.documents, block.number * WIDTH):
        if body is not None and isinstance(leaf := body.get("leaf"), bytes):
            read(index, leaf)


def _parsed(body: Document) -> LeafRecord | None:
    return leaf_record(Stored("", 1, body))


def _named(leaf: bytes) -> str | None:
    try:
        return _act_id(leaf).id
    except msgspec.DecodeError:
        return None
