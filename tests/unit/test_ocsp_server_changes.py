"""Whatever changes, and however slow the key is: an answer is true when it is given."""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocsp import server as server_module
from ocsp.table import TableWriter
from ocsp.table.layout import RING
from pki.status import Good, RevocationReason, Revoked
from tests.unit.ocsp_server_fixtures import (
    CA,
    HALF,
    HELD,
    NOW,
    REVOKED,
    SECOND,
    TRY_LATER,
    Said,
    Scene,
    get,
    make,
    open_scene,
    path,
    post,
    request,
)

__all__ = ["open_scene"]


# Changes


async def test_a_change_counts_at_once(scene: Scene) -> None:
    for status, said in ((HELD, "REVOKED"), (Good(), "GOOD"), (REVOKED, "REVOKED")):
        await scene.get()
        scene.writer.put(CA.name, 1, status)
        for answer in (await scene.get(), await scene.post(), await scene.get(nonce=b"n" * 16)):
            assert answer.status == said
    assert scene.server.metrics.answers["hold"] == 4


async def test_a_change_of_one_leaves_the_others_kept(scene: Scene) -> None:
    await scene.get(1)
    await scene.get(2)
    scene.writer.put(CA.name, 1, REVOKED)
    await scene.get(2)
    assert scene.token.asked == 2
    assert scene.server.measured().kept == 1


async def test_more_changes_than_are_told_drop_everything(scene: Scene) -> None:
    await scene.get()
    for number in range(RING + 1):
        scene.writer.put(CA.name, 2, HELD if number % 2 else Good())
    scene.writer.put(CA.name, 1, REVOKED)
    assert (await scene.get()).status == "REVOKED"
    assert scene.server.measured().kept == 1


async def test_a_refresh_does_not_bring_back_what_has_changed(scene: Scene) -> None:
    await scene.get()
    scene.later(HALF)
    scene.token.gate.clear()
    refreshing = asyncio.create_task(scene.server.refresh())
    await waited_for(scene, 2)
    scene.writer.put(CA.name, 1, REVOKED)
    revoked = scene.begin(get())
    scene.token.gate.set()
    await refreshing
    assert Said(await revoked).status == "REVOKED"
    assert (await scene.get()).status == "REVOKED"


async def test_what_is_being_refreshed_is_dropped_with_everything_else(scene: Scene) -> None:
    await scene.get()
    scene.later(HALF)
    scene.token.gate.clear()
    refreshing = asyncio.create_task(scene.server.refresh())
    await waited_for(scene, 2)
    scene.writer.put(CA.name, 1, REVOKED)
    for number in range(RING + 1):
        scene.writer.put(CA.name, 2, HELD if number % 2 else Good())
    revoked = scene.begin(get())
    scene.token.away = True
    scene.token.gate.set()
    await refreshing
    await revoked
    scene.token.away = False
    scene.later(HALF)
    await scene.server.refresh()
    assert (await scene.get()).status == "REVOKED"
    assert scene.server.measured().kept == 1


async def test_another_table_takes_the_place_of_what_was_kept(scene: Scene, tmp_path: Path) -> None:
    await scene.get()
    scene.writer.close()
    scene.writer = TableWriter.open(tmp_path / "table", anew=True)
    said = await scene.get()
    assert said.body == TRY_LATER
    assert scene.server.measured().kept == 0
    scene.writer.issuer(CA.name, complete=True, live=True)
    scene.writer.put(CA.name, 1, REVOKED)
    scene.later(SECOND)
    assert (await scene.get()).status == "REVOKED"


