"""One line each on what a validation rests on: certificates, CRLs and OCSP responses."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509 import ocsp

from pki.serial import SerialNumber, format_serial


def instant(at: datetime) -> str:
    """A time as RFC 3339 writes it, in UTC and whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_certificate(der: bytes, at: datetime) -> str:
    """Subject, serial and validity of a certificate, and how ``at`` stands to the latter."""
    certificate = x509.load_der_x509_certificate(der)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    line = (
        f"certificate {certificate.subject.rfc4514_string() or '(no subject)'}, "
        f"serial {_named(certificate.serial_number)}: {_period(start, end)}"
    )
    return line + _standing(start, end, at, "not yet valid", "expired")


def describe_crl(der: bytes, serial: int, at: datetime) -> str:
    """Issuer, number and currency of a CRL, and what it says of ``serial``."""
    crl = x509.load_der_x509_crl(der)
    try:
        number = f" {crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number}"
    except (x509.ExtensionNotFound, ValueError):
        number = ""
    start, end = crl.last_update_utc, crl.next_update_utc
    line = f"CRL{number} of {crl.issuer.rfc4514_string()}: {_period(start, end)}"
    line += _standing(start, end, at, "issued later", "stale")
    entry = crl.get_revoked_certificate_by_serial_number(serial)
    if entry is None:
        return f"{line}; does not list {_named(serial)}"
    return (
        f"{line}; lists {_named(serial)} as revoked at {instant(entry.revocation_date_utc)}"
        + _why(entry)
    )


def describe_ocsp_response(der: bytes, serial: int, at: datetime) -> str | None:
    """Currency of an OCSP response and what it says of ``serial``; None if nothing."""
    response = ocsp.load_der_ocsp_response(der)
    for single in response.responses:
        if single.serial_number != serial:
            continue
        start, end = single.this_update_utc, single.next_update_utc
        line = f"OCSP response of {instant(response.produced_at_utc)}: {_period(start, end)}"
        line += _standing(start, end, at, "issued later", "stale")
        line += f"; says that {_named(serial)} is {single.certificate_status.name.lower()}"
        if single.revocation_time_utc is not None:
            line += f" since {instant(single.revocation_time_utc)}"
            if single.revocation_reason is not None:
                line += f", {single.revocation_reason.value}"
        return line
    return None


def _why(entry: x509.RevokedCertificate) -> str:
    try:
        extensions = entry.extensions
    except ValueError:
        return ""
    why = ""
    for extension in extensions:
        if isinstance(extension.value, x509.CRLReason):
            why += f", {extension.value.reason.value}"
        elif isinstance(extension.value, x509.InvalidityDate):
            why += f", suspect since {instant(extension.value.invalidity_date_utc)}"
    return why


def _period(start: datetime, end: datetime | None) -> str:
    return f"{instant(start)} to {instant(end) if end else 'no end'}"


def _standing(start: datetime, end: datetime | None, at: datetime, before: str, after: str) -> str:
    second = at.astimezone(UTC).replace(microsecond=0)
    if second < start:
        return f", {before} at {instant(at)}"
    if end is not None and second > end:
        return f", {after} at {instant(at)}"
    return ""


def _named(serial: int) -> str:
    return format_serial(SerialNumber(serial))
