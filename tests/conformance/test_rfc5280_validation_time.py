"""docs/adr/0020: the time asked about, the time of asking, and the time of the evidence (RFC 5280
§6.1 and §6.3.3, RFC 6960 §3.2)."""

from __future__ import annotations

from typing import Any

import pytest

from pki.validation import CLOCK_TOLERANCE, Revocation
from tests.conformance.crl_evidence_fixtures import entry, listing
from tests.conformance.test_rfc5280_validation import (
    ADA,
    DAY,
    ISSUING,
    NOW,
    ROOT,
    START,
    check,
    issue,
)
from tests.conformance.test_rfc5280_which_word import HOUR, SECOND, asked, code, good, held, said

EVERY = [Revocation.CRL, Revocation.OCSP, Revocation.EITHER]


# Now, and what lies ahead of it


@pytest.mark.parametrize("kind", EVERY)
async def test_evidence_from_beyond_now_counts_for_nothing(kind: Revocation) -> None:
    for ahead, expected in ((CLOCK_TOLERANCE, "valid"), (CLOCK_TOLERANCE + SECOND, "unknown")):
        given: dict[str, Any] = {"revocation": kind}
        lists = [listing(ISSUING, this_update=NOW + ahead)]
        answers = [good(NOW + ahead)]
        if kind is not Revocation.CRL:
            given["answers"] = answers
        outcome = await asked(*(lists if kind is not Revocation.OCSP else ()), **given)
        assert outcome.code.removeprefix("revocation-") == expected
        assert not outcome.retroactive
        if expected != "valid":
            assert said(outcome, "does not count: it is from after now, 2026-06-01T12:00:00Z")


async def test_neither_does_it_revoke_or_release() -> None:
    tomorrow = NOW + DAY
    revoked = listing(ISSUING, entries=[entry(ADA)], this_update=tomorrow)
    assert await code(revoked, answers=[good(NOW - HOUR)]) == "valid"
    assert await code(held(NOW - DAY), answers=[good(tomorrow)]) == "revoked"
    assert await code(held(NOW - DAY), listing(ISSUING, this_update=tomorrow)) == "revoked"


async def test_a_response_is_not_produced_beyond_now() -> None:
    answer = good(NOW - HOUR, produced_at=NOW + CLOCK_TOLERANCE + SECOND)
    assert await code(answers=[answer], revocation=Revocation.OCSP) == "revocation-unknown"
    answer = good(NOW - HOUR, produced_at=NOW + CLOCK_TOLERANCE)
    assert await code(answers=[answer], revocation=Revocation.OCSP) == "valid"


@pytest.mark.parametrize("kind", EVERY)
async def test_nothing_shows_that_a_certificate_will_be_good(kind: Revocation) -> None:
    how: dict[str, Any] = {"now": NOW, "answers": [good(NOW - HOUR, lifetime=9 * DAY)]}
    lists = [listing(ISSUING, lifetime=30 * DAY)]
    how["revocation"] = kind
    assert await code(*lists, at=NOW + CLOCK_TOLERANCE, **how) == "valid"
    outcome = await asked(*lists, at=NOW + DAY, **how)
    assert outcome.code == "revocation-unknown"
    assert said(outcome, "2026-06-01T12:00:00Z", "2026-06-02T12:00:00Z", "nobody can tell yet")
    assert (await asked(*lists, at=START + 400 * DAY, **how)).code == "expired"


async def test_what_is_revoked_now_is_going_to_be() -> None:
    how: dict[str, Any] = {"now": NOW, "at": NOW + 60 * DAY, "revocation": Revocation.CRL}
    assert await code(listing(ISSUING, entries=[entry(ADA)]), **how) == "revoked"
    assert await code(held(NOW - DAY), **how) == "revoked"


async def test_without_revocation_the_future_can_be_asked_about() -> None:
    outcome = await check(ADA, at=NOW + 60 * DAY, now=NOW)
    assert outcome.code == "valid"
    assert said(outcome, "revocation was not asked about")
    assert (await check(ADA, at=START + 366 * DAY, now=NOW)).code == "expired"


async def test_an_answer_from_after_expiry_says_nothing() -> None:
    """RFC 6960 §4.4.4, as of CRLs (RFC 5280 §3.3); but that it was revoked, it may still say."""
    short = issue("Short", ISSUING, lifetime=30 * DAY)
    how: dict[str, Any] = {"leaf": short, "at": START + 20 * DAY, "revocation": Revocation.OCSP}
    above = listing(ROOT, this_update=START + 19 * DAY, lifetime=9 * DAY)
    for told, expected in ((25, "valid"), (31, "revocation-unknown")):
        answer = good(START + told * DAY, short)
        assert await code(above, answers=[answer], **how) == expected
    answer = good(START + 31 * DAY, short, revoked=START + 20 * DAY)
    assert await code(above, answers=[answer], **how) == "revoked"
