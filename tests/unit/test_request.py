"""Requests: what is read, what is refused, and under which code."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.x509.oid import NameOID

from infra.errors import Rejected
from pki import der
from pki.algorithms import KeyType, algorithm_of, usual_algorithm
from pki.request import (
    MAXIMUM_SIZE,
    CertificateRequest,
    RequestedExtension,
    assemble_request,
    build_request_info,
    parse_request,
)
from pki.weak_keys import KeyBlocklist, modulus_fingerprint

NULL = der.NULL_VALUE
KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ada")]).public_bytes()
KEY_USAGE = RequestedExtension("2.5.29.15", True, der.named_bits({0}))
NAMES = RequestedExtension("2.5.29.17", False, der.sequence(der.implicit(2, b"ada.example")))
CHALLENGE_PASSWORD = der.sequence(
    der.object_identifier("1.2.840.113549.1.9.7"), der.set_of(der.utf8_string("secret"))
)


def signed(info: bytes) -> bytes:
    signature = KEY.sign(info, ec.ECDSA(hashes.SHA256()))
    return assemble_request(info, usual_algorithm(KeyType.P_256), signature)


def with_attributes(*attributes: bytes) -> bytes:
    return signed(der.sequence(der.integer(0), SUBJECT, SPKI, der.tlv(0xA0, b"".join(attributes))))


def extension_request(*extensions: bytes, oid: str = "1.2.840.113549.1.9.14") -> bytes:
    return der.sequence(der.object_identifier(oid), der.set_of(der.sequence(*extensions)))


def extension(oid: str, value: bytes, critical: bytes = b"") -> bytes:
    return der.sequence(der.object_identifier(oid), critical, der.octet_string(value))


def pem(request: bytes, label: str = "CERTIFICATE REQUEST") -> bytes:
    body = base64.encodebytes(request).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def code(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        parse_request(data)
    return caught.value.code


GOOD = signed(build_request_info(SUBJECT, SPKI, (KEY_USAGE, NAMES)))


def test_what_was_built_is_read_back() -> None:
    assert parse_request(GOOD) == CertificateRequest(
        GOOD, SUBJECT, SPKI, KeyType.P_256, (KEY_USAGE, NAMES)
    )


def test_a_request_without_extensions_has_an_empty_attribute_set() -> None:
    request = signed(build_request_info(SUBJECT, SPKI, ()))
    assert parse_request(request).extensions == ()
    assert x509.load_der_x509_csr(request).is_signature_valid


@pytest.mark.parametrize("label", ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"])
def test_pem_is_read_with_text_around_it(label: str) -> None:
    text = b"Certificate Request:\n    Data: 0x80\n" + pem(GOOD, label) + b"that was it\n"
    assert parse_request(text).der == GOOD
    assert parse_request(text.replace(b"\n", b"\r\n")).der == GOOD


def test_text_before_the_block_may_start_with_the_octet_of_a_sequence() -> None:
    assert parse_request(b"0 is a digit\n" + pem(GOOD)).der == GOOD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0",
        b"hello",
        pem(GOOD, "CERTIFICATE"),
        pem(GOOD) * 2,
        pem(GOOD).replace(b"MI", b"!!", 1),
        pem(GOOD)[:-10],
        pem(GOOD).replace(b"M", b"\xff", 1),
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + pem(GOOD),
        GOOD + b"\x00",
        b"\x30\x80" + GOOD[4:] + b"\x00\x00",
    ],
    ids=[
        "empty", "one octet", "text", "a certificate", "two requests", "no base64", "no end line",
        "not ASCII", "a private key", "octets after the end", "indefinite length",
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_bad_request(data: bytes) -> None:
    assert code(data) == "bad-request"


def test_the_shortest_request_is_read() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    info = build_request_info(der.sequence(), spki, ())
    request = assemble_request(info, usual_algorithm(KeyType.ED25519), key.sign(info))
    assert len(request) < 130
    assert parse_request(request).subject == der.sequence()
    assert parse_request(pem(request)).subject == der.sequence()


def test_a_private_key_is_told_apart() -> None:
    with pytest.raises(Rejected, match="private key; keep it"):
        parse_request(b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n")


def test_every_truncation_is_a_bad_request() -> None:
    for length in range(len(GOOD)):
        assert code(GOOD[:length]) == "bad-request"


def test_size_is_limited_before_anything_is_read() -> None:
    assert code(b"\x30" * (MAXIMUM_SIZE + 1)) == "request-too-large"
    assert code(b"\x30" * MAXIMUM_SIZE) == "bad-request"
    assert code(b"\x30\x83\x98\x96\x80" + bytes(10_000_000)) == "request-too-large"


def test_a_signature_by_another_key_is_no_proof_of_possession() -> None:
    info = build_request_info(SUBJECT, SPKI, ())
    other = ec.generate_private_key(ec.SECP256R1())
    signature = other.sign(info, ec.ECDSA(hashes.SHA256()))
    request = assemble_request(info, usual_algorithm(KeyType.P_256), signature)
    assert code(request) == "bad-request-signature"


def test_a_subject_changed_after_signing_is_refused() -> None:
    assert code(GOOD.replace(b"Ada", b"Eve")) == "bad-request-signature"


def test_a_signature_that_is_no_signature_is_refused() -> None:
    info = build_request_info(SUBJECT, SPKI, ())
    algorithm = usual_algorithm(KeyType.P_256)
    assert code(assemble_request(info, algorithm, b"")) == "bad-request-signature"
    assert code(assemble_request(info, algorithm, bytes(70))) == "bad-request-signature"
    padded = der.sequence(info, algorithm.identifier, der.bit_string(b"\xf0", 4))
    assert code(padded) == "bad-request"


def test_an_algorithm_of_another_family_is_no_proof() -> None:
    info = build_request_info(SUBJECT, SPKI, ())
    request = assemble_request(info, usual_algorithm(KeyType.ED25519), bytes(64))
    assert code(request) == "bad-request-signature"


def test_sha1_is_refused() -> None:
    info = build_request_info(SUBJECT, SPKI, ())
    ecdsa_with_sha1 = der.sequence(der.object_identifier("1.2.840.10045.4.1"))
    signature = KEY.sign(info, ec.ECDSA(hashes.SHA1()))  # noqa: S303
    request = der.sequence(info, ecdsa_with_sha1, der.bit_string(signature))
    assert code(request) == "unknown-algorithm"


def test_only_version_0_exists() -> None:
    info = der.sequence(der.integer(1), SUBJECT, SPKI, b"\xa0\x00")
    assert code(signed(info)) == "bad-request"


def test_attributes_are_not_optional() -> None:
    assert code(signed(der.sequence(der.integer(0), SUBJECT, SPKI))) == "bad-request"


def test_a_challenge_password_is_ignored() -> None:
    request = with_attributes(CHALLENGE_PASSWORD, extension_request(extension("2.5.29.15", NULL)))
    assert [asked.oid for asked in parse_request(request).extensions] == ["2.5.29.15"]


def test_microsofts_name_of_the_extension_request_is_read() -> None:
    request = with_attributes(
        extension_request(extension("2.5.29.15", NULL), oid="1.3.6.1.4.1.311.2.1.14")
    )
    assert parse_request(request).extensions == (RequestedExtension("2.5.29.15", False, NULL),)


def test_an_unknown_attribute_is_refused_not_dropped() -> None:
    attribute = der.sequence(der.object_identifier("1.2.3.4"), der.set_of(NULL))
    assert code(with_attributes(attribute)) == "unknown-attribute"


@pytest.mark.parametrize(
    "attributes",
    [
        (extension_request(extension("2.5.29.15", NULL)),) * 2,
        (
            extension_request(extension("2.5.29.15", NULL)),
            extension_request(extension("2.5.29.37", NULL), oid="1.3.6.1.4.1.311.2.1.14"),
        ),
        (
            der.sequence(
                der.object_identifier("1.2.840.113549.1.9.14"),
                der.set_of(der.sequence(), der.sequence()),
            ),
        ),
        (extension_request(extension("2.5.29.15", NULL), extension("2.5.29.15", NULL)),),
        (extension_request(extension("2.5.29.15", NULL, b"\x01\x01\x00")),),
        (extension_request(extension("2.5.29.15", NULL, b"\x01\x01\x01")),),
        (extension_request(extension("2.5.29.15", b"")),),
        (extension_request(extension("2.5.29.15", NULL + NULL)),),
        (extension_request(der.sequence(der.object_identifier("2.5.29.15"))),),
        (der.sequence(der.object_identifier("1.2.840.113549.1.9.14")),),
    ],
    ids=[
        "two extension requests", "one of each name", "two values", "an extension twice",
        "critical FALSE", "critical 01", "no value", "two values in one extension",
        "no extnValue", "no values",
    ],
)  # fmt: skip
def test_attributes_that_contradict_themselves_are_refused(attributes: tuple[bytes, ...]) -> None:
    assert code(with_attributes(*attributes)) == "bad-request"


def test_a_compressed_point_is_refused() -> None:
    point = KEY.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    identifier = der.one(SPKI, der.SEQUENCE).raw(der.SEQUENCE)
    info = build_request_info(SUBJECT, der.sequence(identifier, der.bit_string(point)), ())
    assert code(signed(info)) == "key-type"


def test_a_blocked_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = sign_with(key)
    modulus = key.public_key().public_numbers().n
    blocklist = KeyBlocklist(moduli=frozenset({modulus_fingerprint(modulus)}))
    with pytest.raises(Rejected) as caught:
        parse_request(request, blocklist=blocklist)
    assert caught.value.code == "blocked-key"
    assert parse_request(request).key_type is KeyType.RSA_2048


def sign_with(key: object, **how: object) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ada")])
    )
    algorithm = hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey | type(KEY)) else None
    signed = builder.sign(key, algorithm, **how)  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.DER)


MAKERS: dict[str, Callable[[], object]] = {
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}


@pytest.mark.parametrize("key_type", MAKERS)
def test_requests_of_every_key_type_are_read(key_type: str) -> None:
    assert parse_request(sign_with(MAKERS[key_type]())).key_type == key_type


def test_rsa_pss_is_read() -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    request = sign_with(rsa.generate_private_key(65537, 2048), rsa_padding=pss)
    assert parse_request(request).key_type is KeyType.RSA_2048
    outer = der.one(request, der.SEQUENCE)
    outer.raw()
    assert algorithm_of(outer.raw()).name == "rsa-pss-sha256"
