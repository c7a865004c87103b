"""What the OCSP client believes, and everything that it does not (RFC 6960 §3.2, §4.2.2.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from asn1crypto import core
from asn1crypto import ocsp as asn1
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
SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
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
    extensions: Sequence[x509.ExtensionType] = (),
    unknown_critical: bool | None = None,
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
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    if unknown_critical is not None:
        builder = builder.add_extension(UNKNOWN, critical=unknown_critical)
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
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
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
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def believed(
    content: bytes, nonce: bytes | None = NONCE, about: Pair = LEAF, request: bytes = REQUEST
) -> Said:
    asked, above = about.certificate, CA.certificate
    return asyncio.run(check(content, request, asked, above, nonce, NOW))


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
        believed(respond(nonce=None), None, request=request)


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
    assert "nobody that it names" in refused(respond(impostor, include=False))


def test_a_responder_that_the_ca_has_not_delegated_to() -> None:
    twin = certify("responder", certify("CA"), extensions=[SIGNING])
    assert "could not be verified" in refused(respond(twin))
    other = certify("responder", certify("Other CA"), extensions=[SIGNING])
    assert "not delegated" in refused(respond(other))
    assert "not for signing OCSP" in refused(
        respond(certify("x", CA, usage=ExtendedKeyUsageOID.CLIENT_AUTH))
    )
    # Any certificate of the CA would do as a responder if this were not refused.
    assert "not to be believed" in refused(respond(LEAF))
    usage = ExtendedKeyUsageOID.OCSP_SIGNING
    assert "expired" in refused(
        respond(certify("x", CA, usage=usage, start=NOW - 9 * HOUR, end=NOW - HOUR))
    )
    assert "is not valid until" in refused(
        respond(certify("x", CA, usage=usage, start=NOW + HOUR, end=NOW + 9 * HOUR))
    )
    assert "nobody that it names" in refused(respond(include=False))


@pytest.mark.parametrize(
    ("purposes", "believed_"),
    [
        ([ExtendedKeyUsageOID.OCSP_SIGNING], True),
        ([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING], True),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], False),
        ([ExtendedKeyUsageOID.CLIENT_AUTH], False),
        ([], False),
    ],
)
def test_rfc6960_4_2_2_2_ocsp_signing_must_be_among_the_purposes(
    purposes: list[x509.ObjectIdentifier], believed_: bool
) -> None:
    delegate = certify("x", CA, extensions=[x509.ExtendedKeyUsage(purposes)] if purposes else [])
    assert accepts(respond(delegate)) is believed_


@pytest.mark.parametrize(
    ("bits", "believed_"),
    [
        ({"digital_signature"}, True),
        ({"content_commitment"}, True),
        ({"digital_signature", "key_encipherment"}, True),
        ({"key_encipherment"}, False),
        ({"key_cert_sign", "crl_sign"}, False),
    ],
)
def test_rfc5280_4_2_1_12_its_key_may_sign(bits: set[str], believed_: bool) -> None:
    assert accepts(respond(certify("x", CA, extensions=[SIGNING, key_usage(bits)]))) is believed_


@pytest.mark.parametrize("path_length", [None, 0])
def test_rfc5280_4_2_1_9_another_ca_is_no_responder(path_length: int | None) -> None:
    authority = x509.BasicConstraints(True, path_length)
    bits = key_usage({"digital_signature", "key_cert_sign"})
    said = refused(respond(certify("x", CA, extensions=[SIGNING, bits, authority])))
    assert "another CA" in said
    entity = x509.BasicConstraints(False, None)
    assert accepts(respond(certify("x", CA, extensions=[SIGNING, entity])))


@pytest.mark.parametrize("critical", [True, False])
def test_rfc5280_4_2_a_critical_extension_that_is_not_known(critical: bool) -> None:
    """In the response, in its one answer, in the certificate of the responder."""
    in_certificate = respond(certify("x", CA, extensions=[SIGNING], unknown_critical=critical))
    for content in (
        respond(extensions=[(UNKNOWN, critical)]),
        in_single(respond(), "1.2.3.4", critical),
        in_certificate,
    ):
        assert accepts(content) is not critical
        if critical:
            assert "critical extension" in refused(content)


def test_rfc6960_4_4_extensions_that_are_known_may_be_critical() -> None:
    assert believed(respond(nonce=None, extensions=[(x509.OCSPNonce(NONCE), True)])).nonce == (
        "echoed"
    )
    for known in ("1.3.6.1.5.5.7.48.1.6", "2.5.29.21"):  # archive cutoff, reason
        assert accepts(in_single(respond(), known, critical=True))


def test_rfc6960_4_2_2_2_nobody_answers_for_himself() -> None:
    content = respond(about=RESPONDER)
    request = request_for(RESPONDER.certificate, CA.certificate, "sha1", NONCE)
    with pytest.raises(Rejected, match="not delegated"):
        believed(content, about=RESPONDER, request=request)


def test_a_signature_over_a_weak_hash() -> None:
    assert accepts(signed_anew(respond()))
    assert "collisions" in refused(signed_anew(respond(), algorithm="sha1_ecdsa"))


def test_rfc6960_4_2_1_what_is_said_twice_counts_by_the_gravest() -> None:
    good = respond()
    revoked = respond(status=ocsp.OCSPCertStatus.REVOKED, revoked_at=NOW - HOUR)
    singles = [asn1.OCSPResponse.load(one).response_data["responses"][0] for one in (good, revoked)]
    for both in (singles, singles[::-1]):
        assert believed(signed_anew(good, responses=both)).status == "revoked"


def accepts(content: bytes) -> bool:
    try:
        return believed(content).status == "good"
    except Rejected:
        return False


def key_usage(bits: set[str]) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    names += ("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in bits for name in names})


def in_single(content: bytes, oid: str, critical: bool) -> bytes:
    """With an extension in its one answer."""
    single = asn1.OCSPResponse.load(content).response_data["responses"][0]
    value = {"1.3.6.1.5.5.7.48.1.6": b"\x18\x0f20200101000000Z", "2.5.29.21": b"\x0a\x01\x01"}
    octets = core.ParsableOctetString(value.get(oid, b"\x05\x00"))
    single["single_extensions"] = [{"extn_id": oid, "critical": critical, "extn_value": octets}]
    return signed_anew(content, responses=[single])


def signed_anew(content: bytes, *, algorithm: str = "sha256_ecdsa", **fields: object) -> bytes:
    """The answer of ``RESPONDER`` with other fields."""
    made = asn1.OCSPResponse.load(content)
    basic = made["response_bytes"]["response"].parsed
    for field, value in fields.items():
        basic["tbs_response_data"][field] = value
    signed = basic["tbs_response_data"].dump(force=True)
    basic["signature_algorithm"] = {"algorithm": algorithm}
    basic["signature"] = RESPONDER.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    made["response_bytes"]["response"] = core.ParsableOctetString(basic.dump(force=True))
    return bytes(made.dump(force=True))


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
