"""RFC 6960 §3.2 and §4.2.2.2: which OCSP responses count when a certificate is validated."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from asn1crypto import core
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from infra.errors import Rejected
from pki.validation import Revocation
from tests.conformance.crl_evidence_fixtures import listing
from tests.conformance.test_rfc5280_validation import (
    ADA,
    CLEAN,
    DAY,
    ISSUING,
    NO_CHECK,
    NOW,
    RESPONDER,
    ROOT,
    Entity,
    check,
    digest,
    issue,
    name,
    ocsp_response,
    signed_anew,
)

SIGNING = [ExtendedKeyUsageOID.OCSP_SIGNING]
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
HOUR = timedelta(hours=1)


async def code(*answers: bytes, leaf: Entity = ADA, **how: Any) -> str:
    how = {"revocation": Revocation.OCSP, "crls": CLEAN[:1]} | how
    return (await check(leaf, ocsp_responses=answers, **how)).code


def in_single(response: bytes, critical: bool) -> bytes:
    """With an unknown extension in its one answer."""
    data = asn1_ocsp.OCSPResponse.load(response).response_data
    value = core.ParsableOctetString(b"\x05\x00")
    extension = {"extn_id": "1.2.3.4", "critical": critical, "extn_value": value}
    data["responses"][0]["single_extensions"] = [extension]
    return signed_anew(response, RESPONDER, responses=data["responses"])


@pytest.mark.parametrize("critical", [True, False])
async def test_a_critical_extension_that_is_not_known(critical: bool) -> None:
    """§4.4"""
    expected = "revocation-unknown" if critical else "valid"
    answer = ocsp_response(ADA, ISSUING, RESPONDER, extensions=[(UNKNOWN, critical)])
    assert await code(answer) == expected
    assert await code(in_single(ocsp_response(ADA, ISSUING, RESPONDER), critical)) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"digital_signature"}, "valid"),
        ({"content_commitment"}, "valid"),
        ({"key_encipherment"}, "revocation-unknown"),
        ({"crl_sign"}, "revocation-unknown"),
    ],
)
async def test_a_responder_needs_a_key_that_may_sign(usage: set[str], expected: str) -> None:
    """RFC 5280 §4.2.1.3"""
    responder = issue("R", ISSUING, usage=frozenset(usage), extended=SIGNING, extensions=[NO_CHECK])
    assert await code(ocsp_response(ADA, ISSUING, responder)) == expected


async def test_another_ca_is_no_responder() -> None:
    """RFC 5280 §4.2.1.9: whoever may issue certificates is none that may only answer."""
    usage = frozenset({"digital_signature", "key_cert_sign"})
    below = issue("R", ISSUING, ca=True, usage=usage, extended=SIGNING, extensions=[NO_CHECK])
    assert await code(ocsp_response(ADA, ISSUING, below)) == "revocation-unknown"


async def test_nobody_answers_for_himself() -> None:
    for extensions in ([], [NO_CHECK]):
        leaf = issue("Responder", ISSUING, extended=SIGNING, extensions=extensions)
        assert await code(ocsp_response(leaf, ISSUING, leaf), leaf=leaf) == "revocation-unknown"


async def test_responders_that_vouch_for_each_other() -> None:
    one, two = (issue(who, ISSUING, extended=SIGNING) for who in ("One", "Two"))
    answers = [
        ocsp_response(ADA, ISSUING, one),
        ocsp_response(one, ISSUING, two),
        ocsp_response(two, ISSUING, one),
    ]
    for revocation in (Revocation.OCSP, Revocation.EITHER):
        assert await code(*answers, revocation=revocation) == "revocation-unknown"
        vouched = [*answers[:1], ocsp_response(one, ISSUING, RESPONDER)]
        assert await code(*vouched, revocation=revocation) == "valid"


async def test_a_responder_of_a_ca_above_or_beside() -> None:
    for ca in (ROOT, issue("Sibling", ROOT, ca=True), issue("Issuing", ca=True)):
        responder = issue("R", ca, extended=SIGNING, extensions=[NO_CHECK])
        assert await code(ocsp_response(ADA, ISSUING, responder)) == "revocation-unknown"


async def test_an_answer_about_the_serial_of_another_ca() -> None:
    twin = issue("Issuing", ROOT, ca=True)  # of the same name, with another key
    assert await code(ocsp_response(ADA, twin, RESPONDER)) == "revocation-unknown"
    answer = ocsp_response(ADA, twin, RESPONDER, revoked=NOW - DAY)
    assert await code(answer, ocsp_response(ADA, ISSUING, RESPONDER)) == "valid"


async def test_a_certificate_that_names_no_responder() -> None:
    """What is given counts for it as for any other."""
    key = RESPONDER.key
    bare = (
        x509.CertificateBuilder(subject_name=name("Bare"), issuer_name=name("Issuing"))
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .sign(ISSUING.key, digest(ISSUING.key))
    )
    leaf = Entity(key, bare)
    answer = ocsp_response(leaf, ISSUING, ISSUING, revoked=NOW - HOUR)
    for revocation in (Revocation.OCSP, Revocation.EITHER):
        given: dict[str, Any] = {"crls": (*CLEAN[:1], listing(ISSUING)), "revocation": revocation}
        assert await code(answer, leaf=leaf, **given) == "revoked"
    assert await code(ocsp_response(leaf, ISSUING, ISSUING), leaf=leaf) == "valid"


async def test_a_responder_that_does_not_know_the_certificate() -> None:
    """§2.2: another source may; that this one does not is said."""
    data = asn1_ocsp.OCSPResponse.load(ocsp_response(ADA, ISSUING, RESPONDER)).response_data
    data["responses"][0]["cert_status"] = asn1_ocsp.CertStatus("unknown", core.Null())
    answer = signed_anew(
        ocsp_response(ADA, ISSUING, RESPONDER), RESPONDER, responses=data["responses"]
    )
    assert await code(answer) == "revocation-unknown"
    outcome = await check(ADA, ocsp_responses=[answer], crls=CLEAN, revocation=Revocation.EITHER)
    assert outcome.code == "valid"
    assert any("does not know" in line for line in outcome.explanation)


async def test_the_delegation_of_a_responder_has_ended() -> None:
    """It proves nothing good any more; what it signed in its time to be revoked, was."""
    ended = issue("R", ISSUING, extended=SIGNING, extensions=[NO_CHECK], lifetime=30 * DAY)
    told = NOW - 140 * DAY
    for revoked, expected in ((None, "revocation-unknown"), (told, "revoked")):
        answer = ocsp_response(
            ADA, ISSUING, ended, revoked=revoked, this_update=told, lifetime=300 * DAY
        )
        assert await code(answer) == expected
    late = ocsp_response(ADA, ISSUING, ended, revoked=NOW - DAY)
    assert await code(late, ocsp_response(ADA, ISSUING, RESPONDER)) == "valid"


async def test_what_several_answers_in_one_response_say() -> None:
    """§4.2.1: each for itself."""
    response = ocsp_response(ADA, ISSUING, RESPONDER)
    data = asn1_ocsp.OCSPResponse.load(response).response_data
    revoked = asn1_ocsp.OCSPResponse.load(
        ocsp_response(ADA, ISSUING, RESPONDER, revoked=NOW - DAY)
    ).response_data["responses"][0]
    other = asn1_ocsp.OCSPResponse.load(
        ocsp_response(RESPONDER, ISSUING, RESPONDER, revoked=NOW - DAY)
    ).response_data["responses"][0]
    good = data["responses"][0]
    for singles, expected in (
        ([good, other], "valid"),
        ([other], "revocation-unknown"),
        ([good, revoked], "revoked"),
        ([revoked, good], "revoked"),
        ([], "revocation-unknown"),
    ):
        made = signed_anew(response, RESPONDER, responses=singles)
        assert await code(made) == expected, singles


async def test_a_time_in_the_year_0() -> None:
    """One parser reads it, and the other makes something of it that is not a time."""
    answer = ocsp_response(ADA, ISSUING, RESPONDER)
    for made in (
        answer.replace(b"20260601110000Z", b"00000601110000Z"),
        answer.replace(b"20260601230000Z", b"00000601230000Z"),
    ):
        assert made != answer
        with pytest.raises(Rejected, match="bad-ocsp-response"):
            await code(made)
