"""The status feed between a server and followers, over real sockets and a real ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from infra.clock import FixedClock, SystemClock
from infra.errors import Rejected
from infra.http.auth import WHO
from ocsp.feed import Authorities, Changes, Continuation, Frame, Heartbeat
from ocsp.feed_wire import FEED_PATH, MEDIA_TYPE, FeedKey, Frames, open_frame
from ocsp.follower import Timing
from ocsp.table import TableWriter
from pki.serial import SerialNumber
from pki.status import Good, RevocationReason, Revoked
from tests.contract.feed_fixtures import (
    ISSUERS,
    OPERATOR,
    Kept,
    World,
    feed_signer,
    running,
    until,
    world,
)

REASON = RevocationReason.keyCompromise


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def revoke(ca: World, serial: int) -> None:
    await ca.ledger.revoke("issuing", SerialNumber(serial), reason=REASON, by="test")


async def asked(ca: World, path: str, token: str, method: str = "GET") -> tuple[int, str]:
    """Status and code of a call that is refused."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(ca.url, headers=headers) as session,
        session.request(method, path, data=b"{}" if method == "POST" else None) as response,
    ):
        if response.content_type == MEDIA_TYPE:
            return response.status, ""
        return response.status, json.loads(await response.read())["code"]


# Snapshot and changes


async def test_the_whole_ledger_then_each_change(ca: World) -> None:
    await ca.issue(1, "root")
    await ca.issue(34)
    for serial in (3, 20):
        await revoke(ca, serial)
    await ca.ledger.hold("issuing", SerialNumber(5), by="test")
    await ca.ledger.revoke(
        "issuing",
        SerialNumber(6),
        reason=RevocationReason.superseded,
        invalidity_date=datetime(2020, 2, 29, 1, 2, 3, 456, tzinfo=UTC),
        by="test",
    )
    void = await ca.void()
    await ca.start()
    kept = Kept()
    follower = ca.follower(kept)
    async with running(follower):
        await ca.caught_up(follower)
        assert kept.known == await ca.statuses()
        assert len(kept.known) == 35
        assert ("issuing", void) not in kept.known
        assert set(kept.horizons) == kept.complete == set(ISSUERS)
        assert kept.applied == await ca.ledger.sequence()

        await revoke(ca, 7)
        await ca.ledger.release("issuing", SerialNumber(5), by="test")
        await ca.issue()
        await ca.caught_up(follower)
        assert kept.known == await ca.statuses()
        assert isinstance(kept.known["issuing", 7], Revoked)
        assert kept.known["issuing", 5] == Good()
        assert follower.behind == 0


