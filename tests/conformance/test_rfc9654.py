"""RFC 9654 by clause: the nonce; the other side is openssl, cryptography and asn1crypto."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp as x509_ocsp

from infra.clock import SystemClock
from ocsp.responder import Answer, Responder
from ocsp.response import ResponseStatus
from pki import der
from pki.status import Good
from tests.conformance.ocsp_fixtures import (
    LIFETIME,
    Ca,
    Statuses,
    cert_id,
    run,
    serving,
    signer,
    write_pem,
)

CA = Ca("RFC 9654 CA")
CERTIFICATE = CA.issue("subject")
SERIAL = CERTIFICATE.serial_number
RESPONDER = Responder(
    [CA.delegate(signer("p-256"))], Statuses({(CA.name, SERIAL): Good()}), SystemClock(), LIFETIME
)
NONCE_OID = der.object_identifier("1.3.6.1.5.5.7.48.1.2")
MALFORMED = bytes.fromhex("30030a0101")


def request_of_cryptography(nonce: bytes) -> bytes:
    return (
        x509_ocsp.OCSPRequestBuilder()
        .add_certificate(CERTIFICATE, CA.certificate, hashes.SHA256())
        .add_extension(x509.OCSPNonce(nonce), critical=False)
        .build()
        .public_bytes(serialization.Encoding.DER)
    )


async def ask_with_value(value: bytes) -> Answer:
    """A request whose nonce extension holds ``value``, whatever that is."""
    extension = der.sequence(NONCE_OID, der.octet_string(value))
    asked = der.sequence(
        der.sequence(
            der.sequence(der.sequence(cert_id(CA.issuer, SERIAL))),
            der.explicit(2, der.sequence(extension)),
        )
    )
    return await RESPONDER.answer(asked)


@pytest.mark.parametrize("size", [1, 15, 16, 31, 32, 33, 64, 127, 128])
async def test_2_1_a_nonce_of_1_to_128_octets_comes_back_unchanged(size: int) -> None:
    nonce = os.urandom(size)
    answer = await RESPONDER.answer(request_of_cryptography(nonce))
    read = x509_ocsp.load_der_ocsp_response(answer.body)
    found = read.extensions.get_extension_for_class(x509.OCSPNonce)
    assert found.value.nonce == nonce
    assert not found.critical
    other = asn1_ocsp.OCSPResponse.load(answer.body, strict=True)
    assert other.nonce_value.native == nonce


@pytest.mark.parametrize("size", [0, 129, 1000, 60_000])
async def test_2_1_another_size_is_malformed(size: int) -> None:
    answer = await ask_with_value(der.octet_string(bytes(size)))
    assert answer.body == MALFORMED
    assert answer.status is ResponseStatus.malformedRequest


@pytest.mark.parametrize(
    "value",
    [b"", bytes(32), der.octet_string(bytes(32)) + b"\x00", der.tlv(0x24, der.octet_string(b"n"))],
    ids=["nothing", "bare octets", "octets after it", "constructed"],
)
async def test_2_1_the_value_is_one_octet_string_in_der(value: bytes) -> None:
    assert (await ask_with_value(value)).body == MALFORMED


async def test_2_1_no_nonce_where_none_was_sent() -> None:
    asked = der.sequence(der.sequence(der.sequence(der.sequence(cert_id(CA.issuer, SERIAL)))))
    read = x509_ocsp.load_der_ocsp_response((await RESPONDER.answer(asked)).body)
    with pytest.raises(x509.ExtensionNotFound):
        read.extensions.get_extension_for_class(x509.OCSPNonce)


async def test_2_1_openssl_finds_its_nonce(tmp_path: Path) -> None:
    issuer = write_pem(tmp_path / "ca.pem", CA.certificate)
    subject = write_pem(tmp_path / "subject.pem", CERTIFICATE)
    query = ("openssl", "ocsp", "-issuer", issuer, "-cert", subject, "-CAfile", issuer)
    async with serving(RESPONDER) as url:
        with_nonce = await run(*query, "-url", url, "-nonce", "-text")
        without = await run(*query, "-url", url, "-no_nonce", "-text")
    assert with_nonce.count("OCSP Nonce") == 2
    assert "OCSP Nonce" not in without
    for text in (with_nonce, without):
        assert "Response verify OK" in text
        assert "subject.pem: good" in text
        assert "WARNING" not in text


async def test_2_1_openssl_refuses_an_answer_to_another_nonce(tmp_path: Path) -> None:
    issuer = write_pem(tmp_path / "ca.pem", CA.certificate)
    asked, answered = tmp_path / "asked.der", tmp_path / "answered.der"
    asked.write_bytes(request_of_cryptography(b"one nonce of 16."))
    answered.write_bytes(
        (await RESPONDER.answer(request_of_cryptography(b"two nonces of 16"))).body
    )
    compare = ("openssl", "ocsp", "-reqin", asked, "-respin", answered, "-CAfile", issuer)
    with pytest.raises(AssertionError, match="Nonce Verify error"):
        await run(*compare)
    answered.write_bytes((await RESPONDER.answer(asked.read_bytes())).body)
    assert "Response verify OK" in await run(*compare)