async def test_nothing_is_said_while_the_source_is_cut_off(scene: Scene) -> None:
    await scene.get()
    scene.writer.issuer(CA.name, complete=True, live=False)
    scene.writer.set_horizon(CA.name, NOW)
    scene.later(timedelta(minutes=1))
    assert (await scene.get()).status == "GOOD"
    assert scene.server.measured().lag == 60.0
    scene.later(SECOND)
    for said in (await scene.get(), await scene.post(), await scene.get(nonce=bytes(32))):
        assert said.body == TRY_LATER
        assert said.fields["Cache-Control"] == "no-store"
    assert scene.server.metrics.refusals == {"status-source-cut-off": 3}
    scene.later(timedelta(minutes=2))
    assert scene.server.measured().lag == 181.0  # an alarm sees that it grows
    scene.writer.set_horizon(CA.name, scene.clock.at)
    assert (await scene.get()).status == "GOOD"
    assert scene.server.measured().lag == 0.0
    assert scene.token.asked == 1


# Slow tokens


async def waited_for(scene: Scene, signatures: int) -> None:
    """Until the token was asked so often."""
    async with asyncio.timeout(20):
        while scene.token.asked < signatures:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)


async def test_one_signature_serves_all_who_ask_while_it_is_made(scene: Scene) -> None:
    scene.token.gate.clear()
    askers = [
        get(1, "If-None-Match: *"),
        get(),
        post(),
        request("GET", f"/ocsp/{quote(path(), safe='')}"),
        get(1, 'If-None-Match: "a"'),
    ]
    waiting = [scene.begin(one) for one in askers]
    other = scene.begin(get(2))
    scene.token.gate.set()
    conditional, *others = [Said(one) for one in await asyncio.gather(*waiting)]
    assert (conditional.code, conditional.body) == (304, b"")
    assert {one.code for one in others} == {200}
    assert len({one.body for one in others}) == 1
    assert others[0].status == "GOOD"
    assert Said(await other).status == "GOOD"
    assert scene.token.asked == 2
    metrics = scene.server.measured()
    assert (metrics.signed, metrics.hits, metrics.answers) == (2, 4, {"good": 6})
    assert scene.server._making == {}


async def test_whoever_goes_away_leaves_the_others_their_answer(scene: Scene) -> None:
    scene.token.gate.clear()
    first, second = scene.begin(get()), scene.begin(post())
    await asyncio.sleep(0)
    first.cancel()
    scene.token.gate.set()
    assert Said(await second).status == "GOOD"
    assert first.cancelled()
    assert scene.token.asked == 1


async def test_an_answer_tells_a_change_that_was_made_while_it_was_signed(scene: Scene) -> None:
    scene.token.gate.clear()
    waiting = [scene.begin(one) for one in (get(), get(nonce=bytes(16)))]
    await waited_for(scene, 2)
    scene.writer.put(CA.name, 1, REVOKED)
    waiting += [scene.begin(post())]  # it knows of the change, and gets the answer of the first
    scene.token.gate.set()
    assert [Said(one).status for one in await asyncio.gather(*waiting)] == ["REVOKED"] * 3
    assert (await scene.get()).status == "REVOKED"
    assert scene.token.asked >= 4  # each of the two was signed twice


async def test_a_change_of_another_certificate_makes_nobody_sign_again(scene: Scene) -> None:
    scene.token.gate.clear()
    waiting = scene.begin(get())
    await waited_for(scene, 1)
    scene.writer.put(CA.name, 2, REVOKED)
    scene.token.gate.set()
    assert Said(await waiting).status == "GOOD"
    assert scene.token.asked == 1


async def test_whoever_is_too_many_is_told_to_come_later_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_UNDER_WAY", 8)
    kept = await scene.get(3)
    scene.token.gate.clear()
    waiting = [scene.begin(get(nonce=bytes((number,)))) for number in range(8)]
    for one in (post(nonce=b"one more"), get(2)):
        said = scene.server.answer(one)
        assert isinstance(said, bytes)
        assert Said(said).body == TRY_LATER
    same = scene.begin(get(nonce=bytes((0,))))
    assert (await scene.get(3)).body == kept.body
    scene.token.gate.set()
    assert {Said(one).status for one in await asyncio.gather(*waiting, same)} == {"GOOD"}
    assert scene.server.metrics.refusals == {"overloaded": 2}
    assert scene.server.metrics.answers == {"good": 11, "tryLater": 2}
    assert (await scene.get(2)).status == "GOOD"


