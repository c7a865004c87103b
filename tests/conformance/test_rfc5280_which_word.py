"""docs/adr/0020: which word on revocation counts, when evidence differs (RFC 5280 §5.3.1 and §6.3,
RFC 6960 §2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from pki.validation import Revocation
from tests.conformance.crl_evidence_fixtures import entry, listing, point, scope
from tests.conformance.test_rfc5280_validation import (
    ADA,
    CLEAN,
    DAY,
    ISSUING,
    NOW,
    RESPONDER,
    ROOT,
    Entity,
    check,
    issue,
    ocsp_response,
)

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
ROOTS = CLEAN[0]
REASONS = x509.ReasonFlags
HOLD = (x509.CRLReason(REASONS.certificate_hold), False)
RELEASE = (x509.CRLReason(REASONS.remove_from_crl), False)
FRESHEST = (x509.FreshestCRL([point("http://127.0.0.1/crl/delta.crl")]), False)
FINAL = sorted(
    set(REASONS) - {REASONS.certificate_hold, REASONS.remove_from_crl}, key=lambda one: one.value
)


def good(told: datetime, leaf: Entity = ADA, **how: Any) -> bytes:
    return ocsp_response(leaf, ISSUING, RESPONDER, this_update=told, **how)


def reason(why: x509.ReasonFlags | None) -> list[tuple[x509.ExtensionType, bool]]:
    return [] if why is None else [(x509.CRLReason(why), False)]


async def asked(
    *crls: bytes,
    answers: Sequence[bytes] = (),
    leaf: Entity = ADA,
    revocation: Revocation = Revocation.EITHER,
    **how: Any,
) -> Any:
    given = (ROOTS, *crls)
    return await check(leaf, crls=given, ocsp_responses=answers, revocation=revocation, **how)


async def code(*crls: bytes, **how: Any) -> str:
    return str((await asked(*crls, **how)).code)


def said(outcome: Any, *parts: str) -> bool:
    return any(all(part in line for part in parts) for line in outcome.explanation)


# §5.3.1: a revocation is final, whoever tells of it


@pytest.mark.parametrize("why", [None, *FINAL], ids=str)
async def test_a_final_revocation_is_believed_against_a_newer_good_answer(
    why: x509.ReasonFlags | None,
) -> None:
    revoked = listing(ISSUING, entries=[entry(ADA, *reason(why))])
    outcome = await asked(revoked, answers=[good(NOW - HOUR)])
    assert outcome.code == "revoked"
    assert said(outcome, "the OCSP response by", "the CRL 7 of", "contradict each other", "§5.3.1")
    assert said(outcome, "revoked at 2026-05-30T12:00:00Z", why.value if why else "unspecified")


async def test_a_final_revocation_by_ocsp_is_believed_against_a_newer_crl() -> None:
    told = NOW - 2 * HOUR
    answer = good(told, revoked=NOW - DAY)
    outcome = await asked(listing(ISSUING, this_update=NOW - HOUR), answers=[answer])
    assert outcome.code == "revoked"
    assert said(outcome, "the OCSP response by", "the CRL 7 of", "contradict each other")
    outcome = await asked(listing(ISSUING, this_update=NOW - 3 * DAY), answers=[answer])
    assert outcome.code == "revoked"
    assert not said(outcome, "contradict")  # the CRL is from before the revocation


async def test_the_order_of_evidence_makes_no_difference() -> None:
    answers = [good(NOW - HOUR), good(NOW - 2 * HOUR, revoked=NOW - DAY)]
    for given in (answers, answers[::-1]):
        assert await code(answers=given, revocation=Revocation.OCSP) == "revoked"
        assert await code(listing(ISSUING), answers=given) == "revoked"
    lists = [
        listing(ISSUING, number=8),
        listing(ISSUING, entries=[entry(ADA)], this_update=NOW - 2 * DAY),
    ]
    for given in (lists, lists[::-1]):
        assert await code(*given, revocation=Revocation.CRL) == "revoked"


async def test_a_final_revocation_does_not_age() -> None:
    """What ended proves nothing good any more; but what was revoked then still is."""
    old = listing(ISSUING, entries=[entry(ADA, at=NOW - 31 * DAY)], this_update=NOW - 30 * DAY)
    answer = good(NOW - 30 * DAY, revoked=NOW - 31 * DAY)
    assert await code(old, answers=[good(NOW - HOUR)]) == "revoked"
    assert await code(old, listing(ISSUING, number=8), revocation=Revocation.CRL) == "revoked"
    assert await code(answers=[answer, good(NOW - HOUR)], revocation=Revocation.OCSP) == "revoked"
    assert await code(listing(ISSUING), answers=[answer]) == "revoked"


@pytest.mark.parametrize(
    "extensions",
    [
        [scope("http://127.0.0.1/crl/there.crl")],
        [scope(only_contains_ca_certs=True)],
        [scope(only_some_reasons=frozenset({REASONS.superseded}))],
        [FRESHEST],  # whose delta is not at hand
        [(x509.DeltaCRLIndicator(3), True)],
    ],
)
async def test_whoever_is_on_a_list_is_revoked_whatever_else_it_covers(
    extensions: list[Any],
) -> None:
    revoked = listing(ISSUING, *extensions, entries=[entry(ADA)])
    assert await code(revoked, answers=[good(NOW - HOUR)]) == "revoked"
    assert await code(revoked, listing(ISSUING, number=9), revocation=Revocation.CRL) != "valid"


async def test_a_delta_undoes_no_final_revocation() -> None:
    base = listing(ISSUING, FRESHEST, entries=[entry(ADA, *reason(REASONS.key_compromise))])
    released = delta(8, entry(ADA, RELEASE))
    for answers in ([], [good(NOW - HOUR)]):
        assert await code(base, released, answers=answers) == "revoked"


async def test_an_entry_that_cannot_be_read_is_a_revocation() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.21"), b"\x0a\x01\x07")
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.21"), b"\x30\x01\x07")
    for wrong in (odd, broken):
        listed = listing(ISSUING, entries=[entry(ADA, (wrong, False))])
        assert await code(listed, answers=[good(NOW - HOUR)]) == "revoked"


async def test_two_entries_are_read_as_the_worse() -> None:
    entries = [entry(ADA, HOLD), entry(ADA, *reason(REASONS.superseded))]
    for given in (entries, entries[::-1]):
        assert await code(listing(ISSUING, entries=given), answers=[good(NOW - HOUR)]) == "revoked"


async def test_a_complete_crl_cannot_remove() -> None:
    """§5.3.1: removeFromCRL is for deltas alone."""
    listed = listing(ISSUING, entries=[entry(ADA, RELEASE)])
    assert await code(listed, revocation=Revocation.CRL) == "revoked"


# What takes effect when


async def test_a_revocation_counts_from_its_date() -> None:
    revoked_at = NOW - 2 * DAY
    listed = listing(ISSUING, entries=[entry(ADA)])
    before = good(revoked_at - 2 * HOUR)
    assert await code(listed, answers=[before], at=revoked_at - SECOND) == "valid"
    assert await code(listed, answers=[before], at=revoked_at) == "revoked"


async def test_now_the_date_beside_an_entry_does_not_matter() -> None:
    """§6.3.3 (i) and (j): who is on the list is revoked; the clock of the CA may be ahead."""
    listed = listing(ISSUING, entries=[entry(ADA, at=NOW + 60 * SECOND)])
    denied = good(NOW - HOUR, revoked=NOW + 60 * SECOND)
    assert await code(listed, revocation=Revocation.CRL) == "revoked"
    assert await code(answers=[denied], revocation=Revocation.OCSP) == "revoked"
    assert await code(listed, answers=[good(NOW - HOUR)]) == "revoked"
    assert await code(listed, at=NOW - HOUR, revocation=Revocation.CRL) == "valid"


async def test_a_revocation_first_told_later_counts_too() -> None:
    """At the moment asked about, an older CRL was still current."""
    at = NOW - 40 * HOUR
    current = listing(ISSUING, this_update=NOW - 3 * DAY)
    listed = listing(ISSUING, entries=[entry(ADA)], number=8)
    assert await code(current, at=at, revocation=Revocation.CRL) == "valid"
    assert await code(current, listed, at=at, revocation=Revocation.CRL) == "revoked"
    above = listing(ROOT, this_update=NOW - 4 * DAY)
    at = NOW - 2 * DAY - HOUR
    outcome = await asked(above, current, listed, at=at, revocation=Revocation.CRL)
    assert (outcome.code, outcome.retroactive) == ("valid", False)


async def test_invalidity_dates_count() -> None:
    """§5.3.2: its CA holds it for invalid since then."""
    invalid = (x509.InvalidityDate((NOW - 9 * DAY).replace(tzinfo=None)), False)
    listed = listing(ISSUING, entries=[entry(ADA, *reason(REASONS.key_compromise), invalid)])
    before = listing(ISSUING, this_update=NOW - 12 * DAY, number=6)
    for at, expected in ((NOW - 9 * DAY - SECOND, "valid"), (NOW - 9 * DAY, "revoked")):
        assert await code(before, listed, at=at, revocation=Revocation.CRL) == expected
        assert await code(listed, at=at, revocation=Revocation.CRL) == expected
    outcome = await asked(before, listed, at=NOW - 8 * DAY, revocation=Revocation.CRL)
    assert said(outcome, "revoked at 2026-05-30", "invalid since 2026-05-23T12:00:00Z")
    assert not said(outcome, "contradict")


# A hold: the newest word


def held(told: datetime, *more: Any, **how: Any) -> bytes:
    return listing(ISSUING, *more, entries=[entry(ADA, HOLD)], this_update=told, **how)


def delta(number: int, *entries: x509.RevokedCertificate, **how: Any) -> bytes:
    return listing(
        ISSUING, (x509.DeltaCRLIndicator(7), True), entries=entries, number=number, **how
    )


@pytest.mark.parametrize(
    ("answered", "listed", "expected"),
    [
        (NOW - HOUR, NOW - DAY, "valid"),
        (NOW - HOUR, NOW - HOUR, "revoked"),
        (NOW - 2 * HOUR, NOW - HOUR, "revoked"),
    ],
)
async def test_a_hold_ends_with_a_newer_word(
    answered: datetime, listed: datetime, expected: str
) -> None:
    outcome = await asked(held(listed), answers=[good(answered)])
    assert outcome.code == expected
    if expected == "valid":
        assert said(outcome, "was on hold, says the CRL 7", "the OCSP response", "was released")
    else:
        assert said(outcome, "is on hold since 2026-05-30T12:00:00Z (certificateHold)")
    hold = good(listed, revoked=NOW - 2 * DAY, reason=REASONS.certificate_hold)
    clean = listing(ISSUING, this_update=answered)
    assert await code(clean, answers=[hold]) == expected
    for given in ([hold, good(answered)], [good(answered), hold]):
        assert await code(answers=given, revocation=Revocation.OCSP) == expected


async def test_a_newer_crl_ends_a_hold() -> None:
    newer = listing(ISSUING, number=8, this_update=NOW - HOUR)
    for given in ([held(NOW - DAY), newer], [newer, held(NOW - DAY)]):
        assert await code(*given, revocation=Revocation.CRL) == "valid"
    older = listing(ISSUING, number=6, this_update=NOW - 2 * DAY)
    assert await code(held(NOW - DAY), older, revocation=Revocation.CRL) == "revoked"


async def test_a_crl_about_other_reasons_ends_no_hold() -> None:
    others = set(REASONS) - {
        REASONS.unspecified, REASONS.remove_from_crl, REASONS.certificate_hold
    }  # fmt: skip
    newer = listing(ISSUING, scope(only_some_reasons=frozenset(others)), this_update=NOW - HOUR)
    older = listing(ISSUING, this_update=NOW - 2 * DAY, number=6)
    assert await code(held(NOW - DAY), newer, older) == "revoked"
    shard = scope("http://127.0.0.1/crl/there.crl")
    assert await code(held(NOW - DAY), listing(ISSUING, shard), older) == "revoked"


async def test_a_delta_releases_and_holds() -> None:
    """§5.2.4, and against what OCSP says."""
    base, later = held(NOW - DAY, FRESHEST), NOW - 2 * HOUR
    released = delta(8, entry(ADA, RELEASE), this_update=later)
    assert await code(base, released, revocation=Revocation.CRL) == "valid"
    assert await code(base, delta(8, this_update=later), revocation=Revocation.CRL) == "revoked"
    clean = listing(ISSUING, FRESHEST)
    holding = delta(8, entry(ADA, HOLD), this_update=later)
    assert await code(clean, holding, revocation=Revocation.CRL) == "revoked"
    for answered, expected in ((NOW - HOUR, "valid"), (NOW - 3 * HOUR, "revoked")):
        assert await code(clean, holding, answers=[good(answered)]) == expected
    hold = good(NOW - 3 * HOUR, revoked=NOW - DAY, reason=REASONS.certificate_hold)
    assert await code(base, released, answers=[hold]) == "valid"
    hold = good(NOW - HOUR, revoked=NOW - DAY, reason=REASONS.certificate_hold)
    assert await code(base, released, answers=[hold]) == "revoked"


async def test_a_delta_of_the_same_second_releases_what_it_continues() -> None:
    """By number (§5.2.3), which is of no use beside the CRL of another signer, or the same."""
    released = entry(ADA, RELEASE)
    base = held(NOW - DAY, FRESHEST)
    assert await code(base, delta(8, released), revocation=Revocation.CRL) == "valid"
    assert await code(base, delta(7, released), revocation=Revocation.CRL) == "revoked"
    hold = good(NOW - DAY, revoked=NOW - 2 * DAY, reason=REASONS.certificate_hold, lifetime=9 * DAY)
    assert await code(base, delta(8, released), answers=[hold]) == "revoked"


async def test_a_list_of_attribute_certificates_is_about_others() -> None:
    """§5.2.5: which have serials of their own."""
    listed = listing(ISSUING, scope(only_contains_attribute_certs=True), entries=[entry(ADA)])
    assert await code(listed, answers=[good(NOW - HOUR)]) == "valid"


@pytest.mark.parametrize("wrong", ["ended", "of another base", "forged"])
async def test_a_release_must_count_itself(wrong: str) -> None:
    base = held(NOW - DAY, FRESHEST)
    forger = Entity(issue("Issuing", ca=True).key, ISSUING.certificate)
    made = {
        "ended": delta(8, entry(ADA, RELEASE), this_update=NOW - 3 * HOUR, lifetime=HOUR),
        "of another base": listing(
            ISSUING, (x509.DeltaCRLIndicator(8), True), entries=[entry(ADA, RELEASE)], number=9
        ),
        "forged": listing(
            forger, (x509.DeltaCRLIndicator(7), True), entries=[entry(ADA, RELEASE)], number=8
        ),
    }
    assert await code(base, made[wrong], revocation=Revocation.CRL) == "revoked"
    assert (
        await code(base, made[wrong], answers=[good(NOW - 2 * DAY, lifetime=9 * DAY)]) == "revoked"
    )


async def test_a_hold_that_is_out_of_date() -> None:
    """It says nothing by itself, but what is older does not outweigh it."""
    old = held(NOW - 20 * DAY, lifetime=DAY)
    assert await code(old, revocation=Revocation.CRL) == "revocation-stale"
    assert await code(old, answers=[good(NOW - HOUR)]) == "valid"
    ended = good(NOW - 20 * HOUR, revoked=NOW - DAY, reason=REASONS.certificate_hold)
    assert await code(listing(ISSUING, this_update=NOW - 2 * DAY), answers=[ended]) == "revoked"
    assert await code(listing(ISSUING, this_update=NOW - HOUR), answers=[ended]) == "valid"


async def test_a_hold_of_the_past() -> None:
    """What was told later that it is good does not say when it was released."""
    at, now = NOW - DAY, NOW + 2 * DAY
    last = held(at - 12 * HOUR, lifetime=HOUR, number=6)
    clean = listing(ISSUING, this_update=NOW + DAY, number=9)
    outcome = await asked(clean, at=at, now=now, revocation=Revocation.CRL)
    assert (outcome.code, outcome.retroactive) == ("valid", True)
    assert await code(last, clean, at=at, now=now, revocation=Revocation.CRL) == "revoked"
    # One that was told of later began before and ended after.
    later = held(NOW, number=8)
    current = listing(ISSUING, this_update=at - 3 * DAY)
    for given in ([later, clean], [later, clean, current]):
        assert await code(*given, at=at, now=now, revocation=Revocation.CRL) == "revoked"


async def test_what_was_never_issued_is_not_released_by_a_crl() -> None:
    """RFC 6960 §2.2: a responder says so by a hold since 1970."""
    never = good(
        NOW - 2 * HOUR, revoked=datetime(1970, 1, 1, tzinfo=UTC), reason=REASONS.certificate_hold
    )
    outcome = await asked(listing(ISSUING, this_update=NOW - HOUR), answers=[never])
    assert outcome.code == "revoked"
    assert said(outcome, "never issued")
    assert await code(answers=[never, good(NOW - HOUR)]) == "valid"
