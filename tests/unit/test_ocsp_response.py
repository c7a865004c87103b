"""OCSP responses: what is written, read back by asn1crypto."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from asn1crypto import ocsp as asn1_ocsp

from infra.errors import Rejected
from ocsp.response import (
    CrlReference,
    ResponseStatus,
    build_never_issued,
    build_single,
    build_times,
    build_verdict,
    error_response,
    responder_by_key,
)
from pki import der
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown
from tests.unit.test_ocsp_codec import cert_id

THIS_UPDATE = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
NEXT_UPDATE = datetime(2026, 11, 4, 12, 0, tzinfo=UTC)


def test_an_issuer_key_is_hashed_without_tag_length_and_unused_bits() -> None:
    info = der.sequence(
        der.sequence(der.object_identifier("1.3.101.112")), der.bit_string(b"k" * 32)
    )
    expected = der.explicit(
        2, der.octet_string(hashlib.sha1(b"k" * 32, usedforsecurity=False).digest())
    )
    assert responder_by_key(info) == expected


def read_single(status: CertStatus) -> asn1_ocsp.SingleResponse:
    times = build_times(THIS_UPDATE, NEXT_UPDATE)
    data = build_single(cert_id(), build_verdict(status, times))
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


def test_writes_an_archive_cutoff_and_the_crl_that_shows_a_revocation() -> None:
    at = datetime(2026, 10, 1, tzinfo=UTC)
    status = Revoked(at, RevocationReason.keyCompromise, at, 1)
    times = build_times(THIS_UPDATE, NEXT_UPDATE)
    whole = CrlReference("http://crl.example/a.crl", 77, at)
    verdict = build_verdict(status, times, archive_cutoff=at, crl_reference=whole)
    single = asn1_ocsp.SingleResponse.load(build_single(cert_id(), verdict), strict=True)
    assert single.archive_cutoff_value.native == at
    assert single.invalidity_date_value.native == at
    said = single.crl_value
    assert (said["crl_url"].native, said["crl_num"].native, said["crl_time"].native) == (
        "http://crl.example/a.crl", 77, at,
    )  # fmt: skip
    verdict = build_verdict(status, times, crl_reference=CrlReference(number=78))
    single = asn1_ocsp.SingleResponse.load(build_single(cert_id(), verdict), strict=True)
    assert single.crl_value.native == {"crl_url": None, "crl_num": 78, "crl_time": None}
    assert single.archive_cutoff_value is None


def test_a_crl_url_beyond_ascii_is_refused() -> None:
    with pytest.raises(Rejected, match="bad-crl-url"):
        CrlReference("http://crl.example/ä.crl")


def test_writes_that_it_was_never_issued_as_revoked() -> None:
    verdict = build_never_issued(build_times(THIS_UPDATE, NEXT_UPDATE))
    single = asn1_ocsp.SingleResponse.load(build_single(cert_id(), verdict), strict=True)
    revoked = single["cert_status"].chosen
    assert revoked["revocation_time"].native == datetime(1970, 1, 1, tzinfo=UTC)
    assert revoked["revocation_reason"].native == "certificate_hold"
    assert single["single_extensions"].native is None


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
