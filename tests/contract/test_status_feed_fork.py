"""A CA whose history is not the one that was followed: noticed, whatever its numbers are by now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from infra.errors import Rejected
from ocsp.feed import (
    VERSION,
    WITHOUT_LOG,
    Authorities,
    Changes,
    Continuation,
    Frame,
    Heartbeat,
    authorities_hash,
    encode,
)
from ocsp.feed_http import PAGE
from ocsp.feed_wire import FEED_PATH, MEDIA_TYPE, FeedKey, Frames, open_frame
from ocsp.follower import Timing
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.algorithms import verify
from pki.log.act import Act
from pki.record import CERTIFICATES, Record
from pki.status import Good, Revoked
from tests.contract.feed_fixtures import OPERATOR, Kept, World, feed_signer, running, until, world
from tests.contract.test_status_feed_http import asked, revoke


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def followed(ca: World, kept: Kept) -> None:
    """Let a follower learn all that there is, and go."""
    follower = ca.follower(kept)
    async with running(follower) as task:
        await ca.caught_up(follower)
        assert not task.done()


async def refused(ca: World, kept: Kept) -> Rejected:
    """Why a follower ends."""
    follower = ca.follower(kept)
    async with running(follower) as task:
        await until(task.done)
        with pytest.raises(Rejected) as found:
            await task
    assert follower.failing is found.value
    return found.value


async def frames_of(ca: World, query: str, count: int) -> list[Frame]:
    """What the feed begins with."""
    frames, found = Frames(), list[Frame]()
    key = FeedKey.of(ca.signer.public_key_info)
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with (
        aiohttp.ClientSession(ca.url, headers=headers) as session,
        session.get(f"{FEED_PATH}?version=2&{query}") as response,
    ):
        assert response.content_type == MEDIA_TYPE
        while len(found) < count:
            found += [
                open_frame(signed, key, "status")
                for signed in frames.feed(await response.content.readany())
            ]
    return found


# Other histories


@pytest.mark.parametrize("more", [0, 1, 30])
async def test_a_ca_that_was_restored_and_has_passed_the_follower(ca: World, more: int) -> None:
    """It has revoked other certificates under the numbers that the follower knows already."""
    await ca.issue(6)
    await ca.start()
    copy = await ca.copy()  # at 6
    kept = Kept()
    for serial in (1, 2, 3):
        await revoke(ca, serial)
    await followed(ca, kept)
    assert kept.applied == 9
    await ca.restore(copy)
    for serial in (4, 5, 6):
        await revoke(ca, serial)
    await ca.issue(more)
    assert await ca.ledger.sequence() == 9 + more
    assert (await refused(ca, kept)).code == "feed-forked"
    assert kept.known["issuing", 5] == Good()  # nothing was believed of it
    assert isinstance(kept.known["issuing", 1], Revoked)


async def test_it_is_noticed_by_a_follower_that_runs_all_the_time(ca: World) -> None:
    await ca.issue(3)
    await ca.start()
    copy = await ca.copy()
    kept = Kept()
    follower = ca.follower(kept)
    async with running(follower) as task:
        await revoke(ca, 1)
        await ca.caught_up(follower)
        await ca.stop()
        await ca.restore(copy)
        await ca.issue(20)
        await ca.start()
        await until(task.done)
        with pytest.raises(Rejected) as found:
            await task
    assert found.value.code == "feed-forked"


async def test_two_copies_that_both_went_on(ca: World) -> None:
    """Each of them is followed as long as it is the same one."""
    await ca.issue(4)
    await ca.start()
    copy = await ca.copy()
    kept = {serial: Kept() for serial in (1, 2)}
    for serial in kept:
        await ca.restore(copy)
        await revoke(ca, serial)
        await followed(ca, kept[serial])
        await ca.issue(3)
        await followed(ca, kept[serial])
        assert kept[serial].known == await ca.statuses()
    assert kept[1].applied == kept[2].applied
    assert kept[1].head.size == kept[2].head.size
    assert (await refused(ca, kept[1])).code == "feed-forked"
    await followed(ca, kept[2])


async def test_acts_that_are_no_certificates_tell_histories_apart_too(ca: World) -> None:
    await ca.issue(2)
    await ca.start()
    copy = await ca.copy()
    kept = Kept()
    now = ca.ledger.now()
    for who in ("one", "another"):
        await ca.restore(copy)
        act = Act(f"test/{who}", "configuration.change", who, now, bytes(32), {})
        await ca.log.append(act)
        if who == "one":
            await followed(ca, kept)
    assert (await refused(ca, kept)).code == "feed-forked"


async def test_a_log_that_is_shorter_than_what_is_known(ca: World) -> None:
    await ca.issue(2)
    await ca.start()
    assert (await refused(ca, Kept(applied=2, head=TreeHead(3, bytes(32))))).code == "feed-ahead"
    assert await asked(ca, f"{FEED_PATH}?version=2&after=0&log=3", OPERATOR) == (409, "feed-ahead")
    assert await asked(ca, f"{FEED_PATH}?version=2&after=2&log=2", OPERATOR) == (200, "")


# The same history


async def test_a_copy_that_goes_on_where_the_follower_is(ca: World) -> None:
    """What the CA has lost, the follower never had."""
    await ca.issue(5)
    await ca.start()
    kept = Kept()
    await followed(ca, kept)
    copy = await ca.copy()
    await revoke(ca, 3)
    await ca.restore(copy)
    await revoke(ca, 4)
    await followed(ca, kept)
    assert kept.known == await ca.statuses()
    assert kept.known["issuing", 3] == Good()


async def test_a_log_of_many_tiles_goes_on_over_many_connections(ca: World) -> None:
    await ca.start()
    kept = Kept()
    sizes = set()
    for count in (0, 1, 2, 3, 60, 190, 1, 256, 5, 0):
        await ca.issue(count)
        await followed(ca, kept)
        sizes.add(kept.head.size)
        assert kept.head == TreeHead(ca.log.size, ca.log.root())
    assert len(sizes) == 9
    assert kept.known == await ca.statuses()


async def test_followers_from_different_places_at_the_same_time(ca: World) -> None:
    await ca.start()
    all_kept = []
    for _ in range(6):
        await ca.issue(7)
        all_kept.append(Kept())
        await followed(ca, all_kept[-1])
    all_kept += [Kept(), Kept()]
    followers = [ca.follower(kept) for kept in all_kept]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follower.run()) for follower in followers]
        for follower in followers:
            await ca.caught_up(follower)
        await ca.issue(30)
        for follower in followers:
            await ca.caught_up(follower)
        for task in tasks:
            assert not task.done()
            task.cancel()
    statuses = await ca.statuses()
    assert all(kept.known == statuses for kept in all_kept)


async def test_whatever_a_frame_tells_is_in_the_log_that_it_builds_on(ca: World) -> None:
    """Also of what is being issued and revoked at this moment."""
    await ca.issue(20)
    await ca.start()
    heads: list[TreeHead] = []
    told: list[tuple[int, TreeHead]] = []

    class Watching(Kept):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if isinstance(value, TreeHead):
                heads.append(value)
            if name == "applied" and isinstance(value, int) and value:
                told.append((value, heads[-1]))

    kept = Watching()
    follower = ca.follower(kept)
    async with running(follower):

        async def work(serial: int) -> None:
            await ca.issue(8)
            await revoke(ca, serial)

        await asyncio.gather(*(work(serial) for serial in range(1, 13)))
        await ca.caught_up(follower)
    assert len(told) > 2
    places = {}
    for record in await ca.ledger.changed(0, limit=PAGE):
        status = record.status
        act = record.act_id
        if isinstance(status, Revoked):
            act = f"revoke/{record.stored.id}/{record.stored.version - 2}"
        place = await ca.log.find(act)
        assert place is not None, act
        places[record.sequence] = place
    for upto, head in told:
        assert head.root == await ca.log.root_at(head.size)
        assert all(place < head.size for number, place in places.items() if number <= upto)


async def test_what_is_told_before_its_writer_has_heard_is_in_the_log(
    ca: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has kept it, so the feed finds it; the log in memory is not that far."""
    await ca.issue(3)
    await ca.start()
    kept = Kept()
    write, sizes = ca.store.write, list[int]()

    async def held(changes: Any) -> Any:
        done = await write(changes)
        await until(lambda: kept.applied == 4)
        sizes.append(ca.log.mark[0])
        return done

    follower = ca.follower(kept)
    async with running(follower):
        await ca.caught_up(follower)
        monkeypatch.setattr(ca.store, "write", held)
        await ca.issue()
    assert kept.head == TreeHead(4, ca.log.root())
    assert sizes == [4]


