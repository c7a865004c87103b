"""The times of an answer: what its source is worth, and each second anew."""

from __future__ import annotations

from datetime import datetime, timedelta

from infra.clock import FixedClock
from infra.errors import Unavailable
from ocsp.response import ResponseStatus
from ocsp.source import Horizon
from pki.status import Good
from tests.conformance.ocsp_fixtures import LIFETIME, NOW, Statuses, responder
from tests.unit.test_ocsp_responder import DELEGATE, THIS_UPDATE, ask, assert_refused, single


async def test_this_update_is_when_the_status_was_surely_right() -> None:
    statuses = Statuses({("Issuing", 1): Good()}, known_at=NOW - timedelta(seconds=90.5))
    answer = await responder([DELEGATE], statuses).answer(ask(1))
    read = single(answer)
    known_at = (NOW - timedelta(seconds=90.5)).replace(microsecond=0)
    assert read.this_update_utc == known_at
    assert read.produced_at_utc == THIS_UPDATE
    assert read.next_update_utc == known_at + LIFETIME
    assert answer.freshness is not None
    assert answer.freshness.this_update == known_at
    assert NOW + timedelta(seconds=answer.freshness.max_age) < known_at + LIFETIME


async def test_this_update_is_never_after_now() -> None:
    ahead = Statuses({("Issuing", 1): Good()}, known_at=NOW + timedelta(seconds=5))
    assert single(await responder([DELEGATE], ahead).answer(ask(1))).this_update_utc == THIS_UPDATE


async def test_an_answer_never_outlives_what_its_source_is_worth() -> None:
    until = THIS_UPDATE + timedelta(seconds=30)
    statuses = Statuses({("Issuing", 1): Good()}, until=until + timedelta(milliseconds=500))
    clock = FixedClock(NOW)
    ours = responder([DELEGATE], statuses, clock)
    answer = await ours.answer(ask(1))
    assert single(answer).next_update_utc == until
    clock.at = until
    assert_refused(await ours.answer(ask(1)), ResponseStatus.tryLater, "status-outdated")
    statuses.until = None
    statuses.known_at = until - LIFETIME
    assert_refused(await ours.answer(ask(1)), ResponseStatus.tryLater, "status-outdated")


async def test_each_second_has_times_of_its_own_and_a_clock_may_go_back() -> None:
    clock = FixedClock(NOW)
    ours = responder([DELEGATE], Statuses({("Issuing", 1): Good()}), clock)
    for seconds in (0, 0, 1, 3600, -5):
        clock.at = NOW + timedelta(seconds=seconds)
        read = single(await ours.answer(ask(1)))
        assert read.produced_at_utc == THIS_UPDATE + timedelta(seconds=seconds)
        assert read.this_update_utc == read.produced_at_utc


class Away(Statuses):
    """A source that is cut off."""

    def horizon(self, issuer: str, now: datetime) -> Horizon:
        raise Unavailable("source-cut-off", "wait")


async def test_try_later_when_the_source_is_cut_off() -> None:
    answer = await responder([DELEGATE], Away({("Issuing", 1): Good()})).answer(ask(1))
    assert_refused(answer, ResponseStatus.tryLater, "source-cut-off")
