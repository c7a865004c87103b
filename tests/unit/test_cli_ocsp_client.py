"""What the OCSP client believes, and everything that it does not (RFC 6960 §3.2, §4.2.2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.ocsp_client import Said, check, request_for
from infra.errors import Rejected, Unavailable

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
NONCE = bytes(range(32))
Key = ec.EllipticCurvePrivateKey
SERIALS = count(0x0A << 152)
"""Of 20 octets, the first of which is written with a zero."""


@dataclass(frozen=True)
class Pair:
    key: Key
    certificate: x509.Certificate


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certify(
    subject: str,
    issuer: Pair | None = None,
    *,
    usage: x509.ObjectIdentifier | None = None,
    start: datetime = NOW - HOUR,
    end: datetime = NOW + HOUR,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer.certificate.subject if issuer else name(subject))
        .public_key(key.public_key())
        .serial_number(next(SERIALS))
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signed = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    return Pair(key, signed)


CA = certify("CA")
LEAF = certify("leaf", CA)
RESPONDER = certify("responder", CA, usage=ExtendedKeyUsageOID.OCSP_SIGNING)
REQUEST = request_for(LEAF.certificate, CA.certificate, "sha1", NONCE)


def respond(
    signer: Pair = RESPONDER,
    *,
    about: Pair = LEAF,
    issuer: Pair = CA,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    this_update: datetime = NOW,
    next_update: datetime | None = NOW + HOUR,
    revoked_at: datetime | None = None,
    reason: x509.ReasonFlags | None = None,
    nonce: bytes | None = NONCE,
    by: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH,
    include: bool = True,
) -> bytes:
    builder = ocsp.OCSPResponseBuilder().add_response(
        about.certificate,
        issuer.certificate,
        hashes.SHA1(),  # noqa: S303
        status,
        this_update,
        next_update,
        revoked_at,
        reason,
    )
    builder = builder.responder_id(by, signer.certificate)
    if include:
        builder = builder.certificates([signer.certificate])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def believed(content: bytes, nonce: bytes | None = NONCE) -> Said:
    return check(content, REQUEST, CA.certificate, nonce, NOW)


def refused(content: bytes, nonce: bytes | None = NONCE) -> str:
    with pytest.raises(Rejected) as caught:
        believed(content, nonce)
    assert caught.value.code == "bad-ocsp-answer"
    return caught.value.detail


@pytest.mark.parametrize("by", list(ocsp.OCSPResponderEncoding))
def test_good_by_a_delegated_responder(by: ocsp.OCSPResponderEncoding) -> None:
    said = believed(respond(by=by))
    assert (said.status, said.delegated, said.nonce) == ("good", True, "echoed")
    assert said.responder == "CN=responder"
    assert (said.this_update, said.next_update) == (NOW, NOW + HOUR)
    assert said.reason is None


def test_good_by_the_ca_itself() -> None:
    said = believed(respond(CA, include=False))
    assert (said.status, said.delegated, said.responder) == ("good", False, "CN=CA")


@pytest.mark.parametrize("reason", [r for r in x509.ReasonFlags if r.value != "removeFromCRL"])
def test_revoked_with_time_and_reason(reason: x509.ReasonFlags) -> None:
    content = respond(status=ocsp.OCSPCertStatus.REVOKED, revoked_at=NOW - HOUR / 2, reason=reason)
    said = believed(content)
    assert (said.status, said.revoked_at) == ("revoked", NOW - HOUR / 2)
    assert said.reason == reason.value


def test_revoked_without_a_reason_is_unspecified() -> None:
    said = believed(respond(status=ocsp.OCSPCertStatus.REVOKED, revoked_at=NOW))
    assert said.reason == "unspecified"


def test_unknown() -> None:
    assert believed(respond(status=ocsp.OCSPCertStatus.UNKNOWN)).status == "unknown"


def test_a_request_by_sha256_is_answered_by_sha256_only() -> None:
    request = request_for(LEAF.certificate, CA.certificate, "sha256", None)
    assert ocsp.load_der_ocsp_request(request).hash_algorithm.name == "sha256"
    with pytest.raises(Rejected, match="about another certificate"):
        check(respond(nonce=None), request, CA.certificate, None, NOW)


def test_an_answer_made_in_advance_has_no_nonce() -> None:
    assert believed(respond(nonce=None)).nonce == "absent"
    assert believed(respond(nonce=None), nonce=None).nonce == "not asked"


def test_another_nonce_is_an_answer_to_somebody_else() -> None:
    assert "another nonce" in refused(respond(nonce=b"x" * 32))


def test_an_answer_about_another_certificate() -> None:
    assert "another certificate" in refused(respond(about=certify("other", CA)))
    # The same serial number, asked about under another CA of the same name.
    other = certify("CA")
    assert "another certificate" in refused(respond(issuer=other))


def test_times_that_are_past_or_to_come() -> None:
    old = respond(this_update=NOW - 2 * HOUR, next_update=NOW - HOUR)
    assert "until 2026-11-22T17:00:00Z" in refused(old)
    assert "from the future" in refused(respond(this_update=NOW + HOUR, next_update=NOW + 2 * HOUR))
    assert believed(respond(this_update=NOW + timedelta(minutes=4))).status == "good"
    assert believed(respond(next_update=None)).next_update is None


def test_a_signature_that_does_not_verify() -> None:
    for content in (respond(), respond(CA, include=False)):
        signature = ocsp.load_der_ocsp_response(content).signature
        damaged = signature[:-1] + bytes([signature[-1] ^ 1])
        assert "signature does not verify" in refused(content.replace(signature, damaged))


def test_a_name_like_that_of_the_ca_is_not_its_key() -> None:
    impostor = certify("CA")
    by_name = respond(impostor, by=ocsp.OCSPResponderEncoding.NAME, include=False)
    assert "signature does not verify" in refused(by_name)
    assert "nobody it names" in refused(respond(impostor, include=False))


def test_a_responder_that_the_ca_has_not_delegated_to() -> None:
    assert "not by the CA" in refused(respond(certify("responder", certify("CA"))))
    assert "not for OCSP" in refused(
        respond(certify("x", CA, usage=ExtendedKeyUsageOID.CLIENT_AUTH))
    )
    # Any certificate of the CA would do as a responder if this were not refused.
    assert "not to be believed" in refused(respond(LEAF))
    usage = ExtendedKeyUsageOID.OCSP_SIGNING
    assert "expired" in refused(
        respond(certify("x", CA, usage=usage, start=NOW - 9 * HOUR, end=NOW - HOUR))
    )
    assert "not valid yet" in refused(
        respond(certify("x", CA, usage=usage, start=NOW + HOUR, end=NOW + 9 * HOUR))
    )
    assert "nobody it names" in refused(respond(include=False))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (ocsp.OCSPResponseStatus.UNAUTHORIZED, "ocsp-refused"),
        (ocsp.OCSPResponseStatus.MALFORMED_REQUEST, "ocsp-refused"),
        (ocsp.OCSPResponseStatus.INTERNAL_ERROR, "ocsp-refused"),
    ],
)
def test_a_refusal_is_no_answer(status: ocsp.OCSPResponseStatus, code: str) -> None:
    content = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    with pytest.raises(Rejected) as caught:
        believed(content)
    assert caught.value.code == code


def test_try_later_is_unavailable() -> None:
    later = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    with pytest.raises(Unavailable, match="ocsp-try-later"):
        believed(later.public_bytes(Encoding.DER))


def test_every_flipped_bit_is_refused() -> None:
    content = respond()
    assert believed(content).status == "good"
    survivors = []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x04
        try:
            said = believed(bytes(damaged))
        except (Rejected, Unavailable):
            continue
        survivors.append((position, said))
    # Only what the signature does not cover may change: what is around it and says nothing.
    honest = believed(content)
    assert [position for position, said in survivors if said != honest] == []