async def test_a_copy_that_finishes_what_was_interrupted_in_another_order(
    ca: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two revocations are in the log but not made yet. Here the second one is made first, and gets
    the next number; in the copy the first one would."""
    await ca.issue(4)
    await ca.start()
    gates = {serial: asyncio.Event() for serial in (1, 2)}
    append = ca.log.append

    async def gated(act: Act) -> object:
        index = await append(act)
        await gates[int(str(act.detail["serial"]), 16)].wait()
        return index

    monkeypatch.setattr(ca.log, "append", gated)
    tasks = []
    for serial in (1, 2):
        tasks.append(asyncio.create_task(revoke(ca, serial)))
        await until(lambda serial=serial: ca.log.size == 4 + serial)  # type: ignore[misc]
    copy = await ca.copy()
    gates[2].set()
    await tasks[1]
    kept = Kept()
    await followed(ca, kept)
    assert (kept.applied, kept.known["issuing", 1]) == (5, Good())
    assert isinstance(kept.known["issuing", 2], Revoked)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await ca.restore(copy)
    await followed(ca, kept)
    assert kept.known == await ca.statuses()
    assert isinstance(kept.known["issuing", 1], Revoked)


async def test_a_new_follower_begins_with_any_log(ca: World) -> None:
    await ca.start()
    for _ in range(2):
        kept = Kept()
        await followed(ca, kept)
        assert kept.head == TreeHead(ca.log.size, ca.log.root())
        await ca.issue(3)


async def test_a_follower_that_knew_of_no_log_learns_it_from_here_on(
    ca: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Its table was filled by an earlier version of this program."""
    await ca.issue(5)
    await ca.start()
    kept = Kept()
    await followed(ca, kept)
    kept.head = NO_LEAVES
    copy = await ca.copy()
    await ca.issue(2)
    await followed(ca, kept)
    assert "is known from here on" in caplog.text
    await ca.restore(copy)
    await ca.issue(2)
    assert (await refused(ca, kept)).code == "feed-forked"


# Versions of the feed


async def test_what_a_feed_begins_with(ca: World) -> None:
    await ca.issue(9)
    await ca.start()
    authorities, continuation, changes, heartbeat, *_ = await frames_of(ca, "after=4&log=3", 4)
    assert isinstance(authorities, Authorities)
    assert isinstance(continuation, Continuation)
    assert isinstance(changes, Changes)
    assert isinstance(heartbeat, Heartbeat)
    assert (continuation.upto, continuation.old, continuation.head) == (
        4,
        3,
        TreeHead(9, ca.log.root()),
    )
    assert list(continuation.proof) == list(await ca.log.consistency(3, 9))
    assert (changes.after, heartbeat.upto, changes.basis) == (4, 9, heartbeat.basis)


async def test_an_older_follower_is_served_and_named(
    ca: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Octet for octet as before."""
    await ca.issue(5)
    await ca.start()
    frames, found = Frames(), []
    key = FeedKey.of(ca.signer.public_key_info)
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with (
        aiohttp.ClientSession(ca.url, headers=headers) as session,
        session.get(f"{FEED_PATH}?after=3") as response,
    ):
        while len(found) < 4:
            found += list(frames.feed(await response.content.readany()))
    read = []
    for signed in found[:4]:
        verify(key.algorithm, key.public_key_info, signed.signature, signed.message)
        assert signed.message[4:].startswith(b"digitalid status feed v1\0\x06status")
        message = signed.message.replace(b"feed v1\0", b"feed v2\0", 1)
        signature = await ca.signer.sign(message)
        [again] = Frames().feed(message + len(signature).to_bytes(2, "big") + signature)
        frame = open_frame(again, key, "status")
        assert encode("status", frame, WITHOUT_LOG) == signed.message
        read.append(frame)
    authorities, changes, *beats = read
    assert isinstance(authorities, Authorities)
    assert isinstance(changes, Changes)
    known = authorities_hash(authorities.issuers)
    assert changes.basis == known
    assert all(isinstance(beat, Heartbeat) and beat.basis == known for beat in beats)
    assert "token:operator follows in an older version" in caplog.text


async def test_an_older_ca_is_not_followed(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that somebody in between has made say less: what it sends would show no fork."""
    await ca.issue(5)
    await ca.start()
    monkeypatch.setattr("ocsp.follower.VERSION", WITHOUT_LOG)
    kept = Kept()
    follower = ca.follower(kept)
    async with running(follower) as task:
        await until(lambda: follower.failing is not None)
        assert follower.failing is not None
        assert follower.failing.code == "feed-version"
        assert "upgrade the CA's instance first" in follower.failing.detail
        assert (kept.known, kept.complete, kept.head) == ({}, set(), NO_LEAVES)
        # It keeps trying, and goes on once that was done.
        monkeypatch.setattr("ocsp.follower.VERSION", VERSION)
        await ca.caught_up(follower)
        assert not task.done()
    assert kept.known == await ca.statuses()


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("version=3&after=0", 409, "feed-version"),
        ("version=0&after=0", 409, "feed-version"),
        ("version=two", 400, "bad-number"),
        ("version=2&after=0&log=-1", 400, "bad-number"),
        ("version=2&after=0&log=x", 400, "bad-number"),
        (f"version=2&after=0&log={'9' * 40}", 400, "bad-number"),
        ("version=2&after=0&log=999999999999999999", 409, "feed-ahead"),
    ],
)
async def test_what_a_feed_cannot_be_asked(ca: World, query: str, status: int, code: str) -> None:
    await ca.issue(2)
    await ca.start()
    assert await asked(ca, f"{FEED_PATH}?{query}", OPERATOR) == (status, code)


