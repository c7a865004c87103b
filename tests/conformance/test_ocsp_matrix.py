"""Each algorithm × id hash × nonce × responder id, read and verified by others.

cryptography and asn1crypto read every answer and verify its signature; openssl, which knows no
ML-DSA at this version, verifies the others from the request and the answer in files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp as x509_ocsp

from infra.clock import SystemClock
from ocsp.request import HASH_OIDS, build_request
from ocsp.responder import Delegate, Responder, ResponderIdType
from pki.algorithms import SIGNATURE_ALGORITHMS, KeyType, SignatureAlgorithm, scheme
from pki.status import CertStatus, Good, RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import (
    ALGORITHMS,
    LIFETIME,
    NOW,
    Ca,
    Statuses,
    cert_id,
    file_signer,
    run,
    write_pem,
)

CA = Ca("Matrix CA")
AT = NOW.replace(microsecond=0)
GOOD, REVOKED = 0x80FF01, 0x7F00FF02
STATUSES: dict[tuple[str, int], CertStatus] = {
    (CA.name, GOOD): Good(),
    (CA.name, REVOKED): Revoked(AT, RevocationReason.keyCompromise, AT, 1),
}
NONCES = {"none": None, "1": b"n", "32": bytes(range(32)), "128": bytes(range(128))}

SIGNERS = {
    f"{name} by {key_type}": (algorithm, key_type)
    for name, algorithm in SIGNATURE_ALGORITHMS.items()
    for key_type in sorted(algorithm.key_types)
    if key_type not in (KeyType.RSA_3072, KeyType.RSA_4096)
}
"""Every algorithm with every key that it works with; of the RSA keys, the smallest."""


@cache
def key(key_type: KeyType) -> Any:
    if key_type is KeyType.RSA_2048:
        return rsa.generate_private_key(65537, 2048)
    made, _ = ALGORITHMS[key_type.value]()
    return made


@cache
def delegate(name: str, responder_id: ResponderIdType) -> Delegate:
    algorithm, key_type = SIGNERS[name]
    return CA.delegate(file_signer(key(key_type), algorithm.name), responder_id)


@dataclass(frozen=True)
class Case:
    """One question and its answer."""

    serial: int
    hash_name: str
    nonce: bytes | None
    request: bytes
    answer: bytes


async def cases(name: str, responder_id: ResponderIdType) -> list[Case]:
    responder = Responder(
        [delegate(name, responder_id)], Statuses(STATUSES), SystemClock(), LIFETIME
    )
    made = []
    for hash_name in HASH_OIDS:
        for number, nonce in enumerate(NONCES.values()):
            serial = (GOOD, REVOKED)[number % 2]
            request = build_request([cert_id(CA.issuer, serial, hash_name)], nonce)
            answer = await responder.answer(request)
            made.append(Case(serial, hash_name, nonce, request, answer.body))
    return made


@pytest.mark.parametrize("responder_id", ResponderIdType)
@pytest.mark.parametrize("name", SIGNERS)
async def test_two_libraries_read_and_verify_every_answer(
    name: str, responder_id: ResponderIdType
) -> None:
    for case in await cases(name, responder_id):
        read_by_cryptography(case, SIGNERS[name][0], responder_id)
        read_by_asn1crypto(case, SIGNERS[name][0], responder_id)


def read_by_cryptography(
    case: Case, algorithm: SignatureAlgorithm, responder_id: ResponderIdType
) -> None:
    read = x509_ocsp.load_der_ocsp_response(case.answer)
    assert read.serial_number == case.serial
    assert read.hash_algorithm.name == case.hash_name
    assert read.next_update_utc is not None
    assert read.next_update_utc == read.this_update_utc + LIFETIME
    assert read.produced_at_utc == read.this_update_utc
    if case.serial == GOOD:
        assert read.certificate_status is x509_ocsp.OCSPCertStatus.GOOD
    else:
        assert read.certificate_status is x509_ocsp.OCSPCertStatus.REVOKED
        assert read.revocation_time_utc == AT
        assert read.revocation_reason is x509.ReasonFlags.key_compromise
    nonces = [one.value.nonce for one in read.extensions if isinstance(one.value, x509.OCSPNonce)]
    assert nonces == ([] if case.nonce is None else [case.nonce])
    (certificate,) = read.certificates
    if responder_id is ResponderIdType.byName:
        assert read.responder_name == certificate.subject
    else:
        ski = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
        assert read.responder_key_hash == ski.digest
    certificate.verify_directly_issued_by(CA.certificate)
    verifying: Any = certificate.public_key()
    verifying.verify(read.signature, read.tbs_response_bytes, *scheme(algorithm))


def read_by_asn1crypto(
    case: Case, algorithm: SignatureAlgorithm, responder_id: ResponderIdType
) -> None:
    """The signature too, over the octets as asn1crypto cuts them out."""
    whole = asn1_ocsp.OCSPResponse.load(case.answer, strict=True)
    basic = whole["response_bytes"]["response"].parsed
    data = basic["tbs_response_data"]
    assert data.dump(force=True) == data.dump()
    (single,) = data["responses"]
    assert single["cert_id"].dump() == cert_id(CA.issuer, case.serial, case.hash_name)
    assert single["cert_status"].name == ("good" if case.serial == GOOD else "revoked")
    invalidity = single.invalidity_date_value
    assert (invalidity.native if invalidity else None) == (None if case.serial == GOOD else AT)
    assert (whole.nonce_value.native if whole.nonce_value else None) == case.nonce
    assert data["responder_id"].name == ("by_" + responder_id.value)
    assert basic["signature_algorithm"].dump() == algorithm.identifier
    certificate = x509.load_der_x509_certificate(basic["certs"][0].dump())
    verifying: Any = certificate.public_key()
    verifying.verify(basic["signature"].native, data.dump(), *scheme(algorithm))


@pytest.mark.parametrize("responder_id", ResponderIdType)
@pytest.mark.parametrize("name", [name for name in SIGNERS if not name.startswith("ml-dsa")])
async def test_openssl_verifies_every_answer(
    name: str, responder_id: ResponderIdType, tmp_path: Path
) -> None:
    ca = write_pem(tmp_path / "ca.pem", CA.certificate)
    asked, answered = tmp_path / "request.der", tmp_path / "response.der"
    for case in await cases(name, responder_id):
        asked.write_bytes(case.request)
        answered.write_bytes(case.answer)
        text = await run(
            "openssl", "ocsp", "-reqin", asked, "-respin", answered, "-CAfile", ca, "-issuer", ca,
            f"-{case.hash_name}", "-serial", str(case.serial), "-no_nonce",
        )  # fmt: skip
        assert "Response verify OK" in text
        assert "WARNING" not in text
        said = "good" if case.serial == GOOD else "revoked"
        assert f"{case.serial}: {said}" in text
