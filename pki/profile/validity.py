"""From when to when a certificate holds (RFC 5280 §4.1.2.5: both ends count)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from infra.errors import Rejected
from pki.issuer import Issuer
from pki.profile.model import AtIssuerEnd, Order, Validity

_SECOND: Final = timedelta(seconds=1)


def decide_validity(
    rule: Validity, issuer: Issuer | None, order: Order, now: datetime
) -> tuple[datetime, datetime]:
    """notBefore and notAfter, in whole seconds of UTC.

    ``now``: with its zone. Never before the issuer's notBefore, never past its notAfter. Errors:
    ``bad-validity``, ``lifetime-too-long``, ``ca-expired``, ``ca-not-yet-valid``,
    ``outlasts-issuer``.
    """
    if now.tzinfo is not UTC:
        now = now.astimezone(UTC)
    now = now.replace(microsecond=0)
    start = now - rule.backdate
    if order.not_before is not None:
        start = _ordered_start(rule, order.not_before, earliest=start, now=now)
    if issuer is not None:
        if now > issuer.not_after:
            raise Rejected(
                "ca-expired",
                f"the CA ended at {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}; issue from a newer CA",
            )
        if now < issuer.not_before:
            raise Rejected(
                "ca-not-yet-valid",
                f"the CA starts at {issuer.not_before:%Y-%m-%dT%H:%M:%SZ}; look at the clock",
            )
        start = max(start, issuer.not_before)
    end = rule.lifetime.after(start) - _SECOND
    if order.lifetime is not None:
        end = _ordered_end(start, order.lifetime, end)
    if issuer is not None and end > issuer.not_after:
        if rule.at_issuer_end is AtIssuerEnd.refuse:
            raise Rejected(
                "outlasts-issuer",
                f"the CA ends at {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}, before the certificate "
                "would; ask for a shorter lifetime or a newer CA",
            )
        end = issuer.not_after
    if end < start:
        raise Rejected("bad-validity", "the certificate would end before it starts")
    return start, end


def _ordered_start(
    rule: Validity, wanted: datetime, *, earliest: datetime, now: datetime
) -> datetime:
    wanted = wanted.astimezone(UTC).replace(microsecond=0)
    if not earliest <= wanted <= now + rule.postdate:
        raise Rejected(
            "bad-validity",
            f"notBefore lies between {earliest:%Y-%m-%dT%H:%M:%SZ} and "
            f"{now + rule.postdate:%Y-%m-%dT%H:%M:%SZ} in this profile",
        )
    return wanted


def _ordered_end(start: datetime, lifetime: timedelta, latest: datetime) -> datetime:
    if lifetime < _SECOND:
        raise Rejected("bad-validity", "a lifetime is at least one second")
    try:
        end = start + lifetime - _SECOND
    except OverflowError as error:
        raise Rejected("bad-validity", "a certificate cannot outlast the year 9999") from error
    if end > latest:
        raise Rejected(
            "lifetime-too-long",
            f"this profile ends at {latest:%Y-%m-%dT%H:%M:%SZ} at the latest; ask for less",
        )
    return end
