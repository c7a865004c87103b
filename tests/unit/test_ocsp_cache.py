"""Kept answers: found by path and by octets, never beyond their end, never more than fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ocsp.cache import VARIANTS, AnswerCache, Kept
from ocsp.responder import Freshness

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SECOND = int(NOW.timestamp())
LIFETIME = timedelta(hours=1)


def kept(request: bytes, key: int = 1, *, made: int = SECOND, body: bytes = b"answer") -> Kept:
    at = datetime.fromtimestamp(made, UTC)
    return Kept(request, body, Freshness(at, at + LIFETIME, 3599), "ca", key, "good", float(made))


def headers(response: bytes) -> dict[str, str]:
    head = response.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return dict(line.split(": ", 1) for line in head[1:])


def test_a_response_is_whole_and_its_age_grows() -> None:
    one = kept(b"q")
    first, later = one.response(SECOND), one.response(SECOND + 90)
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\nanswer")
    assert headers(first)["Content-Length"] == "6"
    assert headers(first)["Date"] == "Sun, 22 Nov 2026 12:00:00 GMT"
    assert headers(first)["Cache-Control"].startswith("max-age=3599, ")
    assert headers(later)["Cache-Control"].startswith("max-age=3509, ")
    assert headers(later)["Date"] == "Sun, 22 Nov 2026 12:01:30 GMT"
    assert headers(first)["ETag"] == headers(later)["ETag"]


def test_unchanged_has_validators_and_no_body() -> None:
    one = kept(b"q")
    response = one.unchanged(SECOND)
    assert response.startswith(b"HTTP/1.1 304 ")
    assert response.endswith(b"\r\n\r\n")
    assert headers(response)["ETag"].encode() == one.tag


def test_a_newer_answer_takes_the_place_and_the_paths_of_the_older() -> None:
    cache = AnswerCache(10)
    old, new = kept(b"q"), kept(b"q", made=SECOND + 10)
    cache.keep(old)
    cache.alias(b"/ocsp/q", old)
    cache.keep(new)
    assert cache.targets[b"/ocsp/q"] is new
    assert cache.requests == {b"q": new}
    assert old.dropped


def test_an_answer_that_is_being_refreshed_is_kept_like_any_other() -> None:
    cache = AnswerCache(2)
    first, second = kept(b"a", 1), kept(b"b", 2)
    for one in (first, second):
        one.asked = True
        cache.keep(one)
    assert list(cache.due(one.refresh_at)) == [first, second]
    cache.keep(kept(b"c", 3))
    assert set(cache.requests) == {b"b", b"c"}
    assert first.dropped
    cache.clear()
    assert second.dropped
    for one in (first, second):
        cache.again(one, one.refresh_at + 5)
    assert list(cache.due(one.end)) == []


def test_forgetting_a_certificate_drops_each_answer_about_it() -> None:
    cache = AnswerCache(10)
    for request, key in ((b"a", 1), (b"b", 1), (b"c", 2)):
        one = kept(request, key)
        cache.keep(one)
        cache.alias(b"/" + request, one)
    cache.forget(1)
    cache.forget(3)
    assert set(cache.requests) == {b"c"}
    assert set(cache.targets) == {b"/c"}


def test_who_asks_about_one_certificate_in_many_ways_pushes_out_those_answers_alone() -> None:
    cache = AnswerCache(10_000)
    other = kept(b"other", 2)
    cache.keep(other)
    for number in range(5000):
        cache.keep(kept(b"%d" % number, made=SECOND + number))
    newest = {b"%d" % number for number in range(5000 - VARIANTS, 5000)}
    assert set(cache.requests) == newest | {b"other"}
    assert cache.oldest() == SECOND
    # Nor does memory grow with what was pushed out.
    assert len(cache._order) < 2 * VARIANTS + 1024 + 2
    cache.forget(1)
    assert set(cache.requests) == {b"other"}


def test_a_newer_answer_to_the_same_octets_pushes_nothing_out() -> None:
    cache = AnswerCache(10_000)
    for number in range(VARIANTS):
        cache.keep(kept(b"%d" % number))
    for number in range(VARIANTS):
        cache.keep(kept(b"%d" % number, made=SECOND + 1))
    assert len(cache) == VARIANTS


def test_paths_of_one_answer_are_bounded() -> None:
    cache = AnswerCache(10)
    one = kept(b"q")
    cache.keep(one)
    for number in range(1000):
        cache.alias(b"/%d" % number, one)
    assert len(cache.targets) < 10


def test_only_what_was_asked_for_is_refreshed() -> None:
    cache = AnswerCache(10)
    wanted, unwanted = kept(b"a"), kept(b"b")
    for one in (wanted, unwanted):
        cache.keep(one)
    wanted.asked = True
    half = SECOND + LIFETIME.total_seconds() / 2
    assert list(cache.due(half - 2)) == []
    assert list(cache.due(half)) == [wanted]
    assert set(cache.requests) == {b"a"}


def test_an_answer_that_cannot_be_refreshed_stays_until_it_ends() -> None:
    cache = AnswerCache(10)
    one = kept(b"a")
    one.asked = True
    cache.keep(one)
    assert list(cache.due(one.end - 10)) == [one]
    cache.again(one, one.end - 5)
    assert list(cache.due(one.end - 5)) == [one]
    cache.again(one, one.end)
    assert len(cache) == 0


def test_the_oldest_leave_when_there_is_no_room() -> None:
    cache = AnswerCache(3)
    for number in range(5):
        cache.keep(kept(b"%d" % number, number, made=SECOND + number))
    assert set(cache.requests) == {b"2", b"3", b"4"}
    assert cache.oldest() == SECOND + 2


def test_nothing_is_left_after_clearing() -> None:
    cache = AnswerCache(3)
    one = kept(b"q")
    cache.keep(one)
    cache.alias(b"/q", one)
    cache.clear()
    assert (len(cache), cache.targets, cache.oldest(), one.dropped) == (0, {}, None, True)


ACTS = st.one_of(
    st.tuples(st.just("keep"), st.integers(0, 5), st.integers(0, 3)),
    st.tuples(st.just("alias"), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("forget"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("due"), st.integers(0, 4000), st.just(0)),
)


@given(st.lists(ACTS, max_size=40))
def test_whatever_happens_each_path_leads_to_an_answer_that_is_kept(
    acts: list[tuple[str, int, int]],
) -> None:
    cache = AnswerCache(4)
    for number, (act, one, two) in enumerate(acts):
        request = b"%d" % one
        match act:
            case "keep":
                cache.keep(kept(request, two, made=SECOND + number))
            case "alias" if request in cache.requests:
                cache.alias(b"/%d" % two, cache.requests[request])
            case "forget":
                cache.forget(one)
                assert all(answer.key != one for answer in cache.requests.values())
            case "due":
                for answer in cache.due(float(SECOND + one)):
                    cache.again(answer, float(SECOND + one + 5))
        assert len(cache) <= 4
        for target, answer in cache.targets.items():
            assert target in answer.targets
            assert cache.requests[answer.request] is answer
            assert not answer.dropped
