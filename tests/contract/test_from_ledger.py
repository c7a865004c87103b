"""The status table of the CA's own process says what the ledger says, whatever came before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from infra.clock import SystemClock
from infra.store.sqlite import SqliteStore
from ocsp.from_ledger import FromLedger
from ocsp.table import TableReader, TableWriter
from pki.hierarchy import COLLECTIONS as HIERARCHY
from pki.ledger import Ledger
from pki.log.log import COLLECTIONS as LOG
from pki.log.log import Log
from pki.record import CERTIFICATES
from pki.serial import SerialNumber
from pki.status import Good, RevocationReason, Unknown
from tests.contract.feed_fixtures import World, world

BY = "test"
WHY = RevocationReason.superseded


@pytest.fixture(name="house")
async def open_world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def opened(house: World, *, anew: bool = False) -> TableWriter:
    table = TableWriter.open(house.folder / "status" / "table", anew=anew)
    for name in house.issuers:
        table.issuer(name, complete=True, live=True)
    return table


async def agree(house: World, reader: TableReader) -> None:
    """The table and the ledger know the same certificates, and say the same of each."""
    statuses = await house.statuses()
    for (ca, serial), status in statuses.items():
        assert reader.status(ca, serial) == status
    assert reader.size == len(statuses)


async def test_what_the_ledger_has_is_in_the_table_once_it_started(house: World) -> None:
    await house.issue(5)
    await house.issue(2, "root")
    gone = await house.void()
    for serial, reason in ((1, WHY), (2, RevocationReason.keyCompromise)):
        await house.ledger.revoke("issuing", SerialNumber(serial), reason=reason, by=BY)
    await house.ledger.hold("issuing", SerialNumber(3), by=BY)
    await house.ledger.hold("issuing", SerialNumber(4), by=BY)
    await house.ledger.release("issuing", SerialNumber(4), by=BY)
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        await following.start()
        with closing(following.reader()) as reader:
            await agree(house, reader)
            assert reader.status("issuing", gone) == Unknown()
            assert reader.status("issuing", 4) == Good()
            assert table.applied == await house.ledger.sequence()


async def test_each_change_is_in_the_table_before_its_asker_hears_of_it(house: World) -> None:
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        await following.start()
        with closing(following.reader()) as reader:
            await house.issue()
            assert reader.status("issuing", 1) == Good()
            held = await house.ledger.hold("issuing", SerialNumber(1), by=BY)
            assert reader.status("issuing", 1) == held.status
            counter = reader.counter
            await house.ledger.release("issuing", SerialNumber(1), by=BY)
            assert reader.status("issuing", 1) == Good()
            assert reader.changed_since(counter)[1] == [reader.key("issuing", 1)]
            revoked = await house.ledger.revoke("issuing", SerialNumber(1), reason=WHY, by=BY)
            assert reader.status("issuing", 1) == revoked.status
            await agree(house, reader)


async def test_many_at_a_time(house: World) -> None:
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        await following.start()
        with closing(following.reader()) as reader:
            await house.issue(30)

            async def live(serial: SerialNumber) -> None:
                await house.ledger.hold("issuing", serial, by=BY)
                if serial % 2:
                    await house.ledger.release("issuing", serial, by=BY)
                    assert reader.status("issuing", serial) == Good()
                if serial % 3 == 0:
                    done = await house.ledger.revoke("issuing", serial, reason=WHY, by=BY)
                    assert reader.status("issuing", serial) == done.status

            await asyncio.gather(*(live(SerialNumber(serial)) for serial in range(1, 31)))
            await agree(house, reader)


async def test_it_goes_on_where_it_stood(house: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.issue(3)
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        await following.start()
        await house.issue(2)
        await following.remember()
        reached = table.applied
        assert reached == await house.ledger.sequence()
    # Another ledger over the same store: what happens now, the first does not hear of.
    ledger = await Ledger.open(house.store, house.log, SystemClock(), intent_key=bytes(32))
    await ledger.revoke("issuing", SerialNumber(2), reason=WHY, by=BY)
    read: list[int] = []
    changed = ledger.changed

    async def watched(after: int, *, limit: int = 1000) -> list[object]:
        read.append(after)
        return await changed(after, limit=limit)

    monkeypatch.setattr(ledger, "changed", watched)
    with closing(opened(house)) as table:
        following = FromLedger(ledger, house.log, table)
        await following.start()
        assert read[0] == reached
        with closing(following.reader()) as reader:
            assert reader.status("issuing", 2) == await ledger.status("issuing", 2)
            await agree(house, reader)


async def test_a_crash_before_it_was_remembered_costs_nothing_but_time(house: World) -> None:
    table = opened(house)
    following = FromLedger(house.ledger, house.log, table)
    await following.start()
    await house.issue(3)
    await house.ledger.hold("issuing", SerialNumber(2), by=BY)
    assert table.applied == 0
    table.close()
    ledger = await Ledger.open(house.store, house.log, SystemClock(), intent_key=bytes(32))
    await ledger.release("issuing", SerialNumber(2), by=BY)
    with closing(opened(house)) as table:
        following = FromLedger(ledger, house.log, table)
        await following.start()
        with closing(following.reader()) as reader:
            assert reader.status("issuing", 2) == Good()
            await agree(house, reader)


async def test_a_ledger_from_before_is_known_by_what_was_put_last(
    house: World, tmp_path: Path
) -> None:
    """The table tells it though nobody remembered, a moment ago, how far it was."""
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        await following.start()
        await house.issue(1)
        await house.ledger.hold("issuing", SerialNumber(1), by=BY)
        await following.remember()
        assert not await following.is_other()
        before = tmp_path / "before.sqlite"
        await house.store.backup(before)
        await house.ledger.release("issuing", SerialNumber(1), by=BY)
        assert table.applied == await house.ledger.sequence() - 1
        assert not await following.is_other()
    store = await SqliteStore.open(before, (CERTIFICATES, *LOG, *HIERARCHY))
    try:
        log = await Log.open(store, origin=house.log.origin, clock=SystemClock())
        ledger = await Ledger.open(store, log, SystemClock(), intent_key=bytes(32))
        with closing(opened(house)) as table:
            assert await FromLedger(ledger, log, table).is_other()
        with closing(opened(house, anew=True)) as table:
            following = FromLedger(ledger, log, table)
            assert not await following.is_other()
            await following.start()
            with closing(following.reader()) as reader:
                assert reader.status("issuing", 1) == await ledger.status("issuing", 1) != Good()
        await log.close()
    finally:
        await store.close()


async def test_a_ledger_that_went_on_elsewhere_is_known_by_its_log(house: World) -> None:
    """It has passed the number up to which the table has everything."""
    await house.issue(3)
    copy = await house.copy()
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        assert not await following.is_other()
        await following.start()
        await house.ledger.revoke("issuing", SerialNumber(1), reason=WHY, by=BY)
        await house.ledger.hold("issuing", SerialNumber(2), by=BY)
        await house.ledger.release("issuing", SerialNumber(2), by=BY)
        await following.remember()
    with closing(opened(house)) as table:
        assert not await FromLedger(house.ledger, house.log, table).is_other()
    await house.restore(copy)
    await house.ledger.hold("issuing", SerialNumber(3), by=BY)
    await house.issue(9)
    with closing(opened(house)) as table:
        assert table.applied < await house.ledger.sequence()
        assert await FromLedger(house.ledger, house.log, table).is_other()
    with closing(opened(house, anew=True)) as table:
        following = FromLedger(house.ledger, house.log, table)
        assert not await following.is_other()
        await following.start()
        with closing(following.reader()) as reader:
            await agree(house, reader)
    with closing(opened(house)) as table:
        assert not await FromLedger(house.ledger, house.log, table).is_other()


async def test_a_new_table_is_filled_from_the_beginning(house: World) -> None:
    await house.issue(12)
    await house.ledger.hold("issuing", SerialNumber(7), by=BY)
    for anew in (False, True):
        with closing(opened(house, anew=anew)) as table:
            following = FromLedger(house.ledger, house.log, table)
            await following.start()
            with closing(following.reader()) as reader:
                await agree(house, reader)


async def test_more_than_a_page(house: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.issue(25)
    changed = house.ledger.changed
    monkeypatch.setattr(house.ledger, "changed", lambda after: changed(after, limit=10))
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        await following.start()
        with closing(following.reader()) as reader:
            assert reader.size == 25


async def test_a_change_while_it_starts_is_not_undone(
    house: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that was read before a change arrives after it."""
    await house.issue(3)
    changed = house.ledger.changed

    async def late(after: int, *, limit: int = 1000) -> list[object]:
        page = await changed(after, limit=limit)
        if after == 0:
            monkeypatch.undo()
            await house.ledger.revoke("issuing", SerialNumber(2), reason=WHY, by=BY)
        return page

    monkeypatch.setattr(house.ledger, "changed", late)
    with closing(opened(house)) as table:
        following = FromLedger(house.ledger, house.log, table)
        await following.start()
        with closing(following.reader()) as reader:
            await agree(house, reader)