async def test_an_announced_change_does_not_wait_for_the_poll(
    ca: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ca.issue()
    # Nothing is looked up unless it is announced.
    monkeypatch.setattr("ocsp.feed_http.POLL", 3600.0)
    await ca.start()
    assert ca.feed is not None
    ca.ledger.subscribe(lambda *_: ca.feed and ca.feed.wake())
    kept = Kept()
    follower = ca.follower(kept, timing=Timing(silence=60.0))
    async with running(follower):
        await until(lambda: follower.applied == 1)
        await revoke(ca, 1)
        await until(lambda: isinstance(kept.known["issuing", 1], Revoked))


async def test_a_change_while_others_are_looked_up_is_not_missed(
    ca: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even until the next beat, of which there is none here."""
    monkeypatch.setattr("ocsp.feed_http.BEAT", 3600.0)
    monkeypatch.setattr("ocsp.feed_http.POLL", 0.002)
    await ca.issue()
    changed, late = ca.ledger.changed, [1]

    async def slow(after: int, *, limit: int = 1000) -> list[object]:
        found = await changed(after, limit=limit)
        if late:
            await revoke(ca, late.pop())
            await asyncio.sleep(0.1)  # until the change was noticed
        return list(found)

    monkeypatch.setattr(ca.ledger, "changed", slow)
    await ca.start()
    kept = Kept()
    follower = ca.follower(kept, timing=Timing(silence=60.0))
    async with running(follower):
        await until(lambda: follower.applied == 2)
    assert isinstance(kept.known["issuing", 1], Revoked)


async def test_what_is_known_at_a_time_holds_every_change_made_by_then(ca: World) -> None:
    """The promise of a heartbeat: a revocation that has returned is in every later one."""
    await ca.issue(40)
    await ca.start()
    kept = Kept()
    done: dict[int, datetime] = {}
    promises = 0

    def check(known_at: datetime) -> None:
        nonlocal promises
        for serial, at in done.items():
            if known_at > at:
                promises += 1
                assert isinstance(kept.known["issuing", serial], Revoked)

    kept.on_horizon = check
    follower = ca.follower(kept)
    async with running(follower) as task:
        for serial in range(1, 41):
            await revoke(ca, serial)
            done[serial] = ca.ledger.now()
            await asyncio.sleep(0.005)
        await ca.caught_up(follower)
        assert not task.done()
    assert promises >= 40


async def test_the_horizon_is_not_moved_before_everything_is_there(ca: World) -> None:
    await ca.issue(95)
    await ca.start()
    kept = Kept()
    complete: list[int] = []
    kept.on_horizon = lambda at: complete.append(len(kept.known))
    follower = ca.follower(kept)
    assert follower.lag(datetime.now(UTC)) == float("inf")
    async with running(follower):
        await ca.caught_up(follower)
    assert set(complete) == {95}


async def test_many_followers_share_what_is_looked_up(
    ca: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ca.issue(30)
    looked_up = 0
    changed = ca.ledger.changed

    async def counting(after: int, *, limit: int = 1000) -> list[object]:
        nonlocal looked_up
        looked_up += 1
        return list(await changed(after, limit=limit))

    monkeypatch.setattr(ca.ledger, "changed", counting)
    await ca.start()
    all_kept = [Kept() for _ in range(12)]
    followers = [ca.follower(kept) for kept in all_kept]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follower.run()) for follower in followers]
        for follower in followers:
            await until(lambda follower=follower: follower.applied == 30)  # type: ignore[misc]
        before = looked_up
        await revoke(ca, 9)
        for follower in followers:
            await until(lambda follower=follower: follower.applied == 31)  # type: ignore[misc]
        assert looked_up - before < 12
        for task in tasks:
            task.cancel()
    assert all(kept.known == all_kept[0].known for kept in all_kept)
    assert ca.feed is not None
    await until(lambda: ca.feed is not None and ca.feed.followers == 0)


async def test_a_new_authority_is_announced_before_its_certificates(
    ca: World, caplog: pytest.LogCaptureFixture
) -> None:
    del ca.issuers["issuing"]
    await ca.issue(1, "root")
    await ca.start()
    kept = Kept()
    announced: list[list[str]] = []

    def tell(issuers: object) -> None:
        assert isinstance(issuers, tuple)
        announced.append([issuer.name for issuer in issuers])

    follower = ca.follower(kept, on_authorities=tell)
    async with running(follower):
        await until(lambda: follower.applied == 1)
        ca.issuers["issuing"] = ISSUERS["issuing"]
        await ca.issue()
        await ca.caught_up(follower)
        assert kept.known["issuing", 2] == Good()
        renewed = replace(ISSUERS["root"], crl_url="http://elsewhere.example/root.crl")
        ca.issuers["root"] = renewed
        await until(lambda: follower.issuers[0] == renewed)
    assert announced == [["root"], ["root", "issuing"], ["root", "issuing"]]
    assert "is cut" not in caplog.text  # it goes on over the same connection


async def test_certificates_of_a_ca_that_is_not_open_yet_wait_for_it(ca: World) -> None:
    issuer = ca.issuers.pop("issuing")
    await ca.issue(1)
    await ca.start()
    assert await asked(ca, FEED_PATH, OPERATOR) == (503, "authority-unfinished")
    kept = Kept()
    follower = ca.follower(kept)
    async with running(follower):
        await until(lambda: follower.failing is not None)
        ca.issuers["issuing"] = issuer
        await ca.caught_up(follower)
        assert follower.failing is None


async def test_a_status_table_follows(ca: World) -> None:
    await ca.issue(25)
    await revoke(ca, 4)
    await ca.start()
    table = TableWriter.open(ca.folder / "table")
    reader = table.reader()
    try:
        follower = ca.follower(table)  # type: ignore[arg-type]
        async with running(follower):
            await ca.caught_up(follower)
            await revoke(ca, 8)
            await ca.caught_up(follower)
        for (issuer, serial), status in (await ca.statuses()).items():
            found = reader.status(issuer, serial)
            assert type(found) is type(status)
        assert table.applied == await ca.ledger.sequence()
        now = datetime.now(UTC)
        assert now - reader.horizon("issuing", now).known_at < timedelta(minutes=1)
    finally:
        reader.close()
        table.close()


# What goes over the wire


async def test_frames_as_they_are_sent(ca: World) -> None:
    await ca.issue(25)
    await ca.start()
    frames, found = Frames(), list[Frame]()
    key = FeedKey.of(ca.signer.public_key_info)
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with (
        aiohttp.ClientSession(ca.url, headers=headers) as session,
        session.get(f"{FEED_PATH}?version=2&after=3") as response,
    ):
        assert response.headers["Content-Type"] == MEDIA_TYPE
        assert response.headers["Cache-Control"] == "no-store"
        while len(found) < 7:
            for signed in frames.feed(await response.content.readany()):
                found.append(open_frame(signed, key, "status"))
    authorities, continuation, *changes, beat, next_beat = found
    assert isinstance(authorities, Authorities)
    assert isinstance(continuation, Continuation)
    ranges = [(c.after, c.upto, c.newest) for c in changes if isinstance(c, Changes)]
    assert ranges == [(3, 13, 25), (13, 23, 25), (23, 25, 25)]
    assert isinstance(beat, Heartbeat) and isinstance(next_beat, Heartbeat)
    assert beat.upto == next_beat.upto == 25
    assert beat.at < next_beat.at


@pytest.mark.parametrize(
    "after, status, code",
    [
        ("6", 409, "feed-ahead"),
        ("-1", 400, "bad-number"),
        ("x", 400, "bad-number"),
        ("9" * 40, 400, "bad-number"),
    ],
)
async def test_where_a_feed_cannot_begin(ca: World, after: str, status: int, code: str) -> None:
    await ca.issue(5)
    await ca.start()
    assert await asked(ca, f"{FEED_PATH}?after={after}", OPERATOR) == (status, code)
    assert await asked(ca, f"{FEED_PATH}?after=5", OPERATOR) == (200, "")


async def test_a_follower_that_knows_more_than_the_ca_has_to_start_anew(ca: World) -> None:
    await ca.issue(5)
    await ca.start()
    follower = ca.follower(Kept(applied=6))
    with pytest.raises(Rejected) as refused:
        await follower.run()
    assert refused.value.code == "feed-ahead"
    assert follower.failing is refused.value


# What a follower refuses


async def test_a_feed_by_another_key_is_not_believed(ca: World) -> None:
    await ca.issue(5)
    await ca.start()
    kept = Kept()
    other = feed_signer(ca.signer._threads, b"another").public_key_info
    follower = ca.follower(kept, key_info=other)
    async with running(follower):
        await until(lambda: follower.failing is not None)
    assert follower.failing is not None
    assert follower.failing.code == "bad-signature"
    assert (kept.known, kept.complete, kept.horizons, kept.applied) == ({}, set(), {}, 0)


async def test_a_feed_of_another_name_is_not_believed(ca: World) -> None:
    await ca.start()
    follower = ca.follower(Kept(), name="another")
    async with running(follower):
        await until(lambda: follower.failing is not None)
    assert follower.failing is not None
    assert follower.failing.code == "feed-name"


async def test_a_clock_that_is_slow_is_noticed(ca: World) -> None:
    await ca.issue()
    await ca.start()
    slow = FixedClock(datetime.now(UTC) - timedelta(seconds=60))
    kept = Kept()
    follower = ca.follower(kept, clock=slow)
    async with running(follower):
        await until(lambda: follower.failing is not None)
        assert follower.failing is not None
        assert follower.failing.code == "feed-from-future"
        assert kept.known == {}
        slow.at = datetime.now(UTC) + timedelta(seconds=1)
        await until(lambda: follower.failing is None)
    assert kept.known == {("issuing", 1): Good()}


async def test_nothing_is_known_later_than_it_is_here(ca: World) -> None:
    await ca.start()
    here = FixedClock(datetime.now(UTC) - timedelta(seconds=1))
    kept = Kept()
    follower = ca.follower(kept, clock=here)
    async with running(follower):
        await until(lambda: bool(kept.horizons))
    assert set(kept.horizons.values()) == {here.at}


async def test_lag_is_measured(ca: World) -> None:
    await ca.start()
    follower = ca.follower(Kept())
    async with running(follower):
        await ca.caught_up(follower)
    now = SystemClock().now()
    ago = follower.lag(now)
    assert follower.lag(now + timedelta(seconds=90)) == pytest.approx(ago + 90)


# Who may follow


async def test_a_follower_s_token_is_good_for_nothing_else(ca: World) -> None:
    async def other(request: web.Request) -> web.Response:
        return web.json_response({"code": request[WHO]})

    await ca.start(web.get("/api/v1/certificates", other))
    token = ca.tokens.make("va-1")
    assert await asked(ca, FEED_PATH, token) == (200, "")
    assert await asked(ca, "/api/v1/certificates", token) == (403, "not-allowed")
    assert await asked(ca, "/api/v1/certificates", OPERATOR) == (200, "token:operator")
    assert await asked(ca, f"{FEED_PATH}/..%2Fcertificates", token) == (403, "not-allowed")
    assert await asked(ca, "/nowhere", token) == (403, "not-allowed")
    assert await asked(ca, FEED_PATH, token, "POST") == (403, "not-allowed")
    for wrong in ("", token[:-1], token + "x", "é" * 40):
        assert await asked(ca, FEED_PATH, wrong) == (401, "not-authenticated")


async def test_a_token_that_is_taken_away_ends_the_feed(ca: World) -> None:
    await ca.start()
    follower = ca.follower(Kept())
    async with running(follower):
        await ca.caught_up(follower)
        (ca.folder / "followers" / "va.token").unlink()
        await until(lambda: follower.failing is not None)
        await until(lambda: follower.failing is not None and follower.failing.code != "feed-cut")
    assert follower.failing is not None
    assert follower.failing.code == "not-authenticated"
