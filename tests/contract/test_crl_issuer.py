"""The CRL issuer over a real store: numbers, times, checks, and what stays after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from crl.encode import build_tbs, parse_crl
from crl.issuer import CRLS, IssuedCrl
from crl.schedule import Schedule, Timing
from infra.errors import Broken, Rejected, Unavailable
from pki.algorithms import KeyType, verify
from pki.status import RevocationReason, Revoked
from tests.contract.crl_fixtures import DAY, NOW, World, authority, open_store, sha256, until


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def world(tmp_path: Path, threads: ThreadPoolExecutor) -> AsyncIterator[World]:
    store = await open_store(tmp_path)
    yield World(authority(threads), store)
    await store.close()


def serials(crl: IssuedCrl) -> list[int]:
    return [entry.serial for entry in parse_crl(crl.der).tbs.entries()]


async def test_a_crl_says_what_the_ledger_says(world: World) -> None:
    world.statuses.revoke(5, NOW - DAY, RevocationReason.keyCompromise, NOW - 3 * DAY)
    world.statuses.hold(3)
    issuer = world.issuer()
    assert await issuer.recover() == []
    made = await issuer.issue()

    assert issuer.current() == made
    read = parse_crl(made.der)
    assert [(e.serial, e.at, e.reason, e.invalidity_date) for e in read.tbs.entries()] == [
        (5, NOW - DAY, RevocationReason.keyCompromise, NOW - 3 * DAY),
        (3, NOW, RevocationReason.certificateHold, None),
    ]
    assert (read.tbs.this_update, read.tbs.next_update) == (NOW, NOW + DAY)
    assert (made.sequence, made.count, made.sha256) == (2, 2, sha256(made.der))
    signer = world.authority.signer
    verify(signer.algorithm, signer.public_key_info, read.signature, read.tbs.der)


async def test_the_act_is_recorded_and_announced(world: World) -> None:
    made = await world.issuer().issue()
    assert world.acts.kept == {
        f"crl/issuing/{made.number:020}": (
            "crl.issue",
            made.sha256,
            {"issuer": "issuing", "crl_number": made.number, "entries": 0, "sequence": 0},
        )
    }
    [announced] = await world.store.events(0)
    assert (announced.event.topic, announced.event.key) == ("crl.published", "issuing")
    assert announced.event.body == {"number": made.number}


async def test_numbers_grow_with_time_and_without_it_and_over_restarts(world: World) -> None:
    issuer = world.issuer()
    numbers = [(await issuer.issue()).number, (await issuer.issue()).number]
    assert numbers == [int(NOW.timestamp() * 1000), int(NOW.timestamp() * 1000) + 1]
    world.clock.at = NOW + timedelta(seconds=9)
    again = world.issuer()
    await again.recover()
    numbers.append((await again.issue()).number)
    assert numbers == sorted(set(numbers))
    assert numbers[2] == int(world.clock.at.timestamp() * 1000)


async def test_a_number_grows_even_after_the_store_was_restored(
    world: World, tmp_path: Path
) -> None:
    last = await world.issuer().issue()
    (tmp_path / "older").mkdir()
    older = await open_store(tmp_path / "older")
    world.clock.at = NOW + timedelta(seconds=1)
    try:
        restored = await replace(world, store=older).issuer().issue()
    finally:
        await older.close()
    assert restored.number > last.number


async def test_two_processes_never_use_one_number(world: World) -> None:
    made = await asyncio.gather(*(world.issuer().issue() for _ in range(4)), return_exceptions=True)
    numbers = [one.number for one in made if isinstance(one, IssuedCrl)]
    refused = [one for one in made if not isinstance(one, IssuedCrl)]
    assert len(numbers) == len(set(numbers)) >= 1
    assert all(isinstance(one, Unavailable) and one.code == "crl-number-taken" for one in refused)


async def test_earlier_ones_are_found_by_their_number(world: World) -> None:
    issuer = world.issuer()
    first = await issuer.issue()
    world.statuses.revoke(8)
    second = await issuer.issue()
    assert await issuer.by_number(first.number) == first
    assert await issuer.by_number(second.number) == second
    for unknown in (0, -1, second.number + 1):
        with pytest.raises(Rejected, match="no-such-crl"):
            await issuer.by_number(unknown)


async def test_there_is_none_before_the_first(world: World) -> None:
    with pytest.raises(Unavailable, match="no-crl-yet"):
        world.issuer().current()


async def test_a_restart_serves_the_last_one(world: World) -> None:
    made = await world.issuer().issue()
    again = world.issuer()
    assert await again.recover() == []
    assert again.current() == made


async def test_a_clock_that_went_back_stops_it(world: World) -> None:
    issuer = world.issuer()
    made = await issuer.issue()
    world.clock.at = NOW - timedelta(seconds=3)
    with pytest.raises(Unavailable, match="clock-went-back"):
        await issuer.issue()
    assert issuer.current() == made
    world.clock.at = NOW - timedelta(seconds=1)
    again = await issuer.issue()
    assert again.this_update == made.this_update
    assert again.number == made.number + 1


async def test_a_revocation_from_the_future_stops_it(world: World) -> None:
    world.statuses.revoke(1, NOW + timedelta(seconds=3))
    with pytest.raises(Unavailable, match="clock-went-back"):
        await world.issuer().issue()
    assert await world.store.count(CRLS) == 0


async def test_a_crl_does_not_outlive_its_issuer(world: World, threads: ThreadPoolExecutor) -> None:
    ends = NOW + timedelta(hours=1)
    world.authority = authority(threads, not_after=ends)
    issuer = world.issuer()
    made = await issuer.issue()
    assert made.next_update == ends
    world.clock.at = ends
    with pytest.raises(Rejected, match="issuer-expired"):
        await issuer.issue()
    assert issuer.current() == made


async def test_a_signer_with_another_key_is_refused(
    world: World, threads: ThreadPoolExecutor
) -> None:
    other = authority(threads, KeyType.P_384)
    with pytest.raises(Broken, match="wrong-crl-key"):
        world.issuer(signer=other.signer)


class WrongSignature:
    """A token that returns something else than a signature by its key."""

    def __init__(self, world: World) -> None:
        self.uri = "file:wrong"
        self.key_type = world.authority.signer.key_type
        self.algorithm = world.authority.signer.algorithm
        self.public_key_info = world.authority.signer.public_key_info
        self._signer = world.authority.signer

    async def sign(self, message: bytes) -> bytes:
        return await self._signer.sign(message + b"x")

    async def close(self) -> None:
        await self._signer.close()


async def test_a_signature_that_does_not_verify_is_not_published(world: World) -> None:
    good = world.issuer()
    made = await good.issue()
    bad = world.issuer(signer=WrongSignature(world))
    await bad.recover()
    with pytest.raises(Broken, match="crl-check"):
        await bad.issue()
    assert bad.current() == made
    assert [act["crl_number"] for act in world.acts.named("crl.void")] == [made.number + 1]
    assert (await bad.recover()) == []


@pytest.mark.parametrize("field", ["entries", "thisUpdate"])
async def test_what_reads_back_differently_is_not_signed(
    world: World, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.statuses.revoke(4)

    def wrong(**parts: object) -> bytes:
        if field == "entries":
            parts["entries"] = ()
        else:
            parts["this_update"] = NOW - DAY
        return build_tbs(**parts)  # type: ignore[arg-type]

    monkeypatch.setattr("crl.issuer.build_tbs", wrong)
    steps: list[str] = []
    issuer = world.issuer(checkpoint=steps.append)
    with pytest.raises(Broken, match=field):
        await issuer.issue()
    assert steps == ["reserved"]
    assert len(world.acts.named("crl.void")) == 1


async def test_nothing_is_served_that_is_not_in_the_log(world: World) -> None:
    issuer = world.issuer()
    made = await issuer.issue()
    world.acts.full = True
    with pytest.raises(Unavailable, match="storage-full"):
        await issuer.issue()
    assert issuer.current() == made
    with pytest.raises(Rejected, match="no-such-crl"):
        await issuer.by_number(made.number + 1)
    # Once the log can be written again a restart finishes what was complete.
    world.acts.full = False
    again = world.issuer()
    assert await again.recover() == []
    assert again.current().number == made.number + 1
    assert len(world.acts.named("crl.issue")) == 2


async def test_a_complete_one_that_was_overtaken_becomes_void(world: World) -> None:
    issuer = world.issuer()
    world.acts.full = True
    with pytest.raises(Unavailable):
        await issuer.issue()
    world.acts.full = False
    made = await issuer.issue()
    again = world.issuer()
    assert await again.recover() == [made.number - 1]
    assert again.current() == made


async def test_a_certificate_that_changes_while_it_is_read_counts_once(world: World) -> None:
    class Moving:
        async def sequence(self) -> int:
            return 1

        async def revoked(self, issuer: str, /) -> AsyncIterator[tuple[int, Revoked]]:
            yield 1, Revoked(NOW, RevocationReason.certificateHold, None, 1)
            yield 2, Revoked(NOW, RevocationReason.superseded, None, 2)
            yield 1, Revoked(NOW, RevocationReason.keyCompromise, None, 3)

    made = await world.issuer(revoked=Moving()).issue()
    assert [(e.serial, e.reason.name) for e in parse_crl(made.der).tbs.entries()] == [
        (2, "superseded"),
        (1, "keyCompromise"),
    ]
    assert made.sequence == 1


# The schedule

FAST = Timing(retry_first=timedelta(milliseconds=1), retry_most=timedelta(milliseconds=4))


async def test_a_schedule_makes_the_first_and_then_one_for_each_change(world: World) -> None:
    issuer = world.issuer()
    schedule = Schedule(issuer, world.clock, FAST)
    await schedule.start(0)
    async with asyncio.timeout(20):
        await schedule.caught_up(0)
        first = issuer.current()
        world.statuses.revoke(11)
        await schedule.caught_up(1)
        assert serials(issuer.current()) == [11]
        world.statuses.hold(12)
        schedule.changed()
        await schedule.caught_up(2)
        assert serials(issuer.current()) == [11, 12]
        await schedule.stop()
    assert issuer.current().number > first.number
    assert (schedule.failures, schedule.failing) == (0, None)


async def test_a_change_that_is_counted_before_it_is_seen_is_waited_for(world: World) -> None:
    class Early:
        """Counts a change that its reader does not see yet, as a ledger with writes under way."""

        def __init__(self) -> None:
            self.reading = asyncio.Event()
            self.visible: list[int] = []
            self.go_on = asyncio.Event()

        async def sequence(self) -> int:
            return 1

        async def revoked(self, issuer: str, /) -> AsyncIterator[tuple[int, Revoked]]:
            seen = list(self.visible)
            self.reading.set()
            await self.go_on.wait()
            for serial in seen:
                yield serial, Revoked(NOW, RevocationReason.superseded, None, 1)

    source = Early()
    issuer = world.issuer(revoked=source)
    schedule = Schedule(issuer, world.clock, FAST)
    await schedule.start(0)
    async with asyncio.timeout(20):
        await source.reading.wait()
        source.visible.append(71)  # committed while the CRL without it is made
        schedule.changed()
        waiting = asyncio.create_task(schedule.caught_up(1))
        await asyncio.sleep(0)
        source.go_on.set()
        await waiting
        assert serials(issuer.current()) == [71]
        await schedule.stop()


async def test_changes_are_gathered_while_it_waits(world: World) -> None:
    issuer = world.issuer()
    await issuer.issue()
    timing = replace(FAST, debounce=timedelta(milliseconds=500))
    schedule = Schedule(issuer, world.clock, timing)
    await schedule.start(0)
    async with asyncio.timeout(20):
        for serial in range(1, 6):
            world.statuses.revoke(serial)
            schedule.changed()
            await asyncio.sleep(0.005)
        await until(lambda: issuer.current().sequence == 5)
        await schedule.stop()
    assert serials(issuer.current()) == [1, 2, 3, 4, 5]
    assert len(world.acts.named("crl.issue")) == 2


async def test_nothing_more_is_gathered_when_somebody_waits(world: World) -> None:
    issuer = world.issuer()
    await issuer.issue()
    schedule = Schedule(issuer, world.clock, replace(FAST, debounce=timedelta(hours=1)))
    await schedule.start(0)
    world.statuses.revoke(1)
    schedule.changed()
    async with asyncio.timeout(20):
        await asyncio.sleep(0.01)
        assert issuer.current().sequence == 0
        await schedule.caught_up(1)
        await schedule.stop()
    assert serials(issuer.current()) == [1]


async def test_a_start_after_a_crash_makes_up_for_what_was_missed(world: World) -> None:
    issuer = world.issuer()
    await issuer.issue()
    world.statuses.revoke(21)
    schedule = Schedule(issuer, world.clock, FAST)
    await schedule.start(await world.statuses.sequence())
    async with asyncio.timeout(20):
        await until(lambda: issuer.current().sequence == 1)
        await schedule.stop()
    assert serials(issuer.current()) == [21]


async def test_the_next_one_comes_before_the_current_one_ends(world: World) -> None:
    issuer = world.issuer()
    first = await issuer.issue()
    timing = replace(FAST, overlap=timedelta(hours=6))
    schedule = Schedule(issuer, world.clock, timing)
    world.clock.at = first.next_update - timedelta(hours=6, seconds=1)
    assert schedule._due_in() == timedelta(seconds=1)
    world.clock.at += timedelta(seconds=1)
    await schedule.start(0)
    async with asyncio.timeout(20):
        await until(lambda: issuer.current().number > first.number)
        await schedule.stop()
    assert issuer.current().this_update == world.clock.at
    assert len(world.acts.named("crl.issue")) == 2


async def test_a_failure_is_counted_and_repeated(world: World) -> None:
    issuer = world.issuer()
    made = await issuer.issue()
    world.acts.full = True
    schedule = Schedule(issuer, world.clock, FAST)
    await schedule.start(0)
    world.statuses.revoke(31)
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(schedule.caught_up(1))
        await until(lambda: schedule.failures >= 3)
        assert schedule.failing == "storage-full"
        assert issuer.current() == made
        world.acts.full = False
        await waiting
        await schedule.stop()
    assert serials(issuer.current()) == [31]
    assert schedule.failing is None


async def test_a_stop_lets_go_of_who_waits(world: World) -> None:
    issuer = world.issuer()
    world.acts.full = True
    schedule = Schedule(issuer, world.clock, FAST)
    await schedule.start(0)
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(schedule.caught_up(1))
        await until(lambda: schedule.failures > 0)
        await schedule.stop()
        with pytest.raises(Unavailable, match="crl-schedule-stopped"):
            await waiting
        with pytest.raises(Unavailable, match="crl-schedule-stopped"):
            await schedule.caught_up(1)