# Somebody in between


async def test_without_the_proof_nothing_is_believed(
    ca: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the feed is as it should be."""
    await ca.issue(5)
    await ca.start()
    kept = Kept()
    await followed(ca, kept)
    copy = await ca.copy()
    await ca.issue(2)
    await followed(ca, kept)
    await ca.restore(copy)
    await ca.issue(4)
    before = dict(kept.known), kept.applied, kept.head
    from ocsp.follower import Follower

    apply = Follower._apply

    def without(self: Follower, frame: Frame) -> None:
        if not isinstance(frame, Continuation):
            apply(self, frame)

    monkeypatch.setattr(Follower, "_apply", without)
    follower = ca.follower(kept, timing=Timing(first=0.005, most=0.01))
    async with running(follower) as task:
        await until(lambda: follower.failing is not None)
        assert follower.failing is not None
        assert follower.failing.code == "feed-authorities"
        assert not task.done()
    assert before == (kept.known, kept.applied, kept.head)


async def test_a_proof_by_another_key_is_not_believed(ca: World) -> None:
    """So nobody can make a follower think that the CA has forked."""
    await ca.issue(3)
    await ca.start()
    kept = Kept()
    await followed(ca, kept)
    await ca.stop()
    own, ca.signer = ca.signer, feed_signer(ca.signer._threads, b"another")
    await ca.start()
    follower = ca.follower(kept, key_info=own.public_key_info)
    async with running(follower) as task:
        await until(lambda: follower.failing is not None)
        assert follower.failing is not None
        assert follower.failing.code == "bad-signature"
        assert not task.done()


async def test_records_of_a_copy_have_the_numbers_of_the_original(ca: World) -> None:
    """What this file relies on: a copy is a state in which the original was."""
    await ca.issue(3)
    await revoke(ca, 2)
    copy = await ca.copy()
    before = {record.stored.id: record.sequence for record in await ca.ledger.changed(0)}
    await revoke(ca, 3)
    await ca.restore(copy)
    assert {r.stored.id: r.sequence for r in await ca.ledger.changed(0)} == before
    stored = await ca.store.get(CERTIFICATES, "issuing/02")
    assert stored is not None
    assert isinstance(Record(stored).status, Revoked)