async def test_a_token_that_is_away_while_many_wait(scene: Scene) -> None:
    scene.token.gate.clear()
    waiting = [scene.begin(one) for one in (get(), post(), get(nonce=b"n"))]
    scene.token.away = True
    scene.token.gate.set()
    assert {Said(one).body for one in await asyncio.gather(*waiting)} == {TRY_LATER}
    assert scene.server.metrics.answers == {"tryLater": 3}
    scene.token.away = False
    assert (await scene.get()).status == "GOOD"


# All of it

ACTS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 4), st.sampled_from([Good(), HELD, REVOKED])),
    st.tuples(st.just("get"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("post"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("later"), st.integers(0, 2000), st.none()),
    st.tuples(st.just("refresh"), st.none(), st.none()),
    st.tuples(st.just("away"), st.booleans(), st.none()),
    st.tuples(st.just("gate"), st.booleans(), st.none()),
)


@settings(deadline=None, max_examples=60)
@given(acts=st.lists(ACTS, max_size=40))
def test_whatever_happens_an_answer_is_true_when_it_is_given(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, Any, Any]]
) -> None:
    async def play(scene: Scene) -> None:
        waiting: list[tuple[int, asyncio.Future[bytes]]] = []

        def check(serial: int, octets: bytes) -> None:
            said = Said(octets)
            if said.status == "TRY_LATER":
                return
            known = scene.reader.status(CA.name, serial)
            expected = {Good: "GOOD", Revoked: "REVOKED"}.get(type(known), "UNKNOWN")
            assert said.status == expected
            if isinstance(known, Revoked):
                assert said.ocsp.revocation_reason is not None
                assert (
                    said.ocsp.revocation_reason.name
                    == {
                        RevocationReason.keyCompromise: "key_compromise",
                        RevocationReason.certificateHold: "certificate_hold",
                    }[known.reason]
                )
            assert said.ocsp.next_update_utc > scene.clock.at

        async def let_go() -> None:
            scene.token.gate.set()
            for serial, one in waiting:
                check(serial, await one)
            waiting.clear()

        for act, one, two in acts:
            match act:
                case "put":
                    scene.writer.put(CA.name, one, two)
                case "later":
                    await let_go()
                    scene.later(one * SECOND)
                case "refresh":
                    await let_go()
                    await scene.server.refresh()
                case "away":
                    scene.token.away = one
                case "gate":
                    await let_go()
                    if one:
                        scene.token.gate.clear()
                case _:
                    asks = get if act == "get" else post
                    said = scene.server.answer(asks(one, nonce=b"n" if two else None))
                    if isinstance(said, bytes):
                        check(one, said)
                    else:
                        waiting.append((one, asyncio.ensure_future(said)))
        await let_go()
        assert scene.server._making == {}

    with asyncio.Runner() as runner:
        made = make(tmp_path_factory.mktemp("table"), entries=3)
        with closing(made.writer), closing(made.reader):
            runner.run(play(made))


async def test_one_ca_that_is_cut_off_leaves_the_others_what_is_kept(scene: Scene) -> None:
    scene.writer.issuer("acme", complete=False)
    scene.server.issuers.add("acme")
    for _ in range(3):
        assert (await scene.get()).status == "GOOD"
        scene.later(SECOND)
    assert scene.token.asked == 1


async def test_the_age_of_what_holds_for_a_while_is_no_lag(scene: Scene) -> None:
    scene.writer.issuer("acme", complete=False)
    scene.server.issuers.add("acme")
    scene.writer.set_horizon("acme", NOW - timedelta(days=3), NOW + timedelta(days=4))
    assert scene.server.measured().lag == 0.0
