"""The store against a model in two dictionaries: any sequence of calls has the same outcomes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from infra.errors import Failure
from infra.store.port import (
    Collection,
    Conflict,
    Document,
    Duplicate,
    Event,
    Index,
    Key,
    New,
    Replacement,
    Stored,
)
from infra.store.sqlite import SqliteStore

T = TypeVar("T")

THINGS = Collection(
    "things",
    (
        Index("by_pair", ("a", "b"), unique=True, lasting=True),
        Index("by_c", ("c",), unique=True),
        Index("by_a", ("a",)),
        Index("by_b_c", ("b", "c")),
    ),
)
FIELDS = ("a", "b", "c")
PLAIN = Collection("plain")

# Few values, so that they meet often; of every type, so that their order is seen to be kept.
keys = st.sampled_from([-3, 0, 7, "", "a", "b", "é", b"", b"a", b"\xff"])
names = st.sampled_from([f"id{n}" for n in range(8)])
bodies = st.fixed_dictionaries(
    {},
    optional={
        "a": keys | st.none(),
        "b": keys,
        "c": keys,
        "d": st.integers(0, 9) | st.lists(st.binary(max_size=3), max_size=2) | st.floats(0, 1),
    },
)
events = st.lists(
    st.builds(
        Event, st.sampled_from(["t", "u"]), names, st.fixed_dictionaries({"n": st.integers(0, 9)})
    ),
    max_size=2,
).map(tuple)


@dataclass(frozen=True)
class Insert:
    id: str
    body: Document
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Replace:
    id: str
    version: int
    body: Document
    events: tuple[Event, ...]


@dataclass(frozen=True)
class InsertMany:
    documents: tuple[New, ...]


@dataclass(frozen=True)
class Write:
    changes: tuple[Insert | Replace, ...]


Call: TypeAlias = Insert | Replace | InsertMany | Write
Outcome: TypeAlias = "tuple[str, object]"

singles = st.builds(Insert, names, bodies, events) | st.builds(
    Replace, names, st.integers(1, 5), bodies, events
)
calls = (
    singles
    | st.builds(InsertMany, st.lists(st.builds(New, names, bodies, events), max_size=4).map(tuple))
    | st.builds(Write, st.lists(singles, max_size=4).map(tuple))
)


def written(change: Insert | Replace) -> New | Replacement:
    if isinstance(change, Insert):
        return New(change.id, change.body, change.events)
    return Replacement(Stored(change.id, change.version, {}), change.body, change.events)


def rank(key: Key) -> tuple[int, Any]:
    """The order of an index: numbers, then text, then octets."""
    kinds: dict[type, int] = {int: 0, str: 1, bytes: 2}
    return kinds[type(key)], key.encode() if isinstance(key, str) else key


@dataclass
class Model:
    things: dict[str, Stored] = field(default_factory=dict)
    outbox: list[Event] = field(default_factory=list)

    def apply(self, call: Call) -> Outcome:
        match call:
            case Insert(id, body, events):
                return self._put(id, 1, body, events)
            case Replace(id, version, body, events):
                before = self.things.get(id)
                if before is None or before.version != version:
                    return "conflict", None
                return self._put(id, version + 1, body, events)
            case InsertMany(documents):
                inserts = (Insert(new.id, new.body, new.events) for new in documents)
                return self.apply(Write(tuple(inserts)))
            case Write(changes):
                for change in changes:
                    outcome = self.apply(change)
                    if outcome[0] != "done":
                        return outcome
                return "done", None

    def _put(self, id: str, version: int, body: Document, events: tuple[Event, ...]) -> Outcome:
        if version == 1 and id in self.things:
            return "duplicate", "id"
        for index in THINGS.indexes:
            values = self.values(index, body)
            if index.unique and values is not None:
                for other in self.things.values():
                    if other.id != id and self.values(index, other.body) == values:
                        return "duplicate", index.name
        self.things[id] = Stored(id, version, body)
        self.outbox.extend(events)
        return "done", None

    @staticmethod
    def values(index: Index, body: Document) -> list[tuple[int, Any]] | None:
        values = [body.get(field) for field in index.fields]
        if any(value is None for value in values):
            return None
        return [rank(value) for value in values]  # type: ignore[arg-type]


class StoreMachine(RuleBasedStateMachine):
    """Runs each call on both sides."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model()
        self.cursors: dict[str, int] = {}
        self.forgotten = 0
        self.open()

    def open(self) -> None:
        path = Path(self.folder.name) / "store.db"
        self.store = self.run(SqliteStore.open(path, (THINGS, PLAIN)))

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self.loop.run_until_complete(wait())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
            self.loop.close()
            self.folder.cleanup()

    async def make(self, call: Call) -> Outcome:
        try:
            match call:
                case Insert(id, body, events):
                    stored = await self.store.insert(THINGS, id, body, events)
                    assert stored == Stored(id, 1, body)
                case Replace(id, version, body, events):
                    before = Stored(id, version, {})
                    stored = await self.store.replace(THINGS, before, body, events)
                    assert stored == Stored(id, version + 1, body)
                case InsertMany(documents):
                    await self.store.insert_many(THINGS, documents)
                case Write(changes):
                    await self.store.write([(THINGS, written(change)) for change in changes])
        except Duplicate as refusal:
            return "duplicate", refusal.index
        except Conflict:
            return "conflict", None
        except Failure as failure:
            return "failure", failure.code
        return "done", None

    @rule(call=calls)
    def one_call(self, call: Call) -> None:
        assert self.run(self.make(call)) == self.model.apply(call)

    @rule(batch=st.lists(calls, min_size=2, max_size=12))
    def calls_at_once(self, batch: list[Call]) -> None:
        async def together() -> list[Outcome]:
            return await asyncio.gather(*(self.make(call) for call in batch))

        assert self.run(together()) == [self.model.apply(call) for call in batch]

    @rule(id=names, body=bodies, events=events)
    def right_replacement(self, id: str, body: Document, events: tuple[Event, ...]) -> None:
        if before := self.model.things.get(id):
            self.one_call(Replace(id, before.version, body, events))

    @rule(
        index=st.sampled_from(THINGS.indexes),
        equal=st.lists(keys, max_size=2),
        low=st.none() | keys,
        high=st.none() | keys,
        reverse=st.booleans(),
        limit=st.integers(0, 9),
    )
    def find(
        self,
        index: Index,
        equal: list[Key],
        low: Key | None,
        high: Key | None,
        reverse: bool,
        limit: int,
    ) -> None:
        equal = equal[: len(index.fields)]
        if len(equal) == len(index.fields):
            low = high = None
        wanted = []
        for thing in self.model.things.values():
            values = Model.values(index, thing.body)
            if values is None or values[: len(equal)] != [rank(key) for key in equal]:
                continue
            rest = values[len(equal) :]
            if low is not None and rest[0] < rank(low):
                continue
            if high is not None and rest[0] >= rank(high):
                continue
            wanted.append((rest, thing.id))
        found = self.run(
            self.store.find(
                THINGS, index.name, equal, low=low, high=high, reverse=reverse, limit=limit
            )
        )
        order = sorted((rest for rest, _ in wanted), reverse=reverse)[:limit]
        got = [Model.values(index, thing.body) for thing in found]
        assert [values[len(equal) :] for values in got if values is not None] == order
        assert {thing.id for thing in found} <= {id for _, id in wanted}
        assert len({thing.id for thing in found}) == len(order)
        assert all(thing == self.model.things[thing.id] for thing in found)

    @rule(consumer=st.sampled_from(["crl", "ocsp"]), offset=st.integers(0, 50))
    def acknowledge(self, consumer: str, offset: int) -> None:
        self.run(self.store.acknowledge(consumer, offset))
        self.cursors[consumer] = max(offset, self.cursors.get(consumer, 0))

    @rule(share=st.floats(0, 1))
    def forget(self, share: float) -> None:
        there = self.run(self.store.events(0))
        dropped = int(len(there) * share)
        if dropped:
            self.forgotten = there[dropped - 1].offset
            self.run(self.store.forget_events(self.forgotten))
            del self.model.outbox[:dropped]

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.open()

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "store"):
            return

        async def everything() -> list[Stored]:
            return [thing async for thing in self.store.scan(THINGS, page=3)]

        assert self.run(everything()) == [thing for _, thing in sorted(self.model.things.items())]
        assert self.run(self.store.count(THINGS)) == len(self.model.things)
        announced = self.run(self.store.events(0))
        assert [one.event for one in announced] == self.model.outbox
        offsets = [one.offset for one in announced]
        assert offsets == sorted(set(offsets))
        assert not offsets or offsets[0] > self.forgotten
        for consumer in ("crl", "ocsp"):
            assert self.run(self.store.cursor(consumer)) == self.cursors.get(consumer, 0)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
