"""Certificates of our own keys: what is asked of a CA for them, and when the next is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from pki import oids
from pki.authority import Application, Authority
from pki.issuer import Issuer
from pki.names import Name, encode_name, parse_name, parse_rfc4514
from pki.profile import Profile
from pki.record import Record
from pki.request import assemble_request, build_request_info
from pki.signer.port import Signer


async def own_request(signer: Signer, subject: str) -> bytes:
    """A request (PKCS#10, DER) for one of our own keys. ``subject``: RFC 4514."""
    info = build_request_info(parse_rfc4514(subject).der, signer.public_key_info, ())
    return assemble_request(info, signer.algorithm, await signer.sign(info))


def responder_subject(issuer: Issuer) -> Name:
    """The CA's name, its common name followed by what the responder is for."""
    return _renamed(issuer, lambda common_name: f"{common_name} OCSP")


def crl_issuer_subject(issuer: Issuer, name: str) -> Name:
    """The CA's name, its common name replaced by that of a CRL issuer."""
    return _renamed(issuer, lambda common_name: f"CRL issuer {name}")


def _renamed(issuer: Issuer, rename: Callable[[str], str]) -> Name:
    renamed = [
        replace(attribute, value=rename(attribute.value))
        if attribute.type == oids.COMMON_NAME
        else attribute
        for attribute in parse_name(issuer.subject).attributes
    ]
    return encode_name(renamed)


def lasting(
    asked: Application, profile: Profile, lifetime: timedelta, now: datetime
) -> tuple[Application, timedelta]:
    """The same for so long, or as long as its profile lets it, and a third of that; what was asked
    for with another lifetime is another request."""
    longest = profile.validity.lifetime.after(now) - now
    if lifetime >= longest:
        return asked, longest / 3
    return replace(
        asked,
        order=replace(asked.order, lifetime=lifetime),
        request_id=f"{asked.request_id}/{lifetime.total_seconds():.0f}s",
    ), lifetime / 3


async def current_certificate(
    authority: Authority, asked: Application, renew_before: timedelta, now: datetime
) -> Record:
    """The certificate that was asked for, or the one after it if that ends too soon. Errors: those
    of ``Authority.issue``."""
    count = 0
    while True:
        record = await authority.issue(replace(asked, request_id=f"{asked.request_id}/{count}"))
        # One that was made just now, or lasts as long as its CA, has no better after it.
        best = record.issued_at >= now or (
            authority.issuer is not None and record.not_after >= authority.issuer.not_after
        )
        if best or record.not_after - now > renew_before:
            return record
        count += 1
