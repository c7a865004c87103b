"""The OCSP codec: what it reads, what it refuses, what it writes."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp as x509_ocsp

from infra.errors import Rejected
from ocsp.request import HASH_OIDS, MAX_CERT_IDS, MAX_REQUEST, parse_request, request_in_path
from ocsp.response import ResponseStatus, build_single, error_response, responder_by_key
from pki import der
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

SHA_1 = der.sequence(der.object_identifier(HASH_OIDS["sha1"]), der.NULL_VALUE)
NAME_HASH = bytes(range(20))
KEY_HASH = bytes(range(20, 40))
NONCE_OID = der.object_identifier("1.3.6.1.5.5.7.48.1.2")
THIS_UPDATE = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
NEXT_UPDATE = datetime(2026, 11, 4, 12, 0, tzinfo=UTC)


def cert_id(serial: int = 7, algorithm: bytes = SHA_1) -> bytes:
    return der.sequence(
        algorithm, der.octet_string(NAME_HASH), der.octet_string(KEY_HASH), der.integer(serial)
    )


def extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    return der.sequence(oid, *([der.TRUE] if critical else []), der.octet_string(value))


def request(
    *cert_ids: bytes,
    before: bytes = b"",
    single_extensions: bytes = b"",
    extensions: tuple[bytes, ...] | None = None,
    after: bytes = b"",
) -> bytes:
    """A request from its parts, whether or not they belong there."""
    listed = der.sequence(*(der.sequence(one, single_extensions) for one in cert_ids))
    last = b"" if extensions is None else der.explicit(2, der.sequence(*extensions))
    return der.sequence(der.sequence(before, listed, last), after)


def refused(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        parse_request(data)
    return caught.value.code


def nonce_extension(octets: int) -> bytes:
    return extension(NONCE_OID, der.octet_string(b"n" * octets))


def test_reads_a_request_of_the_cryptography_library() -> None:
    data = (
        x509_ocsp.OCSPRequestBuilder()
        .add_certificate_by_hash(NAME_HASH, KEY_HASH, 0xABCDEF, hashes.SHA1())  # noqa: S303
        .build()
        .public_bytes(serialization.Encoding.DER)
    )
    asked = parse_request(data)
    (one,) = asked.cert_ids
    assert (one.hash_oid, one.serial) == (HASH_OIDS["sha1"], 0xABCDEF)
    assert (one.issuer_name_hash, one.issuer_key_hash) == (NAME_HASH, KEY_HASH)
    assert one.der == cert_id(0xABCDEF)
    assert (asked.nonce, asked.signature, asked.requestor_name) == (None, None, None)


def test_reads_several_ids_in_their_order() -> None:
    asked = parse_request(request(*map(cert_id, range(1, MAX_CERT_IDS + 1))))
    assert [one.serial for one in asked.cert_ids] == list(range(1, MAX_CERT_IDS + 1))


@pytest.mark.parametrize("parameters", [b"", der.NULL_VALUE], ids=["absent", "null"])
@pytest.mark.parametrize("oid", HASH_OIDS.values(), ids=HASH_OIDS)
def test_reads_every_hash_with_and_without_null(oid: str, parameters: bytes) -> None:
    algorithm = der.sequence(der.object_identifier(oid), parameters)
    (one,) = parse_request(request(cert_id(1, algorithm))).cert_ids
    assert one.hash_oid == oid
    assert one.der == cert_id(1, algorithm)


def test_a_hash_that_is_not_known_is_legal() -> None:
    md5 = der.sequence(der.object_identifier("1.2.840.113549.2.5"), der.NULL_VALUE)
    (one,) = parse_request(request(cert_id(1, md5))).cert_ids
    assert one.hash_oid == "1.2.840.113549.2.5"


def test_odd_parameters_do_not_pass_for_the_hash_itself() -> None:
    odd = der.sequence(der.object_identifier(HASH_OIDS["sha256"]), der.integer(1))
    (one,) = parse_request(request(cert_id(1, odd))).cert_ids
    assert one.hash_oid not in HASH_OIDS.values()


@pytest.mark.parametrize("serial", [-1, 0, 1, 127, 128, (1 << 159) - 1, 1 << 400])
def test_reads_any_serial(serial: int) -> None:
    assert parse_request(request(cert_id(serial))).cert_ids[0].serial == serial


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\xff\x80"])
def test_refuses_a_serial_that_is_not_der(content: bytes) -> None:
    bad = der.sequence(
        SHA_1,
        der.octet_string(NAME_HASH),
        der.octet_string(KEY_HASH),
        der.tlv(der.INTEGER, content),
    )
    assert refused(request(bad)) == "bad-der"


def test_reads_a_requestor_name_and_a_signature() -> None:
    name = der.tlv(0x86, b"https://relying.example")
    tbs = der.sequence(der.explicit(1, name), der.sequence(der.sequence(cert_id())))
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
    certificate = der.sequence(der.integer(1))
    signature = der.sequence(
        algorithm, der.bit_string(b"sig"), der.explicit(0, der.sequence(certificate, certificate))
    )
    asked = parse_request(der.sequence(tbs, der.explicit(0, signature)))
    assert asked.requestor_name == name
    assert asked.signature is not None
    assert asked.signature.signed == tbs
    assert asked.signature.algorithm == algorithm
    assert asked.signature.value == b"sig"
    assert asked.signature.certificates == (certificate, certificate)


def test_reads_a_signature_without_certificates() -> None:
    algorithm = der.sequence(der.object_identifier("1.3.101.112"))
    signed = der.explicit(0, der.sequence(algorithm, der.bit_string(b"sig")))
    asked = parse_request(request(cert_id(), after=signed))
    assert asked.signature is not None
    assert asked.signature.certificates == ()


@pytest.mark.parametrize(
    "after",
    [
        der.NULL_VALUE,
        der.explicit(0, der.sequence()),
        der.explicit(0, der.sequence(der.sequence(), der.bit_string(b"s"), der.NULL_VALUE)),
        der.explicit(0, der.sequence(der.sequence(), der.bit_string(b"s\x80", 7))),
        der.explicit(0, der.sequence(der.sequence(), der.bit_string(b"s"))) + der.NULL_VALUE,
    ],
)
def test_refuses_what_is_no_signature(after: bytes) -> None:
    assert refused(request(cert_id(), after=after)) == "bad-der"


def test_reads_preferred_signature_algorithms() -> None:
    first = der.sequence(der.object_identifier("1.2.840.10045.4.3.3"))
    second = der.sequence(der.object_identifier("1.2.840.113549.1.1.11"), der.NULL_VALUE)
    key = der.sequence(der.object_identifier("1.2.840.10045.2.1"))
    value = der.sequence(der.sequence(first, key), der.sequence(second))
    oid = der.object_identifier("1.3.6.1.5.5.7.48.1.8")
    asked = parse_request(request(cert_id(), extensions=(extension(oid, value),)))
    assert asked.preferred_algorithms == (first, second)


@pytest.mark.parametrize("size", [1, 16, 32, 127, 128])
def test_reads_a_nonce(size: int) -> None:
    asked = parse_request(request(cert_id(), extensions=(nonce_extension(size),)))
    assert asked.nonce == b"n" * size


@pytest.mark.parametrize("size", [0, 129, 4096])
def test_refuses_a_nonce_of_a_wrong_size(size: int) -> None:
    assert refused(request(cert_id(), extensions=(nonce_extension(size),))) == "bad-nonce"


@pytest.mark.parametrize("value", [b"", b"n" * 16, der.octet_string(b"n") + b"x"])
def test_refuses_a_nonce_that_is_no_octet_string(value: bytes) -> None:
    assert refused(request(cert_id(), extensions=(extension(NONCE_OID, value),))) == "bad-der"


UNKNOWN_OID = der.object_identifier("1.2.3.4")
SERVICE_LOCATOR = der.object_identifier("1.3.6.1.5.5.7.48.1.7")


@pytest.mark.parametrize("oid", [UNKNOWN_OID, SERVICE_LOCATOR])
def test_passes_over_an_unknown_extension_unless_it_is_critical(oid: bytes) -> None:
    ignored = extension(oid, b"whatever")
    critical = extension(oid, b"whatever", critical=True)
    asked = parse_request(request(cert_id(), extensions=(ignored, nonce_extension(8))))
    assert asked.nonce == b"n" * 8
    single = der.explicit(0, der.sequence(ignored))
    assert parse_request(request(cert_id(), single_extensions=single)).nonce is None
    code = "unknown-critical-extension"
    assert refused(request(cert_id(), extensions=(nonce_extension(8), critical))) == code
    single = der.explicit(0, der.sequence(critical))
    assert refused(request(cert_id(), single_extensions=single)) == code


def test_knows_its_own_extensions_when_they_are_critical() -> None:
    basic = der.sequence(der.object_identifier("1.3.6.1.5.5.7.48.1.1"))
    accepted = extension(der.object_identifier("1.3.6.1.5.5.7.48.1.4"), basic, critical=True)
    nonce = extension(NONCE_OID, der.octet_string(b"once"), critical=True)
    asked = parse_request(request(cert_id(), extensions=(accepted, nonce)))
    assert asked.nonce == b"once"


def test_a_nonce_among_the_single_extensions_is_none() -> None:
    single = der.explicit(0, der.sequence(nonce_extension(8)))
    assert parse_request(request(cert_id(), single_extensions=single)).nonce is None


GOOD = request(cert_id(), extensions=(nonce_extension(8),))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad-der"),
        (GOOD + b"\x00", "bad-der"),
        (GOOD[:-1], "bad-der"),
        (b"\x30\x80" + GOOD[2:] + b"\x00\x00", "bad-der"),
        (b"\x30\x81" + GOOD[1:], "bad-der"),
        (der.sequence(), "bad-der"),
        (request(), "no-cert-id"),
        (request(*[cert_id()] * (MAX_CERT_IDS + 1)), "too-many-cert-ids"),
        (request(cert_id(), before=der.explicit(0, der.integer(1))), "bad-version"),
        (request(cert_id(), before=der.explicit(0, der.integer(0))), "bad-version"),
        (request(cert_id(), before=der.explicit(0, der.octet_string(b""))), "bad-der"),
        (request(cert_id(), before=der.explicit(1, b"")), "bad-der"),
        (request(cert_id(), extensions=()), "bad-der"),
        (request(cert_id(), extensions=(nonce_extension(8),) * 2), "duplicate-extension"),
        (request(cert_id(), extensions=(der.sequence(NONCE_OID),)), "bad-der"),
        (
            request(
                cert_id(),
                extensions=(der.sequence(UNKNOWN_OID, der.boolean(False), der.octet_string(b"")),),
            ),
            "bad-der",
        ),
        (request(cert_id(), single_extensions=der.NULL_VALUE), "bad-der"),
        (request(cert_id()[:-3] + b"\x02\x01"), "bad-der"),
        (request(der.sequence(*[der.NULL_VALUE] * 4)), "bad-der"),
        (request(cert_id(1, der.sequence())), "bad-der"),
        (request(cert_id(), after=b"\x00" * MAX_REQUEST), "request-too-large"),
    ],
)
def test_refuses(data: bytes, code: str) -> None:
    assert refused(data) == code


def test_refuses_a_request_that_is_cut_anywhere() -> None:
    assert {refused(GOOD[:end]) for end in range(len(GOOD))} == {"bad-der"}


def test_a_request_in_a_path_in_all_its_spellings() -> None:
    for serial in range(1, 200):  # some of these have + and / in their base64, and every padding
        data = request(cert_id(serial * 0x1F3F7FBF))
        text = base64.b64encode(data).decode()
        for spelling in (text, quote(text, safe=""), quote(text, safe="+/"), quote(text)):
            for path in (spelling, f"{spelling}/", f"/{spelling}"):
                assert request_in_path(path) == data, path


def test_a_slash_at_the_end_that_belongs_to_the_base64_stays() -> None:
    data = b"\x30\x00\x3f"
    assert base64.b64encode(data) == b"MAA/"
    assert request_in_path("MAA/") == data
    assert request_in_path("MAA//") == data


@pytest.mark.parametrize(
    "path",
    [
        "MAA",
        "MA=A",
        "MAB=",
        "MAAA====",
        "MA A",
        "MAA%",
        "MAA%2",
        "MAAé",
        "MAA\udc80",
        "MAA?",
        "M\nAA",
    ],
)
def test_refuses_a_path_that_is_no_base64(path: str) -> None:
    with pytest.raises(Rejected) as caught:
        request_in_path(path)
    assert caught.value.code == "bad-path"


def test_refuses_a_path_without_end() -> None:
    with pytest.raises(Rejected, match="request-too-large"):
        request_in_path("A" * (4 * MAX_REQUEST + 4))


def test_an_issuer_key_is_hashed_without_tag_length_and_unused_bits() -> None:
    info = der.sequence(
        der.sequence(der.object_identifier("1.3.101.112")), der.bit_string(b"k" * 32)
    )
    expected = der.explicit(
        2, der.octet_string(hashlib.sha1(b"k" * 32, usedforsecurity=False).digest())
    )
    assert responder_by_key(info) == expected


def read_single(status: CertStatus) -> asn1_ocsp.SingleResponse:
    data = build_single(cert_id(), status, THIS_UPDATE, NEXT_UPDATE)
    single = asn1_ocsp.SingleResponse.load(data, strict=True)
    assert single["cert_id"].dump() == cert_id()
    assert single["this_update"].native == THIS_UPDATE
    assert single["next_update"].native == NEXT_UPDATE
    return single


@pytest.mark.parametrize(("status", "name"), [(Good(), "good"), (Unknown(), "unknown")])
def test_writes_good_and_unknown(status: CertStatus, name: str) -> None:
    single = read_single(status)
    assert single["cert_status"].name == name
    assert single["single_extensions"].native is None


@pytest.mark.parametrize("reason", RevocationReason)
def test_writes_a_revocation_with_its_reason(reason: RevocationReason) -> None:
    at = datetime(2026, 10, 1, 1, 2, 3, tzinfo=UTC)
    revoked = read_single(Revoked(at, reason, None, 1))["cert_status"]
    assert revoked.name == "revoked"
    assert revoked.chosen["revocation_time"].native == at
    number = revoked.chosen["revocation_reason"]
    if reason is RevocationReason.unspecified:
        assert number.native is None
    else:
        assert int(number) == reason


def test_writes_an_invalidity_date() -> None:
    at = datetime(2026, 10, 1, tzinfo=UTC)
    since = datetime(2026, 9, 1, tzinfo=UTC)
    single = read_single(Revoked(at, RevocationReason.keyCompromise, since, 1))
    (known,) = single["single_extensions"]
    assert known["extn_id"].native == "invalidity_date"
    assert known["extn_value"].parsed.native == since


@pytest.mark.parametrize(
    ("status", "octets"),
    [
        (ResponseStatus.malformedRequest, "30030a0101"),
        (ResponseStatus.internalError, "30030a0102"),
        (ResponseStatus.tryLater, "30030a0103"),
        (ResponseStatus.sigRequired, "30030a0105"),
        (ResponseStatus.unauthorized, "30030a0106"),
    ],
)
def test_writes_errors(status: ResponseStatus, octets: str) -> None:
    assert error_response(status).hex() == octets
