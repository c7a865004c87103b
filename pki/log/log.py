"""The append-only Merkle log: acts in, proofs and signed checkpoints out.

Invariants:

- what ``append`` has returned survives power loss, and its index never changes;
- leaf indices are dense, and leaves lie in the order of the calls;
- a change that is appended lies in the store before its leaf does, if at all: whoever finds one
  without the other finds the change, and appends its act again;
- state in memory never runs ahead of the store; it is O(log n): the tail of the tree and one
  running hash;
- a checkpoint is signed only if the one before it, read again from the store, is a beginning of
  the log (C2SP tlog-checkpoint: a log must not sign inconsistent checkpoints).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from infra.clock import Clock
from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import (
    Collection,
    Conflict,
    Document,
    Duplicate,
    New,
    Store,
    Stored,
)
from pki.log.act import Act, encode
from pki.log.batch import Batch, Change, Entry, Make, Then, differs, leaf_index
from pki.log.checkpoint import (
    Checkpoint,
    assemble,
    check_origin,
    parse_note,
    verifier_key,
)
from pki.log.merkle import (
    Span,
    consistency_spans,
    inclusion_spans,
    leaf_hash,
)
from pki.log.records import (
    CHECKPOINTS,
    LEAVES,
    PARTIAL,
    START,
    TILES,
    CheckpointRecord,
    LeafIndex,
    checkpoint_body,
    checkpoint_record,
    leaf_body,
    leaf_record,
    record_id,
    running,
)
from pki.log.records import COLLECTIONS as COLLECTIONS
from pki.log.tiles import WIDTH, FullTile, Tail, TileId
from pki.log.tree import Tree
from pki.signer.port import Signer

MAX_BATCH: Final = 250  # acts; with as many changes they are a transaction of usual size


@dataclass(frozen=True, slots=True)
class _State:
    """The log up to its size; replaced, never changed."""

    tail: Tail
    running: bytes


class Log:
    """One log in one store. ``origin`` is its name and that of its key."""

    def __init__(self, store: Store, origin: str, clock: Clock, state: _State) -> None:
        self._store = store
        self._origin = origin
        self._clock = clock
        self._state = state
        self._uncertain = False  # a write failed: the store may hold more than we know
        self._waiting: dict[str, Entry] = {}  # by act, or by document
        self._writing = Batch({})
        self._writer: asyncio.Task[None] | None = None
        self._tree = Tree(store)
        self._signing = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, *, origin: str, clock: Clock) -> Log:
        """The log in this store, empty if there is none yet; reads its tail, writes nothing.

        Errors: ``Rejected("bad-origin")``; ``Broken`` with ``log-incomplete`` (leaves are
        missing), ``log-altered``, ``log-truncated`` and ``log-split`` (the log contradicts its
        own records): ``digitalid log verify`` names the leaf.
        """
        check_origin(origin)
        log = cls(store, origin, clock, _State(Tail(), START))
        count = await store.count(LEAVES)
        full = count // WIDTH
        # Tiles are written after the leaves; a crash loses at most the newest.
        while full and await store.get(TILES, str(TileId(0, full - 1))) is None:
            full -= 1
        if full:
            last = await log._tree.leaf(full * WIDTH - 1)
            log._state = _State(await log._tree.tail(full), last.after)
        await log._catch_up()
        if log.size != count and (log.size < count or await store.count(LEAVES) < log.size):
            raise Broken("log-incomplete", f"leaves below {max(count, log.size)} are missing")
        await log._last_checkpoint()
        return log

    @property
    def origin(self) -> str:
        return self._origin

    @property
    def size(self) -> int:
        """How many leaves are durable."""
        return self._state.tail.size

    def root(self) -> bytes:
        """MTH of all leaves (RFC 6962 §2.1)."""
        return self._state.tail.root()

    @property
    def mark(self) -> tuple[int, bytes]:
        """The size, and a hash over all leaves that ``mark_at`` finds again."""
        return self.size, self._state.running

    async def mark_at(self, size: int) -> bytes:
        """The hash over the first ``size`` leaves. Errors: ``Rejected("bad-tree-size")``."""
        await self._reach(size)
        return (await self._tree.leaf(size - 1)).after if size else START

    async def durable(self) -> tuple[int, bytes]:
        """Size and root of all that lies in the store, also what its writer has not heard yet: the
        leaf of every change that somebody has read before."""
        await self._catch_up()
        tail = self._state.tail
        return tail.size, tail.root()

    async def append(self, act: Act) -> LeafIndex:
        """Add an act, durably, and return its index; an act that is there already keeps its own.

        Errors: ``Rejected("bad-act")``; ``Broken("log-act-differs")`` when the id belongs to
        another leaf; ``Unavailable("log-busy")`` while another process appends too; what the
        store raises, to every append of the batch, of which nothing or a beginning is stored:
        append the same act again.
        """
        leaf = encode(act)
        entry = self._waiting.get(act.id) or self._writing.entries.get(act.id)
        if entry is None:
            entry = self._enter(act.id, Entry(act.id, leaf))
        elif entry.leaf != leaf:
            raise differs(act.id)
        return await entry.written()

    async def append_change(
        self, collection: Collection, before: Stored, make: Make, then: Then
    ) -> LeafIndex:
        """Change a document and append the act that this is, both durably and in one write.

        ``make``: what takes the place of ``before``, and the act; called when the write
        is next, so what it counts up is kept in that order, and again when that was refused.
        ``then``: told the new document once both are durable, even if the caller has gone.
        Errors: ``Conflict`` and ``Duplicate`` of the document, after which nothing was kept; what
        ``make`` raises; those of ``append``, after which the change may have been kept without
        its leaf: append its act.
        """
        change = Change(collection, before, make, then)
        if change.key in self._waiting or change.key in self._writing.entries:
            raise Conflict(collection.name, before.id)
        return await self._enter(change.key, Entry("", b"", change)).written()

    async def find(self, act_id: str) -> LeafIndex | None:
        """The index of the leaf of this act."""
        found = await self._store.find(LEAVES, "act", (act_id,), limit=1)
        return leaf_index(found[0]) if found else None

    async def leaf(self, index: int) -> bytes:
        """The leaf with this index. Errors: ``Rejected("no-such-leaf")``."""
        if not 0 <= index < self.size:
            await self._catch_up()
            if not 0 <= index < self.size:
                raise Rejected("no-such-leaf", f"the log has {self.size} leaves, none is {index}")
        return (await self._tree.leaf(index)).leaf

    async def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """The path from this leaf to the root of the first ``size`` leaves (RFC 6962 §2.1.1).
        Errors: ``Rejected`` with ``no-such-leaf``, ``bad-tree-size``."""
        await self._reach(size)
        return await self._tree.hashes(inclusion_spans(index, size), self._state.tail)

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The proof that the first ``old`` leaves are a beginning of the first ``new``
        (RFC 6962 §2.1.2). Errors: ``Rejected("bad-tree-size")``."""
        await self._reach(new)
        return await self._tree.hashes(consistency_spans(old, new), self._state.tail)

    async def root_at(self, size: int) -> bytes:
        """MTH of the first ``size`` leaves. Errors: ``Rejected("bad-tree-size")``."""
        await self._reach(size)
        return await self._tree.hash(Span(0, size), self._state.tail)

    async def checkpoint(self, signer: Signer) -> bytes:
        """Sign the log as it stands: a note, stored; the last one again if nothing was added.

        Errors: ``Rejected("bad-log-key")`` for a key that is neither Ed25519 nor P-256; those of
        the signer and the store; ``Broken`` with ``log-truncated`` and ``log-split`` rather than
        a signature that contradicts an older one, ``log-signature`` when the signer's does not
        verify; ``Unavailable("log-busy")``.
        """
        key = verifier_key(self._origin, signer.public_key_info)
        async with self._signing:
            for _ in range(2):
                last = await self._last_checkpoint()
                tail = self._state.tail
                head = Checkpoint(self._origin, tail.size, tail.root())
                if last is not None and last.size == head.size:
                    if last.root != head.root:
                        raise _split(last)
                    if any(line.key_id == key.key_id for line in parse_note(last.note).signatures):
                        return last.note
                text = head.encode()
                signature = await signer.sign(text)
                if not key.verifies(text, signature):
                    raise Broken("log-signature", "the log key's signature does not verify")
                note = assemble(text, key, signature)
                number = 0 if last is None else last.number + 1
                await self._keep_partial(tail)
                record = CheckpointRecord(number, head.size, head.root, note)
                body = checkpoint_body(record) | {"at": self._clock.now().isoformat()}
                with suppress(Duplicate):
                    await self._store.insert(CHECKPOINTS, record_id(number), body)
                    return note
        raise _busy()

    async def last_checkpoint(self) -> bytes | None:
        """The newest checkpoint, a note; it is checked against the log first.
        Errors: ``Broken`` with ``log-truncated``, ``log-split``."""
        last = await self._last_checkpoint()
        return None if last is None else last.note

    async def close(self) -> None:
        """Wait for the appends that are under way."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def _enter(self, key: str, entry: Entry) -> Entry:
        self._waiting[key] = entry
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return entry

    async def _write_all(self) -> None:
        while self._waiting:
            batch = Batch(dict(islice(self._waiting.items(), MAX_BATCH)))
            for key in batch.entries:
                del self._waiting[key]
            self._writing = batch
            try:
                # What an earlier batch filled; while tiles cannot be written, nor can leaves.
                await self._tree.write()
                await self._write(batch)
                await self._tree.write()
            except Exception as error:
                # After the acts are settled this reaches nobody; the next batch meets it again.
                self._uncertain = True
                batch.fail(error)
            except asyncio.CancelledError:
                self._uncertain = True
                for entry in (*batch.entries.values(), *self._waiting.values()):
                    entry.cancel()
                batch.entries.clear()
                self._waiting.clear()
                raise

    async def _write(self, batch: Batch) -> None:
        """Write the batch and settle it."""
        if self._uncertain:
            await self._catch_up()
            self._uncertain = False
        lost = 0
        while batch.entries:
            changes = batch.make()
            before = self._state
            state, leaves, full = _grow(before, batch.entries.values())
            try:
                await self._store.write([*changes, *((LEAVES, leaf) for leaf in leaves)])
            except (Conflict, Duplicate) as refused:
                await self._catch_up()
                await batch.look(self._store, refused)
                if isinstance(refused, Conflict) or refused.collection != LEAVES.name:
                    continue
                known = await batch.settle_known(self._store)
                if refused.index == "id":
                    lost += 1
                    if lost > 1 and batch.entries:
                        raise _busy() from refused
                elif not known:
                    raise Broken("log-altered", "the index of acts names no leaf") from refused
                continue
            self._advance(state, full)
            batch.settle(before.tail.size)

    def _advance(self, state: _State, full: Iterable[FullTile]) -> None:
        self._tree.add(full)
        # A reader may have caught up with the same leaves meanwhile.
        if state.tail.size > self.size:
            self._state = state

    async def _catch_up(self) -> None:
        """Read what lies in the store beyond the state: after a failure, or by another writer."""
        at, step = self._state, 1
        while True:
            first = at.tail.size
            found = await asyncio.gather(
                *(self._store.get(LEAVES, record_id(first + i)) for i in range(step))
            )
            entries: list[Entry] = []
            for stored in found:
                record = None if stored is None else leaf_record(stored)
                if record is None:
                    break
                entries.append(Entry(record.act, record.leaf))
            after, documents, full = _grow(at, entries)
            for stored, made in zip(found, documents, strict=False):
                if stored is None or stored.body != made.body:
                    raise Broken("log-altered", f"leaf {int(made.id)} does not follow the others")
            self._advance(after, full)
            at = after
            if len(entries) < step:
                return
            step = min(2 * step, 64)

    async def _reach(self, size: int) -> None:
        if size > self.size:
            await self._catch_up()
        if not 0 <= size <= self.size:
            raise Rejected("bad-tree-size", f"the log has {self.size} leaves, not {size}")

    async def _last_checkpoint(self) -> CheckpointRecord | None:
        found = await self._store.find(CHECKPOINTS, "number", reverse=True, limit=1)
        if not found:
            return None
        last = checkpoint_record(found[0])
        if last is None:
            raise Broken("log-altered", f"checkpoint {found[0].id} cannot be read")
        if last.size > self.size:
            await self._catch_up()
        if last.size > self.size:
            raise Broken("log-truncated", f"{last.size} leaves were signed, {self.size} are there")
        if await self.root_at(last.size) != last.root:
            raise _split(last)
        return last

    async def _keep_partial(self, tail: Tail) -> None:
        """Store the leaf hashes that no full tile holds yet, for whoever verifies the tail."""
        body: Document = {"number": tail.size // WIDTH, "hashes": b"".join(tail.levels[0])}
        stored = await self._store.get(TILES, PARTIAL)
        try:
            if stored is None:
                await self._store.insert(TILES, PARTIAL, body)
            elif stored.body != body:
                await self._store.replace(TILES, stored, body)
        except (Duplicate, Conflict):
            return  # another process has just kept its own


def _grow(state: _State, entries: Iterable[Entry]) -> tuple[_State, list[New], list[FullTile]]:
    """The state after these leaves, their documents, and the tiles that they fill."""
    number = state.tail.size
    before = state.running
    hashes, documents = [], []
    for entry in entries:
        hash_ = leaf_hash(entry.leaf)
        after = running(before, hash_)
        hashes.append(hash_)
        documents.append(New(record_id(number), leaf_body(entry.act, entry.leaf, before, after)))
        number += 1
        before = after
    tail, full = state.tail.grow(hashes)
    return _State(tail, before), documents, full


def _split(last: CheckpointRecord) -> Broken:
    return Broken("log-split", f"the log is not what its checkpoint of {last.size} leaves signed")


def _busy() -> Unavailable:
    return Unavailable("log-busy", "another process writes to this log; try again", retry_after=0.1)
