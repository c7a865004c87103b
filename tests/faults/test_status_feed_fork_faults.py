"""Who follows is killed at any moment, and the CA goes back or does not: a fork is never missed,
and never seen where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cli.service.validation_source import Statuses
from infra.errors import Rejected
from ocsp.follower import Follower
from ocsp.table import TableWriter
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.serial import SerialNumber
from pki.status import Good, RevocationReason, Revoked
from tests.contract.feed_fixtures import Kept, World, running, until, world
from tests.faults.test_status_table_faults import Died, leave


class Mortal(Kept):
    """Dies before the step ``last``, and between any two certificates."""

    last = -1
    steps = 0

    def step(self) -> None:
        if self.steps == self.last:
            raise Died
        self.steps += 1

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("applied", "head"):
            self.step()
        super().__setattr__(name, value)

    def put_many(self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]], /) -> None:
        for one in statuses:
            self.step()
            super().put_many(issuer, [one])


def survivor(kept: Kept) -> Kept:
    """What the next run finds."""
    return Kept(kept.applied, kept.head, dict(kept.known))


async def ended(ca: World, kept: Kept) -> str:
    """How it ends when somebody follows: with everything, or why not."""
    follower = ca.follower(kept)
    async with running(follower) as task:
        newest = await ca.ledger.sequence()
        await until(lambda: task.done() or (follower.applied == newest and has_all(follower)))
        if task.done():
            with pytest.raises(Rejected) as refused:
                await task
            return refused.value.code
    return "all"


def has_all(follower: Follower) -> bool:
    return follower.behind == 0 and follower.lag(follower._clock.now()) < 3600


async def old_history(ca: World) -> None:
    """Also what is no longer told by a follower that keeps what it has."""
    await ca.ledger.release("issuing", SerialNumber(2), by="test")
    await ca.issue(2)
    await ca.ledger.revoke(
        "issuing", SerialNumber(1), reason=RevocationReason.superseded, by="test"
    )


@pytest.mark.parametrize("restored", [False, True], ids=["the-same", "restored"])
async def test_killed_anywhere(tmp_path: Path, restored: bool) -> None:
    ends = []
    for last in count():
        folder = tmp_path / str(last)
        folder.mkdir()
        async with world(folder) as ca:
            ca.page = 2
            await ca.issue(3)
            await ca.ledger.hold("issuing", SerialNumber(2), by="test")
            await ca.start()
            kept = Kept()
            assert await ended(ca, kept) == "all"
            copy, at_copy = await ca.copy(), survivor(kept)
            await old_history(ca)
            mortal = Mortal(kept.applied, kept.head, dict(kept.known), complete=set(kept.complete))
            mortal.steps, mortal.last = 0, last
            with suppress(Died):
                await ended(ca, mortal)
            if restored:
                await ca.restore(copy)
                await ca.issue(9)
            left = survivor(mortal)
            how = await ended(ca, left)
            ends.append(how)
            unchanged = (mortal.applied, mortal.head, mortal.known) == (
                at_copy.applied,
                at_copy.head,
                at_copy.known,
            )
            assert how == ("all" if unchanged or not restored else "feed-forked")
            if how == "all":
                assert left.known == await ca.statuses()
            if mortal.steps < last:
                break
    assert len(ends) > 6
    assert ends[0] == "all"


async def test_killed_in_the_first_page(tmp_path: Path) -> None:
    """Nothing is applied yet, but something of the history that is lost is in the table."""
    for last in count(1):
        folder = tmp_path / str(last)
        folder.mkdir()
        async with world(folder) as ca:
            copy = await ca.copy()
            await ca.issue(3)
            await ca.start()
            mortal = Mortal()
            mortal.steps, mortal.last = 0, last
            with suppress(Died):
                await ended(ca, mortal)
            await ca.restore(copy)
            await ca.issue(5, "root")
            assert await ended(ca, survivor(mortal)) == "feed-forked"
            if mortal.steps < last:
                break
    assert last > 3


class Words:
    """The words of a table, of which each is stored by itself."""

    def __init__(self, view: Any, before: Callable[[], None]) -> None:
        self.view, self.before = view, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.view, name)

    def __getitem__(self, at: Any) -> Any:
        return self.view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        places = range(at.start, at.stop) if isinstance(at, slice) else [at]
        for place, word in zip(places, value if isinstance(at, slice) else [value], strict=True):
            self.before()
            self.view[place] = word


def head(number: int) -> TreeHead:
    return TreeHead(number, sha256(b"%d" % number).digest())


@pytest.mark.parametrize("known", [0, 1, 2], ids=["none", "one", "two"])
def test_a_tree_head_is_the_old_one_or_the_new_one(tmp_path: Path, known: int) -> None:
    for last in range(8):
        writer = TableWriter.open(tmp_path / f"{last}", room=1 << 24, slots=8)
        assert writer.head == NO_LEAVES
        for number in range(1, known + 1):
            writer.head = head(number)
        before = writer.head
        steps = iter(range(100))

        def die() -> None:
            if next(steps) == last:  # noqa: B023
                raise Died

        writer._table.words = Words(writer._table.words, die)  # type: ignore[assignment]
        with suppress(Died):
            writer.head = head(99)
        done = next(steps) <= last
        writer._table.words = writer._table.words.view  # type: ignore[attr-defined]
        leave(writer)
        with closing(TableWriter.open(tmp_path / f"{last}")) as following:
            assert following.head == (head(99) if done else before)
            following.head = head(100)
            assert following.head == head(100)
        with closing(TableWriter.open(tmp_path / f"{last}")) as following:
            assert following.head == head(100)
        with closing(TableWriter.open(tmp_path / f"{last}", anew=True)) as following:
            assert following.head == NO_LEAVES
    assert done


def test_beginning_again_is_killed_anywhere(tmp_path: Path) -> None:
    """Whatever is left, the fork is found once more, or all is read once more."""
    for last in range(12):
        path = tmp_path / f"{last}" / "table"
        statuses = Statuses(path)
        statuses.applied = 7
        statuses.head = head(7)
        steps = iter(range(100))

        def die() -> None:
            if next(steps) == last:  # noqa: B023
                raise Died

        table = statuses._table._table
        table.words = Words(table.words, die)  # type: ignore[assignment]
        with suppress(Died):
            statuses.retain("the CA has forked")
        table.words = table.words.view  # type: ignore[attr-defined]
        leave(statuses._table)
        with closing(Statuses(path)) as following:
            assert following.retaining
            if following.head == NO_LEAVES:
                assert following.applied == 0
            else:
                assert following.head == head(7)
                assert not following.untouched
            following.retain("the CA has forked")
            assert following.untouched


async def test_a_fork_while_a_fork_is_taken_in(tmp_path: Path) -> None:
    """The table is filled over from the beginning, and the CA is restored once more."""
    async with world(tmp_path) as ca:
        ca.page = 1
        await ca.issue(2)
        await ca.start()
        copy = await ca.copy()
        with closing(Statuses(tmp_path / "status" / "table")) as statuses:
            for more in (5, 10, 15):
                await ca.issue(4)
                follower = ca.follower(statuses)  # type: ignore[arg-type]
                async with running(follower):
                    await until(lambda: statuses.applied > 2)
                await ca.restore(copy)
                await ca.issue(more)  # so many that no number and no size tells it
                follower = ca.follower(statuses)  # type: ignore[arg-type]
                async with running(follower) as task:
                    await asyncio.wait([task], timeout=20)
                    with pytest.raises(Rejected) as refused:
                        await task
                assert refused.value.code == "feed-forked"
                statuses.retain(refused.value.detail)
                assert statuses.untouched
            follower = ca.follower(statuses)  # type: ignore[arg-type]
            async with running(follower):
                await ca.caught_up(follower)
            assert statuses.applied == await ca.ledger.sequence()
