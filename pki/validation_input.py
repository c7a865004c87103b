"""Certificates, CRLs and OCSP responses from outside, for validation: read whole, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from asn1crypto import crl as asn1_crl
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.x509 import ocsp

from infra.errors import Rejected

MAXIMUM_CERTIFICATE_SIZE: Final = 64 * 1024
MAXIMUM_OCSP_RESPONSE_SIZE: Final = 256 * 1024
MAXIMUM_CRL_SIZE: Final = 64 * 1024 * 1024

_VALIDITY: Final = ("not_before", "not_after")
_UPDATES: Final = ("this_update", "next_update")


def load_certificate(data: bytes) -> asn1_x509.Certificate:
    """Errors: ``bad-certificate``."""
    return _load(
        asn1_x509.Certificate,
        x509.load_der_x509_certificate,
        data,
        MAXIMUM_CERTIFICATE_SIZE,
        "certificate",
    )


def load_crl(data: bytes) -> asn1_crl.CertificateList:
    """Errors: ``bad-crl``."""
    return _load(asn1_crl.CertificateList, x509.load_der_x509_crl, data, MAXIMUM_CRL_SIZE, "crl")


def load_ocsp_response(data: bytes) -> asn1_ocsp.OCSPResponse:
    """Errors: ``bad-ocsp-response``, also of one that holds no answer."""
    response = _load(
        asn1_ocsp.OCSPResponse,
        ocsp.load_der_ocsp_response,
        data,
        MAXIMUM_OCSP_RESPONSE_SIZE,
        "ocsp-response",
    )
    status = response["response_status"].native
    if status != "successful":
        raise Rejected("bad-ocsp-response", f"the responder answered {status}, which says nothing")
    for single in response.response_data["responses"]:
        # pyhanko-certvalidator compares no others.
        if single["cert_id"]["hash_algorithm"]["algorithm"].native not in ("sha1", "sha256"):
            raise Rejected(
                "bad-ocsp-response", "its CertID is hashed with neither SHA-1 nor SHA-256"
            )
    return response


def _times(value: Any) -> Iterator[Any]:
    match value:
        case asn1_x509.Certificate():
            yield from (value["tbs_certificate"]["validity"][end] for end in _VALIDITY)
        case asn1_crl.CertificateList():
            yield from (value["tbs_cert_list"][field] for field in _UPDATES)
        case asn1_ocsp.OCSPResponse() if value["response_status"].native == "successful":
            yield value.response_data["produced_at"]
            for single in value.response_data["responses"]:
                yield from (single[field] for field in _UPDATES)
                if single["cert_status"].name == "revoked":
                    yield single["cert_status"].chosen["revocation_time"]


def _load(kind: Any, check: Any, data: bytes, maximum: int, what: str) -> Any:
    """Read with two parsers, the whole of it: asn1crypto alone would fail in the middle of the
    validation, at the first field that is broken."""
    if len(data) > maximum:
        raise Rejected(f"bad-{what}", f"{len(data)} octets are more than the {maximum} allowed")
    try:
        value = kind.load(data, strict=True)
        if kind is asn1_x509.Certificate and value.serial_number <= 0:
            raise ValueError("a serial is positive (RFC 5280 §4.1.2.2)")
        check(data)
        if kind is asn1_crl.CertificateList:
            for field in ("signature", "issuer", "this_update", "next_update", "crl_extensions"):
                value["tbs_cert_list"][field].native  # noqa: B018 - all but the many entries
            value.issuer.hashable  # noqa: B018 - prepares the name for comparison
        else:
            value.native  # noqa: B018 - reads every field
        if any(type(time.native) not in (datetime, type(None)) for time in _times(value)):
            raise ValueError("the year 0, of which both parsers know, cannot be compared")
        if kind is asn1_x509.Certificate:
            value.subject.hashable, value.issuer.hashable  # noqa: B018
    except Exception as error:  # asn1crypto raises whatever it stumbles over
        raise Rejected(f"bad-{what}", f"these octets are not a valid {what} in DER") from error
    return value
