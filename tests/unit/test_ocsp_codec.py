"""OCSP requests: what is read of them, and what is refused."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp as x509_ocsp

from infra.errors import Rejected
from ocsp.request import (
    HASH_OIDS,
    MAX_CERT_IDS,
    MAX_LISTED,
    MAX_REQUEST,
    parse_request,
    read_plain_request,
    request_in_path,
)
from pki import der

SHA_1 = der.sequence(der.object_identifier(HASH_OIDS["sha1"]), der.NULL_VALUE)
NAME_HASH = bytes(range(20))
KEY_HASH = bytes(range(20, 40))
NONCE_OID = der.object_identifier("1.3.6.1.5.5.7.48.1.2")


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
    assert one.serial == 0xABCDEF
    assert one.issuer == SHA_1 + der.octet_string(NAME_HASH) + der.octet_string(KEY_HASH)
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
    assert one.issuer.startswith(algorithm)
    assert one.der == cert_id(1, algorithm)


def test_a_hash_that_is_not_known_is_legal() -> None:
    md5 = der.sequence(der.object_identifier("1.2.840.113549.2.5"), der.NULL_VALUE)
    (one,) = parse_request(request(cert_id(1, md5))).cert_ids
    assert one.issuer.startswith(md5)


def test_odd_parameters_do_not_pass_for_the_hash_itself() -> None:
    odd = der.sequence(der.object_identifier(HASH_OIDS["sha256"]), der.integer(1))
    (one,) = parse_request(request(cert_id(1, odd))).cert_ids
    assert one.issuer.startswith(odd)


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
    assert asked.preferred_algorithms == ((first, key), (second, None))


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
        (request(cert_id(), before=der.explicit(0, der.octet_string(b""))), "bad-version"),
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


def preferred(count: int) -> bytes:
    algorithm = der.sequence(der.object_identifier("1.3.101.112"))
    value = der.sequence(*[der.sequence(algorithm)] * count)
    return extension(der.object_identifier("1.3.6.1.5.5.7.48.1.8"), value)


def unknown(count: int) -> tuple[bytes, ...]:
    return tuple(extension(der.object_identifier(f"1.2.3.{n}"), b"") for n in range(count))


def certificates(count: int) -> bytes:
    listed = der.explicit(0, der.sequence(*[der.sequence()] * count))
    return der.explicit(0, der.sequence(der.sequence(), der.bit_string(b"s"), listed))


def test_every_list_has_a_bound() -> None:
    parse_request(request(cert_id(), extensions=(preferred(MAX_LISTED),)))
    parse_request(request(cert_id(), extensions=unknown(MAX_LISTED)))
    parse_request(request(cert_id(), after=certificates(MAX_LISTED)))
    for data in (
        request(cert_id(), extensions=(preferred(MAX_LISTED + 1),)),
        request(cert_id(), extensions=unknown(MAX_LISTED + 1)),
        request(
            cert_id(), single_extensions=der.explicit(0, der.sequence(*unknown(MAX_LISTED + 1)))
        ),
        request(cert_id(), after=certificates(MAX_LISTED + 1)),
    ):
        assert refused(data) == "too-many-listed"


def test_the_form_that_nearly_all_have_is_read_at_its_offsets() -> None:
    for octets in (1, 8, 19, 20):
        for top in (0x01, 0x7F, 0x80, 0xFF):
            serial = top << 8 * (octets - 1) | 1
            for size in (0, 1, 16, 32, 128):
                extensions = (nonce_extension(size),) if size else None
                assert read_plain_request(request(cert_id(serial), extensions=extensions))
    assert read_plain_request(request(cert_id(0))) is None
    assert read_plain_request(request(cert_id(1 << 160))) is None
    assert read_plain_request(request(cert_id(), cert_id())) is None


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
