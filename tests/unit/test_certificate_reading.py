"""Reading certificates in DER and PEM; what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from infra.errors import Rejected
from pki import der, oids
from pki.algorithms import KeyType, usual_algorithm
from pki.certificate import parse_certificate, parse_tbs
from pki.extensions import extension
from tests.unit.certificate_fixtures import (
    ALGORITHM,
    ISSUING,
    ISSUING_TBS,
    ROOT,
    Parts,
    certificate,
    put,
    twice,
)


def test_a_certificate_is_read_in_der_and_in_pem() -> None:
    whole = certificate("citizen-authentication")
    read = parse_certificate(whole)
    theirs = x509.load_der_x509_certificate(whole)
    assert read.serial == theirs.serial_number
    assert read.not_before == theirs.not_valid_before_utc
    assert read.not_after == theirs.not_valid_after_utc
    assert read.subject.der == theirs.subject.public_bytes()
    assert read.issuer.der == theirs.issuer.public_bytes()
    assert read.signature == theirs.signature
    assert read.tbs == theirs.tbs_certificate_bytes
    assert [e.oid for e in read.extensions] == [e.oid.dotted_string for e in theirs.extensions]
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(whole)
    assert parse_certificate(b"Issued to Alice\r\n" + pem) == read
    assert parse_certificate(pem).sha256.hex() == read.sha256.hex()
    assert parse_certificate(ROOT.certificate).basic_constraints is not None
    assert parse_certificate(ROOT.certificate).extension(oids.AUTHORITY_KEY_IDENTIFIER) is None


def test_a_certificate_of_version_1_is_read() -> None:
    whole = Path("/etc/ssl/certs/ca-certificates.crt")
    parts = Parts.of(ISSUING_TBS)
    tbs = der.sequence(
        parts.serial, parts.algorithm, parts.issuer, parts.validity, parts.subject, parts.key
    )
    read = parse_certificate(der.sequence(tbs, parts.algorithm, der.bit_string(b"")))
    assert read.version == 1
    assert read.extensions == ()
    assert read.basic_constraints is None
    assert read.subject_key_identifier == ISSUING.key_identifier
    if whole.exists():
        for block in whole.read_bytes().split(b"-----END CERTIFICATE-----\n")[:-1]:
            parse_certificate(block + b"-----END CERTIFICATE-----\n")


PEM = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad-certificate"),
        (b"garbage", "bad-certificate"),
        (PEM * 2, "bad-certificate"),
        (PEM.replace(b"MAA=", b"MAA"), "bad-certificate"),
        (PEM, "bad-der"),
        (bytes(70_000), "certificate-too-large"),
        (certificate("officer")[:-1], "bad-der"),
        (certificate("officer") + b"\x00", "bad-der"),
        (der.sequence(ISSUING_TBS, usual_algorithm(KeyType.P_384).identifier, der.bit_string(b"")),
         "bad-certificate"),
        (der.sequence(ISSUING_TBS, ALGORITHM.identifier, der.bit_string(b"\x00", 3)),
         "bad-certificate"),
    ],
)  # fmt: skip
def test_what_is_no_certificate_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse_certificate(data)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        put(version=der.explicit(0, der.integer(0))),
        twice(oids.KEY_USAGE),
        put(extra=der.NULL_VALUE),
        lambda parts: replace(
            parts,
            extensions={str(i): extension(f"1.2.{i}", False, b"\x05\x00") for i in range(1, 80)},
        ),
        lambda parts: replace(
            parts,
            extensions={
                "x": der.sequence(
                    der.object_identifier("1.2.3"), der.boolean(False), der.octet_string(b"")
                )
            },
        ),
    ],
)
def test_a_tbs_certificate_that_breaks_the_rules_is_refused(
    change: Callable[[Parts], Parts],
) -> None:
    with pytest.raises(Rejected):
        parse_tbs(change(Parts.of(ISSUING_TBS)).whole())
