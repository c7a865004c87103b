"""What the API shows of certificates, CAs and profiles, as JSON has it."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Any

from infra.errors import Broken
from pki.authority import Authority
from pki.certificate import parse_certificate
from pki.export import encode_pem
from pki.profile import Profile
from pki.record import Record, State
from pki.serial import format_serial
from pki.status import Revoked


def certificate_view(
    record: Record, issuer: str, log_index: int | None, now: datetime
) -> dict[str, Any]:
    """A certificate. ``issuer``: the name of its CA (RFC 4514); ``log_index``: of its leaf; both
    are not looked at before it is issued."""
    view: dict[str, Any] = {
        "serial": format_serial(record.serial),
        "ca": record.ca,
        "profile": record.profile,
        "state": record.state.value,
        "status": status_of(record, now),
        "subject": record.subject,
        "not_after": moment(record.not_after),
        "request_id": record.request_id,
        "sequence": record.sequence,
    }
    if record.partition is not None:
        view["partition"] = record.partition
    if record.consent:
        view["consent"] = True
    if record.state is State.issued:
        view |= {
            "issuer": issuer,
            "not_before": moment(record.not_before),
            "issued_at": moment(record.issued_at),
            "pem": _pem(record.certificate),
            "sha256": hashlib.sha256(record.certificate).hexdigest(),
            "log_index": log_index,
        }
    if isinstance(record.status, Revoked):
        suspect = record.status.invalidity_date
        view |= {
            "revoked_at": moment(record.status.at),
            "reason": record.status.reason.name,
            "invalidity_date": None if suspect is None else moment(suspect),
        }
    return view


def status_of(record: Record, now: datetime) -> str:
    """How a certificate stands: what ``GET /certificates`` takes as ``status``."""
    if record.state is not State.issued:
        return record.state.value
    if isinstance(record.status, Revoked):
        return "hold" if record.status.on_hold else "revoked"
    return "expired" if now > record.not_after else "good"


def chain_of(authority: Authority) -> list[str]:
    """Its certificate and those above it, in PEM."""
    issuer = authority.issuer
    return [] if issuer is None else _pems((issuer.certificate, *issuer.chain))


@lru_cache(maxsize=64)
def _pems(certificates: tuple[bytes, ...]) -> list[str]:
    return [_pem(der) for der in certificates]


def moment(at: datetime) -> str:
    """A time as RFC 3339 writes it, in UTC."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def authority_view(authority: Authority) -> dict[str, Any]:
    """A CA."""
    issuer = authority.issuer
    if issuer is None:
        raise Broken("authority-unfinished", f"CA {authority.name} has no certificate")
    certificate = parse_certificate(issuer.certificate)
    return {
        "name": authority.name,
        "subject": certificate.subject.rfc4514(),
        "issuer": certificate.issuer.rfc4514(),
        "serial": format_serial(certificate.serial),
        "not_before": moment(certificate.not_before),
        "not_after": moment(certificate.not_after),
        "key_uri": authority.signer.uri,
        "key_type": authority.signer.key_type.value,
        "algorithm": authority.signer.algorithm.name,
        "pem": _pem(issuer.certificate),
        "chain": [_pem(der) for der in issuer.chain],
        "crl_url": issuer.crl_url,
        "ocsp_url": issuer.ocsp_url,
        "certificate_url": issuer.certificate_url,
        "barred": authority.barred,
    }


def profile_view(profile: Profile, issuers: list[str]) -> dict[str, Any]:
    """A profile. ``issuers``: the CAs here that issue under it."""
    lifetime = profile.validity.lifetime
    spans = [f"{lifetime.years}y"] if lifetime.years else []
    spans += [f"{lifetime.exact.days}d"] if lifetime.exact.days else []
    return {
        "name": profile.name,
        "title": profile.description,
        "key_types": sorted(profile.key_types),
        "validity": " ".join(spans) or str(lifetime.exact),
        "rulebook": profile.rulebook,
        "reserved": profile.reserved,
        "cas": list(profile.cas) or None,
        "issuers": issuers,
        "fingerprint": profile.fingerprint,
    }


def _pem(certificate: bytes) -> str:
    return encode_pem("CERTIFICATE", certificate).decode()
