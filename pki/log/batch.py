"""Acts on their way into the log, some with the change that each of them is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from infra.errors import Broken, Failure
from infra.store.port import (
    Collection,
    Conflict,
    Duplicate,
    New,
    Replacement,
    Store,
    Stored,
)
from pki.log.act import Act, encode
from pki.log.records import LEAVES, LeafIndex, record_number

Make: TypeAlias = Callable[[], "tuple[Stored, Act]"]
Then: TypeAlias = Callable[[Stored], None]


@dataclass(slots=True, eq=False)
class Change:
    """A document that an act changes.

    ``make``, ``then``: see ``Log.append_change``; ``after``: what was made last; ``kept``: whether
    that is what the store holds.
    """

    collection: Collection
    before: Stored
    make: Make
    then: Then
    after: Stored | None = None
    kept: bool = False

    @property
    def key(self) -> str:
        """Its name among the acts, of which none has such an id."""
        return f"{self.collection.name}\0{self.before.id}"


@dataclass(slots=True, eq=False)
class Entry:
    """An act, and whoever waits for it.

    ``change``: what has to be kept before; ``act`` and ``leaf`` are empty until it is made.
    """

    act: str
    leaf: bytes
    change: Change | None = None
    waiting: list[asyncio.Future[LeafIndex]] = field(default_factory=list)

    def written(self) -> asyncio.Future[LeafIndex]:
        """Its index, once it is durable."""
        future: asyncio.Future[LeafIndex] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return future

    def settle(self, index: int) -> None:
        """It is written; whoever waits for it alone hears what ``then`` fails with."""
        if self.change is not None and self.change.after is not None:
            try:
                self.change.then(self.change.after)
            except Exception as error:
                self.fail(error)
                return
        for future in self.waiting:
            if not future.done():
                future.set_result(LeafIndex(index))

    def fail(self, error: Exception) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_exception(error)

    def cancel(self) -> None:
        for future in self.waiting:
            future.cancel()


class Batch:
    """Entries that are written together.

    Whoever has heard how it went is no longer in it: who would join an entry after that would wait
    for ever.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)  # by act, or by document

    def make(self) -> list[tuple[Collection, New | Replacement]]:
        """The changes that are not kept yet, made anew; who cannot make one hears why."""
        changes: list[tuple[Collection, New | Replacement]] = []
        for key, entry in self.entries.copy().items():
            change = entry.change
            if change is None or change.kept:
                continue
            try:
                change.after, act = change.make()
                entry.act, entry.leaf = act.id, encode(act)
            except Failure as failure:
                self.entries.pop(key).fail(failure)
            else:
                replacement = Replacement(change.before, change.after.body)
                changes.append((change.collection, replacement))
        return changes

    async def look(self, store: Store, refused: Conflict | Duplicate) -> None:
        """After a refusal: see which changes were kept. Who was refused hears of it."""
        for key, entry in self.entries.copy().items():
            change = entry.change
            if change is None:
                continue
            id = change.before.id
            if (refused.collection, refused.id) == (change.collection.name, id):
                self.entries.pop(key).fail(refused)
            else:
                change.kept = await store.get(change.collection, id) == change.after

    async def settle_known(self, store: Store) -> int:
        """After a refusal: settle the acts that are in the log, and return how many they are."""
        known = 0
        for key, entry in self.entries.copy().items():
            found = await store.find(LEAVES, "act", (entry.act,), limit=1)
            if not found:
                continue
            known += 1
            if found[0].body.get("leaf") == entry.leaf:
                entry.settle(leaf_index(found[0]))
            else:
                entry.fail(differs(entry.act))
            del self.entries[key]
        return known

    def settle(self, first: int) -> None:
        """All are written, from this index on."""
        for index, (key, entry) in enumerate(self.entries.copy().items(), first):
            entry.settle(index)
            del self.entries[key]

    def fail(self, error: Exception) -> None:
        """Nobody knows how it went."""
        for entry in self.entries.values():
            entry.fail(error)
        self.entries.clear()


def leaf_index(stored: Stored) -> LeafIndex:
    """The index of a stored leaf."""
    number = record_number(stored.id)
    if number is None:
        raise Broken("log-altered", f"{stored.id!r} is no leaf of this log")
    return LeafIndex(number)


def differs(act: str) -> Broken:
    """The id of an act belongs to another leaf."""
    return Broken("log-act-differs", f"the log holds another leaf for the act {act}")
