"""A series of CRLs over a real store: what is due, what is kept, what is taken from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from crl.history import END_OF_TIME, Kind, State
from crl.schedule import Schedule, Timing
from crl.series import COLLECTIONS
from crl.terms import Terms
from crl.upkeep import Upkeep
from infra.errors import Broken, Rejected, Unavailable
from infra.store.sqlite import SqliteStore
from pki.algorithms import KeyType
from pki.findings import Finding, Severity
from pki.partition import partition_of
from tests.contract.crl_fixtures import DAY, NOW, authority, sha256, until
from tests.contract.crl_series_fixtures import House, open_house_store

DELTA = "http://crl.test/issuing.delta.crl"


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def house(tmp_path: Path, threads: ThreadPoolExecutor) -> AsyncIterator[House]:
    store = await open_house_store(tmp_path)
    yield House(authority(threads), store, tmp_path / "crl")
    await store.close()


async def test_what_is_published_is_logged_announced_and_found(house: House) -> None:
    house.ledger.revoke(5)
    series = house.series(house.scope(delta_url=DELTA))
    full = await series.issue_full()
    delta = await series.issue_delta()
    assert full.sha256 == sha256(full.read())
    assert full.size == len(full.read())
    assert (full.kind, full.base, full.count, full.sequence) == (Kind.full, None, 1, 1)
    assert (delta.kind, delta.base, delta.count) == (Kind.delta, full.number, 0)
    assert [detail["crl_number"] for detail in house.acts.named("crl.issue")] == [
        full.number, delta.number,
    ]  # fmt: skip
    assert house.acts.kept[f"crl/issuing/{full.number:020}"][1] == full.sha256
    events = [one.event for one in await house.store.events(0)]
    assert [(event.topic, event.body["kind"]) for event in events] == [
        ("crl.published", "full"), ("crl.published", "delta"),
    ]  # fmt: skip
    assert await series.by_number(full.number) == full
    newest = await series.history.latest(limit=10)
    assert [stored.body["number"] for stored in newest] == [delta.number, full.number]
    with pytest.raises(Rejected, match="no-such-crl"):
        await series.by_number(1)


async def test_a_ledger_from_before_is_told_by_the_crls_that_were_made_since(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series = house.series()
    first = await series.issue_full()
    await house.store.backup(tmp_path / "before.sqlite")  # type: ignore[attr-defined]
    house.clock.at += timedelta(hours=1)
    forgotten = await series.issue_full()
    assert (series.newer, await series.recover()) == (0, [])
    assert series.newer == 0
    before = await SqliteStore.open(tmp_path / "before.sqlite", COLLECTIONS)
    try:
        house.store = before
        series = house.series()
        assert await series.recover() == []
        assert series.current() == first
        assert series.newer == forgotten.number
        assert "crl-went-back" in caplog.text
        house.clock.at += timedelta(seconds=1)
        assert (await series.issue_full()).number > forgotten.number
        assert series.newer == 0
        # What else is in the folder is no CRL.
        for name in ("x.crl", "0.crl", "-5.crl", f"{'9' * 60}.crl"):
            (house.folder / "issuing" / name).touch()
        again = house.series()
        await again.recover()
        assert again.newer == 0
    finally:
        await before.close()


async def test_a_delta_needs_a_base(house: House) -> None:
    with pytest.raises(Unavailable, match="no-crl-yet"):
        await house.series(house.scope(delta_url=DELTA)).issue_delta()


async def test_old_files_go_but_not_their_documents(house: House, tmp_path: Path) -> None:
    house.terms = Terms(keep=2, keep_for=timedelta(hours=2))
    series = house.series()
    made = []
    for _ in range(6):
        house.clock.at += timedelta(hours=1)
        made.append(await series.issue_full())
    # The last two, and those of the last two hours.
    kept = {crl.number for crl in made if crl.path.exists()}
    assert kept == {crl.number for crl in made[4:]}
    with pytest.raises(Rejected, match="crl-not-kept"):
        await series.by_number(made[0].number)
    assert len(await series.history.in_state(State.published)) == 6
    assert not list((tmp_path / "crl" / "issuing").glob(f"{made[0].number}.*"))


async def test_the_base_of_the_current_delta_stays(house: House) -> None:
    house.terms = Terms(keep=1)
    series = house.series(house.scope(delta_url=DELTA))
    full = await series.issue_full()
    for _ in range(3):
        house.clock.at += timedelta(hours=1)
        delta = await series.issue_delta()
    assert full.path.exists() and delta.path.exists()


async def test_numbers_and_times_never_go_back(house: House) -> None:
    series = house.series(house.scope(delta_url=DELTA))
    first = await series.issue_full()
    second = await series.issue_delta()
    assert second.number == first.number + 1
    house.clock.at -= timedelta(seconds=1)
    third = await series.issue_full()
    assert (third.number, third.this_update) == (second.number + 1, NOW)
    house.clock.at -= timedelta(minutes=1)
    with pytest.raises(Unavailable, match="clock-went-back"):
        await series.issue_full()
    assert series.current() == third


async def test_a_number_grows_after_the_store_and_the_files_were_lost(
    house: House, tmp_path: Path
) -> None:
    first = await house.series().issue_full()
    fresh = await SqliteStore.open(tmp_path / "new.sqlite", ())
    await fresh.close()
    (tmp_path / "new").mkdir()
    other = House(
        house.authority, await open_house_store(tmp_path / "new"), tmp_path / "crl2", house.clock
    )
    other.clock.at += timedelta(seconds=1)
    assert (await other.series().issue_full()).number > first.number
    await other.store.close()


async def test_nothing_outlives_the_issuer(house: House) -> None:
    house.clock.at = house.authority.issuer.not_after - timedelta(hours=1)
    series = house.series()
    assert (await series.issue_full()).next_update == house.authority.issuer.not_after
    house.clock.at = house.authority.issuer.not_after
    with pytest.raises(Rejected, match="issuer-expired"):
        await series.issue_full()


async def test_many_changes_are_read_from_the_ledger(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crl.contents.MANY", 10)
    series = house.series(house.scope(delta_url=DELTA))
    await series.issue_full()
    for serial in range(1, 12):
        house.ledger.revoke(serial)
    with pytest.raises(Rejected, match="too-many-changes"):
        await series.issue_delta()
    assert (await series.issue_full()).count == 11


async def test_another_key_is_refused(house: House, threads: ThreadPoolExecutor) -> None:
    with pytest.raises(Broken, match="wrong-crl-key"):
        house.series(signer=authority(threads, KeyType.P_384).signer)


async def test_what_a_linter_objects_to_is_not_published(house: House) -> None:
    seen = []

    class Strict:
        async def crl(self, der: bytes) -> tuple[Finding, ...]:
            seen.append(der)
            if len(seen) == 1:
                raise Unavailable("lint-timeout", "too slow")
            return (Finding("pkix.bad", Severity.ERROR, "all of it", "pkix"),)

    for serial in range(1, 500):
        house.ledger.revoke(serial)
    series = house.series()
    series._maker._linter = Strict()
    first = await series.issue_full()  # a linter that is away delays no revocation
    assert len(list(x509.load_der_x509_crl(seen[0]))) == 8
    with pytest.raises(Broken, match="crl-check"):
        await series.issue_full()
    assert series.current() == first


# What is due


async def test_upkeep_makes_deltas_and_then_a_full_one(house: House) -> None:
    house.terms = Terms(lifetime=7 * DAY, delta_lifetime=DAY)
    series = house.series(house.scope(delta_url=DELTA))
    upkeep = Upkeep(series, house.clock, overlap=timedelta(hours=12))
    await upkeep.issue()
    first = series.current()
    standing = upkeep.current()
    assert (standing.this_update, standing.next_update) == (NOW, NOW + DAY)
    house.ledger.revoke(5)
    house.clock.at += timedelta(hours=1)
    assert (await upkeep.issue()).sequence == 1
    assert series.current() == first
    assert series.current(Kind.delta).count == 1
    house.clock.at = NOW + 6 * DAY + timedelta(hours=12)
    await upkeep.issue()
    assert series.current().number > first.number
    assert series.current(Kind.delta).base == series.current().number
    assert (series.current().count, series.current(Kind.delta).count) == (1, 0)


async def test_after_the_final_one_no_delta_is_due(house: House) -> None:
    series = house.series(house.scope(delta_url=DELTA))
    upkeep = Upkeep(series, house.clock, overlap=timedelta(hours=12))
    await upkeep.issue()
    await series.issue_full(final=True)
    house.clock.at += 30 * DAY
    assert upkeep.current().next_update == END_OF_TIME
    house.ledger.revoke(5)
    with pytest.raises(Rejected, match="crl-series-ended"):
        await upkeep.issue()


async def test_upkeep_makes_a_full_one_when_too_much_changed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crl.contents.MANY", 3)
    series = house.series(house.scope(delta_url=DELTA))
    upkeep = Upkeep(series, house.clock, overlap=timedelta(hours=12))
    await upkeep.issue()
    for serial in range(1, 6):
        house.ledger.revoke(serial)
    assert (await upkeep.issue()).sequence == 5
    assert series.current().count == 5


async def test_a_schedule_keeps_a_series_current_and_repeats_what_fails(house: House) -> None:
    series = house.series(house.scope(delta_url=DELTA))
    upkeep = Upkeep(series, house.clock, overlap=timedelta(hours=12))
    timing = Timing(retry_first=timedelta(milliseconds=1))
    schedule = Schedule(upkeep, house.clock, timing)
    await schedule.start(0)
    await schedule.caught_up(0)
    house.acts.full = True
    house.ledger.revoke(5)
    schedule.changed()
    await until(lambda: schedule.failures > 1)
    assert schedule.failing == "storage-full"
    assert series.current(Kind.delta).count == 0
    house.acts.full = False
    async with asyncio.timeout(20):
        await schedule.caught_up(1)
    assert series.current(Kind.delta).count == 1
    assert schedule.failing is None
    await schedule.stop()


def test_partitions_are_spread_and_stable() -> None:
    before = {serial: partition_of("issuing", serial, 16) for serial in range(2000)}
    assert before == {serial: partition_of("issuing", serial, 16) for serial in range(2000)}
    counts = [list(before.values()).count(str(number)) for number in range(1, 17)]
    assert min(counts) > 80
    assert {partition_of("other", serial, 16) for serial in range(99)} <= set(before.values())
    assert before != {serial: partition_of("other", serial, 16) for serial in range(2000)}
