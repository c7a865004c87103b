"""docs/adr/0020: whose word on revocation counts, for each certificate of a path (RFC 5280 §5.3.3
and §6.3.3 (f), RFC 6960 §4.2.2.2)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.validation import Revocation
from tests.conformance.crl_evidence_fixtures import entry, listing, point, pointing, scope
from tests.conformance.test_rfc5280_validation import (
    ADA,
    DAY,
    ISSUING,
    NO_CHECK,
    NOW,
    RESPONDER,
    ROOT,
    Entity,
    check,
    issue,
    ocsp_response,
    signed_anew,
)
from tests.conformance.test_rfc5280_which_word import (
    HOUR,
    REASONS,
    ROOTS,
    asked,
    code,
    good,
    reason,
    said,
)


async def test_the_cas_above_are_asked_in_the_same_way() -> None:
    answer = ocsp_response(ISSUING, ROOT, ROOT)
    ended = listing(ROOT, entries=[entry(ISSUING)], lifetime=30 * DAY)
    how: dict[str, Any] = {"ocsp_responses": [answer, good(NOW - HOUR)]}
    for revocation in (Revocation.OCSP, Revocation.EITHER):
        outcome = await check(ADA, crls=[ended], revocation=revocation, **how)
        assert outcome.code == "revoked"
        assert said(outcome, "Issuing is good", "contradict")
        assert (await check(ADA, crls=[ROOTS], revocation=revocation, **how)).code == "valid"


@pytest.mark.parametrize("forged", ["CRL", "OCSP response"])
async def test_nobody_else_can_revoke(forged: str) -> None:
    stranger = issue("Issuing", ca=True)
    other = issue("Other", ROOT, extended=[ExtendedKeyUsageOID.OCSP_SIGNING], extensions=[NO_CHECK])
    for who in (stranger, other, issue("Ada", ISSUING)):
        if forged == "CRL":
            made = listing(Entity(who.key, ISSUING.certificate), entries=[entry(ADA)])
            outcome = await asked(made, answers=[good(NOW - HOUR)])
            assert outcome.code == "valid"
            assert said(outcome, "does not count: its signature does not verify")
        else:
            answer = ocsp_response(ADA, ISSUING, who, revoked=NOW - DAY)
            assert await code(listing(ISSUING), answers=[answer]) == "valid"
            answer = signed_anew(good(NOW - HOUR, revoked=NOW - DAY), who)
            assert await code(listing(ISSUING), answers=[answer]) == "valid"


async def test_a_revocation_on_one_of_two_paths_is_one_on_both() -> None:
    """The signer of the indirect CRL is below one root only."""
    signer = issue("Revocations", ROOT, usage=frozenset({"crl_sign"}))
    bob = issue("Bob", ISSUING, extensions=pointing(point("http://127.0.0.1/i.crl", signer)))
    own = x509.CertificateIssuer([x509.DirectoryName(ISSUING.certificate.subject)])
    indirect = scope("http://127.0.0.1/i.crl", indirect_crl=True)
    made = listing(signer, indirect, entries=[entry(bob, (own, True))])
    other = issue("Second Root", ca=True)
    across = issue("Issuing", other, key=ISSUING.key, ca=True)
    answer = ocsp_response(bob, ISSUING, RESPONDER)
    for anchors in ((ROOT, other), (other, ROOT)):
        for via in ((ISSUING, across, signer), (across, ISSUING, signer)):
            how: dict[str, Any] = {"leaf": bob, "anchors": anchors, "via": via}
            crls = (listing(other), made)
            assert await code(*crls, answers=[answer], **how) == "revoked"
            assert await code(crls[0], answers=[answer], **how) == "valid"


async def test_evidence_of_a_kind_that_was_not_asked_for_is_not_looked_at() -> None:
    listed = listing(ISSUING, entries=[entry(ADA)])
    revoked = good(NOW - HOUR, revoked=NOW - DAY)
    assert await code(listed, answers=[good(NOW - HOUR)], revocation=Revocation.OCSP) == "valid"
    assert await code(listing(ISSUING), answers=[revoked], revocation=Revocation.CRL) == "valid"


async def test_a_list_is_about_the_certificates_of_its_ca() -> None:
    """§5.3.3: on an indirect CRL, the same serial of another CA is another certificate."""
    signer = issue("Revocations", ROOT, usage=frozenset({"crl_sign"}))
    bob = issue("Bob", ISSUING, extensions=pointing(point("http://127.0.0.1/i.crl", signer)))
    indirect = scope("http://127.0.0.1/i.crl", indirect_crl=True)
    others = x509.CertificateIssuer([x509.DirectoryName(ROOT.certificate.subject)])
    own = x509.CertificateIssuer([x509.DirectoryName(ISSUING.certificate.subject)])
    answer = ocsp_response(bob, ISSUING, RESPONDER)
    for issuer, expected in ((others, "valid"), (own, "revoked")):
        made = listing(signer, indirect, entries=[entry(ADA, (issuer, True)), entry(bob)])
        how: dict[str, Any] = {"leaf": bob, "via": (ISSUING, signer), "answers": [answer]}
        assert await code(made, **how) == expected


async def test_a_responder_that_was_revoked_is_not_believed() -> None:
    """Nor one that need not be asked about (RFC 6960 §4.2.2.2.1), if it is known all the same."""
    checked = issue("Checked", ISSUING, extended=[ExtendedKeyUsageOID.OCSP_SIGNING])
    for responder in (checked, RESPONDER):
        answers = [
            ocsp_response(ADA, ISSUING, responder),
            ocsp_response(responder, ISSUING, ISSUING),
        ]
        assert await code(answers=answers) == "valid"
        revoked = listing(
            ISSUING, scope(only_some_reasons=frozenset({REASONS.key_compromise})),
            entries=[entry(responder, *reason(REASONS.key_compromise))],
        )  # fmt: skip
        outcome = await asked(revoked, answers=answers)
        assert outcome.code == "revocation-unknown"
        assert said(outcome, "OCSP response by", "does not count", "was revoked at")
