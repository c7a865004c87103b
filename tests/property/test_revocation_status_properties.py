"""docs/adr/0020 as laws: more words never make a revoked certificate good, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from pki.revocation_status import EVERY_REASON, SaysGood, SaysRevoked, Status, Word, weigh
from pki.status import RevocationReason

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
times = st.integers(-6, 6).map(lambda hours: NOON + timedelta(hours=hours))
reasons = st.sets(st.sampled_from(sorted(EVERY_REASON))) | st.just(EVERY_REASON)
good = st.builds(SaysGood, reasons.map(frozenset), st.booleans())
revoked = st.builds(SaysRevoked, times, st.sampled_from(tuple(RevocationReason)), st.none() | times)
words = st.builds(
    Word,
    source=st.sampled_from(("a CRL", "an answer")),
    teller=st.sampled_from("ab"),
    told=times,
    said=good | revoked,
    current=st.booleans(),
    by_ocsp=st.booleans(),
    number=st.integers(-1, 3),
)
several = st.lists(words, max_size=6)


def status(told: list[Word], retroactive: bool = False) -> Status:
    verdict = weigh("Ada", told, NOON, horizon=NOON, retroactive=retroactive)
    assert verdict.lines or verdict.status is not Status.REVOKED
    return verdict.status


def is_final(word: Word) -> bool:
    return isinstance(word.said, SaysRevoked) and word.said.final and word.said.since <= NOON


@given(several, several, st.booleans())
@settings(max_examples=500, deadline=None)
def test_who_says_that_it_is_revoked_is_never_outvoted(
    some: list[Word], more: list[Word], retroactive: bool
) -> None:
    if any(is_final(word) for word in some):
        assert status(some + more, retroactive) is Status.REVOKED
    if status(some, retroactive) is not Status.GOOD:
        bad = [word for word in more if isinstance(word.said, SaysRevoked)]
        assert status(some + bad, retroactive) is not Status.GOOD


@given(several, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_order_makes_no_difference(some: list[Word], chance: object, retroactive: bool) -> None:
    shuffled = some.copy()
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert status(shuffled, retroactive) is status(some, retroactive)


@given(several, st.booleans())
@settings(max_examples=500, deadline=None)
def test_good_is_proved_by_something_current_that_is_as_new_as_any_hold(
    some: list[Word], retroactive: bool
) -> None:
    if status(some, retroactive) is not Status.GOOD:
        return
    proofs = [w for w in some if isinstance(w.said, SaysGood) and w.current]
    assert [w for w in proofs if retroactive or w.told <= NOON]
    for word in some:
        if isinstance(word.said, SaysRevoked) and word.said.since <= NOON:
            assert not word.said.final
            assert word.told <= NOON
            newer = [w for w in some if isinstance(w.said, SaysGood) and w.told >= word.told]
            assert any(w.told <= NOON for w in newer)
    # What is over, or for other reasons, or of later, proves nothing.
    assert status([replace(w, current=False) for w in some], retroactive) is not Status.GOOD
    if not retroactive:
        late = [replace(w, told=NOON + timedelta(hours=9)) for w in some]
        assert status(late) is not Status.GOOD
