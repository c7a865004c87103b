"""What a responder does beyond the plain answer, and which of its keys answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.x509 import ocsp as x509_ocsp

from infra.clock import FixedClock
from infra.errors import Rejected
from ocsp.request import build_request
from ocsp.responder import Answer, Practice
from ocsp.response import CrlReference, ResponseStatus
from pki import der
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import Good, RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import (
    ALGORITHMS,
    NOW,
    Ca,
    Statuses,
    cert_id,
    file_signer,
    responder,
    signer,
)

CA = Ca("Issuing")
P_256 = CA.delegate(signer("p-256"))
AT = NOW.replace(microsecond=0)
NONCE = bytes(range(16))
REVOKED = Revoked(AT, RevocationReason.keyCompromise, AT, 1)


def ask(*serials: int, nonce: bytes | None = None) -> bytes:
    return build_request([cert_id(CA.issuer, serial) for serial in serials], nonce)


def data(answer: Answer) -> Any:
    assert answer.status is ResponseStatus.successful, answer.code
    whole = asn1_ocsp.OCSPResponse.load(answer.body, strict=True)
    return whole["response_bytes"]["response"].parsed["tbs_response_data"]


def extensions(listed: Any) -> dict[str, Any]:
    return {one["extn_id"].native: one["extn_value"].parsed.native for one in listed}


EXTENDED = Practice(extended_revoke=True)


@pytest.mark.parametrize("serial", [9, 0, -1, 1 << 160])
@pytest.mark.parametrize("nonce", [None, NONCE])
async def test_what_was_never_issued_counts_as_revoked(serial: int, nonce: bytes | None) -> None:
    practice = Practice(extended_revoke=True, retention=timedelta(days=1))
    ours = responder([P_256], Statuses({}), practice=practice)
    answer = await ours.answer(ask(serial, nonce=nonce))
    read = data(answer)
    (one,) = read["responses"]
    assert one["cert_status"].chosen["revocation_time"].native == datetime(1970, 1, 1, tzinfo=UTC)
    assert one["cert_status"].chosen["revocation_reason"].native == "certificate_hold"
    assert one["single_extensions"].native is None
    expected = {"extended_revoke": None} | ({} if nonce is None else {"nonce": nonce})
    assert extensions(read["response_extensions"]) == expected
    assert answer.statuses == ("unknown",)
    assert answer.freshness is None


async def test_extended_revoke_is_said_where_it_matters_only() -> None:
    statuses = Statuses({(CA.name, 1): Good(), (CA.name, 2): REVOKED})
    ours = responder([P_256], statuses, practice=EXTENDED)
    assert data(await ours.answer(ask(1, 2)))["response_extensions"].native is None
    mixed = data(await ours.answer(ask(1, 3)))
    assert extensions(mixed["response_extensions"]) == {"extended_revoke": None}
    assert [one["cert_status"].name for one in mixed["responses"]] == ["good", "revoked"]


async def test_says_since_when_revocations_are_remembered() -> None:
    known_at = NOW - timedelta(minutes=5)
    statuses = Statuses({(CA.name, 1): Good(), (CA.name, 2): REVOKED}, known_at=known_at)
    ours = responder([P_256], statuses, practice=Practice(retention=timedelta(days=3650)))
    good, revoked, unknown = data(await ours.answer(ask(1, 2, 3)))["responses"]
    # Counted from producedAt, not from thisUpdate.
    cutoff = AT - timedelta(days=3650)
    assert good.archive_cutoff_value.native == cutoff
    assert revoked.archive_cutoff_value.native == cutoff
    assert revoked.invalidity_date_value.native == AT
    assert unknown.archive_cutoff_value is None


@pytest.mark.parametrize("days", [0, -1, 36526])
def test_a_retention_has_bounds(days: int) -> None:
    with pytest.raises(Rejected, match="bad-retention"):
        Practice(retention=timedelta(days=days))


async def test_names_the_crl_that_shows_a_revocation() -> None:
    asked = []

    def find(issuer: str, serial: int, status: Revoked) -> CrlReference | None:
        asked.append((issuer, serial, status))
        return CrlReference("http://crl.example/1.crl", 5, AT) if serial == 2 else None

    statuses = Statuses({(CA.name, 1): Good(), (CA.name, 2): REVOKED, (CA.name, 3): REVOKED})
    ours = responder([P_256], statuses, practice=EXTENDED, crl_references=find)
    good, shown, not_yet, never = data(await ours.answer(ask(1, 2, 3, 4)))["responses"]
    assert shown.crl_value.native == {
        "crl_url": "http://crl.example/1.crl",
        "crl_num": 5,
        "crl_time": AT,
    }
    assert good.crl_value is not_yet.crl_value is never.crl_value is None
    assert asked == [(CA.name, 2, REVOKED), (CA.name, 3, REVOKED)]


# Several keys for one CA.

RSA_KEY = ALGORITHMS["rsa"]()[0]
DELEGATES = {
    "p-256": P_256,
    "p-384": CA.delegate(signer("p-384")),
    "rsa": CA.delegate(file_signer(RSA_KEY, "sha256-with-rsa")),
    "rsa-sha384": CA.delegate(file_signer(RSA_KEY, "sha384-with-rsa")),
    "pss": CA.delegate(file_signer(RSA_KEY, "rsa-pss-sha256")),
    "ml-dsa-44": CA.delegate(signer("ml-dsa-44")),
}
EC = "1.2.840.10045.2.1"
CURVES = {"p-256": "1.2.840.10045.3.1.7", "p-384": "1.3.132.0.34"}


def identifier(name: str) -> bytes:
    return SIGNATURE_ALGORITHMS[name].identifier


def algorithm(oid: str, *parameters: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), *parameters)


def ec_key(curve: str) -> bytes:
    return algorithm(EC, der.object_identifier(CURVES[curve]))


def prefer(*wanted: tuple[bytes, ...]) -> bytes:
    """A request that prefers these algorithms, each with a key's if it has two parts."""
    value = der.sequence(*(der.sequence(*one) for one in wanted))
    oid = der.object_identifier("1.3.6.1.5.5.7.48.1.8")
    listed = der.explicit(2, der.sequence(der.sequence(oid, der.octet_string(value))))
    return der.sequence(der.sequence(der.sequence(der.sequence(cert_id(CA.issuer, 1))), listed))


