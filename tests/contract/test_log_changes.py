"""A change of a document and its leaf: both, or the change alone, never the leaf alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from pathlib import Path

import pytest

from infra.clock import FixedClock
from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.store.port import (
    Collection,
    Conflict,
    Duplicate,
    Index,
    New,
    Replacement,
    Stored,
)
from infra.store.sqlite import SqliteStore
from pki.log.act import Act
from pki.log.log import COLLECTIONS, Log
from pki.log.records import LEAVES, leaf_record
from tests.contract.log_fixtures import NOW, ORIGIN, act, append_all, leaf_hashes, naive_root

THINGS = Collection("things", (Index("number", ("number",), unique=True),))


class CutStore(SqliteStore):
    """The real store, which fails after a beginning of the next write."""

    beginning: int | None = None

    async def write(self, changes: Sequence[tuple[Collection, New | Replacement]]) -> None:
        beginning, self.beginning = self.beginning, None
        await super().write(changes[:beginning])
        if beginning is not None:
            raise Unavailable("storage-full", "free space on the disk")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CutStore]:
    store = await CutStore.open(tmp_path / "log.db", (*COLLECTIONS, THINGS))
    yield store  # type: ignore[misc]
    await store.close()


@pytest.fixture
async def log(store: CutStore) -> AsyncIterator[Log]:
    log = await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))
    yield log
    await log.close()
    assert log.root() == naive_root(await leaf_hashes(log))


class Changing:
    """Changes things, numbering the changes in the order in which they are made."""

    def __init__(self, log: Log, store: CutStore) -> None:
        self._log = log
        self.store = store
        self.numbers = count(1)
        self.told: list[Stored] = []

    async def new(self, *names: int) -> list[Stored]:
        return [await self.store.insert(THINGS, f"{name}", {"name": name}) for name in names]

    async def change(
        self, before: Stored, number: Callable[[], int] | None = None
    ) -> tuple[Stored, int]:
        after = before

        def make() -> tuple[Stored, Act]:
            nonlocal after
            body = before.body | {"number": next(self.numbers) if number is None else number()}
            after = Stored(before.id, before.version + 1, body)
            return after, act(int(before.id))

        index = await self._log.append_change(THINGS, before, make, self.told.append)
        return after, index

    async def leaf(self, index: int) -> str:
        record = leaf_record(await self.stored_leaf(index))
        assert record is not None
        return record.act

    async def stored_leaf(self, index: int) -> Stored:
        stored = await self.store.get(LEAVES, f"{index:012d}")
        assert stored is not None
        return stored


@pytest.fixture
def things(log: Log, store: CutStore) -> Changing:
    return Changing(log, store)


async def test_both_are_there(things: Changing) -> None:
    (before,) = await things.new(7)
    after, index = await things.change(before)
    assert after == Stored("7", 2, {"name": 7, "number": 1})
    assert await things.store.get(THINGS, "7") == after
    assert await things.leaf(index) == act(7).id
    assert things.told == [after]


async def test_what_one_is_told_of_and_cannot_take_is_nobody_elses_error(
    things: Changing, log: Log
) -> None:
    class Full(list[Stored]):
        def append(self, after: Stored) -> None:
            if after.id == "2":
                raise Unavailable("storage-full", "free space on the disk")
            super().append(after)

    befores = await things.new(1, 2, 3)
    things.told = Full()
    outcomes = await asyncio.gather(
        *(things.change(before) for before in befores), log.append(act(4)), return_exceptions=True
    )
    assert [isinstance(one, Unavailable) for one in outcomes] == [False, True, False, False]
    assert [one.id for one in things.told] == ["1", "3"]
    assert log.size == 4


async def test_changes_are_numbered_in_the_order_of_the_log(things: Changing, log: Log) -> None:
    before = await things.new(*range(600))
    outcomes = await asyncio.gather(*map(things.change, before), append_all(log, range(1000, 1100)))
    changed = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    by_index = sorted(changed, key=lambda one: one[1])
    assert [stored.body["number"] for stored, _ in by_index] == list(range(1, 601))
    assert [await things.leaf(index) for stored, index in by_index] == [
        act(int(stored.id)).id for stored, _ in by_index
    ]
    assert log.size == 700


async def test_what_somebody_else_changed_is_refused_alone(things: Changing, log: Log) -> None:
    before = await things.new(*range(20))
    for name in (0, 7, 19):
        await things.store.replace(THINGS, before[name], {"name": -1})
    outcomes = await asyncio.gather(*map(things.change, before), return_exceptions=True)
    refused = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Conflict)]
    assert refused == [0, 7, 19]
    assert log.size == 17
    assert len(things.told) == 17
    for name, outcome in enumerate(outcomes):
        kept = await things.store.get(THINGS, f"{name}")
        assert kept is not None
        if name in refused:
            assert kept.body == {"name": -1}
        else:
            assert isinstance(outcome, tuple)
            assert kept == outcome[0]
            assert await things.leaf(outcome[1]) == act(name).id


async def test_a_value_that_is_taken_is_refused_alone(things: Changing, log: Log) -> None:
    await things.store.insert(THINGS, "first", {"number": 500})
    before = await things.new(*range(5))
    outcomes = await asyncio.gather(
        *(things.change(one, (lambda: 500) if one.id == "2" else None) for one in before),
        return_exceptions=True,
    )
    assert [isinstance(outcome, Duplicate) for outcome in outcomes] == [
        False, False, True, False, False,
    ]  # fmt: skip
    assert await things.store.get(THINGS, "2") == before[2]
    assert log.size == 4


async def test_a_document_changes_once_at_a_time(things: Changing, log: Log) -> None:
    (before,) = await things.new(3)
    outcomes = await asyncio.gather(
        *(things.change(before) for _ in range(3)), return_exceptions=True
    )
    assert [isinstance(outcome, Conflict) for outcome in outcomes] == [False, True, True]
    assert log.size == 1


async def test_what_cannot_be_made_fails_alone(things: Changing, log: Log) -> None:
    before = await things.new(1, 2, 3)

    def refuse() -> int:
        raise Unavailable("clock-went-back", "set it right")

    outcomes = await asyncio.gather(
        *(things.change(one, refuse if one.id == "2" else None) for one in before),
        return_exceptions=True,
    )
    assert [isinstance(outcome, Unavailable) for outcome in outcomes] == [False, True, False]
    assert log.size == 2


async def test_who_has_gone_is_kept_and_told(things: Changing, log: Log) -> None:
    (before,) = await things.new(4)
    task = asyncio.create_task(things.change(before))
    await asyncio.sleep(0)
    task.cancel()
    await log.close()
    assert task.cancelled() or await asyncio.wait([task])
    assert things.told == [await things.store.get(THINGS, "4")]
    assert await log.find(act(4).id) == 0


@pytest.mark.parametrize("beginning", range(7))
async def test_a_write_that_was_cut_leaves_changes_without_leaves_at_worst(
    things: Changing, log: Log, beginning: int
) -> None:
    before = await things.new(1, 2, 3)
    things.store.beginning = beginning
    outcomes = await asyncio.gather(*map(things.change, before), return_exceptions=True)
    assert [getattr(outcome, "code", None) for outcome in outcomes] == ["storage-full"] * 3
    for one in before:
        kept = await things.store.get(THINGS, one.id) != one
        known = await log.find(act(int(one.id)).id) is not None
        assert kept or not known
        # The way on from either state.
        if kept:
            await log.append(act(int(one.id)))
        else:
            await things.change(one)
    assert log.size == 3
    assert sorted([await things.leaf(index) for index in range(3)]) == [
        act(number).id for number in (1, 2, 3)
    ]


async def test_two_logs_on_one_store_keep_every_change(things: Changing, store: CutStore) -> None:
    """The leaf is refused where another writer was faster, after the change was kept."""
    others = await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))
    before = await things.new(*range(40))
    for one in before:
        while True:
            racing = asyncio.create_task(others.append(act(1000 + int(one.id))))
            outcomes = await asyncio.gather(things.change(one), racing, return_exceptions=True)
            busy = [o for o in outcomes if isinstance(o, Failure)]
            assert all(isinstance(o, Unavailable) for o in busy)
            if not busy:
                break
            if await store.get(THINGS, one.id) != one:
                await others.append(act(int(one.id)))
                break
    await others.close()
    for one in before:
        index = await others.find(act(int(one.id)).id)
        assert index is not None
        assert await things.leaf(index) == act(int(one.id)).id


async def test_an_act_that_the_log_does_not_take_fails_alone(things: Changing, log: Log) -> None:
    before = await things.new(1)

    def make() -> tuple[Stored, Act]:
        return Stored("1", 2, {}), Act("", "", "", NOW, b"")

    with pytest.raises(Rejected, match="bad-act"):
        await log.append_change(THINGS, before[0], make, things.told.append)
    assert (await things.store.get(THINGS, "1"), log.size) == (before[0], 0)


async def test_the_log_holds_something_else_for_the_act(things: Changing, log: Log) -> None:
    (before,) = await things.new(5)
    await log.append(act(5, what="certificate.void"))
    with pytest.raises(Broken, match="log-act-differs"):
        await things.change(before)
    assert log.size == 1