ANYTHING = algorithm("1.2.3.4")
SHA256_WITH_RSA = "1.2.840.113549.1.1.11"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ([], "p-256"),
        ([(ANYTHING,)], "p-256"),
        ([(ANYTHING,), (identifier("ml-dsa-44"),)], "ml-dsa-44"),
        ([(identifier("sha256-with-rsa"),), (identifier("ecdsa-with-sha256"),)], "rsa"),
        ([(algorithm(SHA256_WITH_RSA),)], "rsa"),
        ([(identifier("sha384-with-rsa"),)], "rsa-sha384"),
        ([(identifier("sha512-with-rsa"),)], "p-256"),
        ([(identifier("rsa-pss-sha256"),)], "pss"),
        ([(algorithm("1.2.840.113549.1.1.10"),)], "p-256"),
        ([(identifier("ecdsa-with-sha384"),)], "p-384"),
        (
            [
                (
                    identifier("ecdsa-with-sha384"),
                    ec_key("p-384"),
                )
            ],
            "p-384",
        ),
        (
            [
                (
                    identifier("ecdsa-with-sha384"),
                    ec_key("p-256"),
                ),
                (identifier("ml-dsa-44"),),
            ],
            "ml-dsa-44",
        ),
        ([(identifier("ecdsa-with-sha384"), algorithm(EC))], "p-384"),
        ([(identifier("sha384-with-rsa"), algorithm("1.2.840.113549.1.1.1"))], "rsa-sha384"),
    ],
)
async def test_signs_with_the_first_algorithm_that_both_have(
    wanted: list[tuple[bytes, ...]], chosen: str
) -> None:
    ours = responder(DELEGATES.values(), Statuses({(CA.name, 1): Good()}))
    answer = await ours.answer(prefer(*wanted) if wanted else ask(1))
    assert answer.freshness is not None
    read = x509_ocsp.load_der_ocsp_response(answer.body)
    delegate = DELEGATES[chosen]
    assert answer.body.count(delegate.signer.algorithm.identifier) >= 1
    (certificate,) = read.certificates
    assert certificate == x509.load_der_x509_certificate(delegate.certificate)
    whole = asn1_ocsp.OCSPResponse.load(answer.body, strict=True)
    basic = whole["response_bytes"]["response"].parsed
    assert basic["signature_algorithm"].dump() == delegate.signer.algorithm.identifier


async def test_who_is_not_valid_is_not_chosen() -> None:
    ending = CA.delegate(signer("p-256"), until=AT + timedelta(seconds=10))
    clock = FixedClock(NOW)
    other = DELEGATES["rsa"]
    ours = responder([ending, other], Statuses({(CA.name, 1): Good()}), clock)

    async def certificate(request: bytes) -> bytes:
        whole = asn1_ocsp.OCSPResponse.load((await ours.answer(request)).body, strict=True)
        found: bytes = whole["response_bytes"]["response"].parsed["certs"][0].dump()
        return found

    preferring = prefer((identifier("ecdsa-with-sha256"),))
    assert await certificate(ask(1)) == await certificate(preferring) == ending.certificate
    clock.at = AT + timedelta(seconds=10)
    assert await certificate(ask(1)) == await certificate(preferring) == other.certificate
    renewed = CA.delegate(signer("p-256"))
    ours.install(renewed)
    assert await certificate(ask(1)) == renewed.certificate
