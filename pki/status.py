"""The status of a certificate and the changes it allows (RFC 5280 §5.3.1, RFC 6960 §2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, TypeAlias

from infra.errors import Rejected


class RevocationReason(IntEnum):
    """CRLReason; 7 is not used, 8 is for delta CRLs only (RFC 5280 §5.3.1)."""

    unspecified = 0
    keyCompromise = 1
    cACompromise = 2
    affiliationChanged = 3
    superseded = 4
    cessationOfOperation = 5
    certificateHold = 6
    removeFromCRL = 8
    privilegeWithdrawn = 9
    aACompromise = 10


EARLIEST: Final = datetime(1950, 1, 1, tzinfo=UTC)
"""Of invalidity dates: no key is older than what UTCTime can say."""

REVOCATION_REASONS = tuple(
    reason
    for reason in RevocationReason
    if reason not in (RevocationReason.certificateHold, RevocationReason.removeFromCRL)
)


@dataclass(frozen=True, slots=True)
class Good:
    """Issued by this CA, and neither revoked nor on hold."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """Revoked, or on hold when ``reason`` is ``certificateHold``.

    ``at``: when the CA revoked it; ``invalidity_date``: since when the key is suspect, if known;
    ``sequence``: which change of the ledger this was, positive.
    """

    at: datetime
    reason: RevocationReason
    invalidity_date: datetime | None
    sequence: int

    @property
    def on_hold(self) -> bool:
        return self.reason is RevocationReason.certificateHold


@dataclass(frozen=True, slots=True)
class Unknown:
    """Never issued by this CA."""


CertStatus: TypeAlias = Good | Revoked | Unknown


def parse_reason(text: str) -> RevocationReason:
    """A reason by its name in RFC 5280; hold has an act of its own."""
    for reason in REVOCATION_REASONS:
        if reason.name.lower() == text.lower():
            return reason
    names = ", ".join(reason.name for reason in REVOCATION_REASONS)
    raise Rejected("bad-reason", f"{text!r} is no revocation reason; use one of {names}")


def decide_revoke(
    status: CertStatus,
    *,
    at: datetime,
    reason: RevocationReason,
    invalidity_date: datetime | None,
    sequence: int,
) -> Revoked:
    """The status after a revocation.

    A certificate on hold can be revoked; its time stays that of the hold, from which it was
    already invalid (RFC 5280 §5.3.1). Errors: ``already-revoked``, ``no-such-certificate``,
    ``bad-invalidity-date``, ``bad-reason``.
    """
    if reason not in REVOCATION_REASONS:
        raise Rejected("bad-reason", f"{reason.name} is not a reason to revoke")
    if invalidity_date is not None and invalidity_date > at:
        raise Rejected("bad-invalidity-date", "the invalidity date lies in the future")
    if invalidity_date is not None and invalidity_date < EARLIEST:
        raise Rejected(
            "bad-invalidity-date", f"the invalidity date lies before {EARLIEST:%Y}: is it mistyped?"
        )
    match status:
        case Good():
            return Revoked(at, reason, invalidity_date, sequence)
        case Revoked(on_hold=True):
            return Revoked(status.at, reason, invalidity_date or status.invalidity_date, sequence)
        case Revoked():
            raise Rejected(
                "already-revoked",
                f"revoked since {status.at:%Y-%m-%dT%H:%M:%SZ} ({status.reason.name}); "
                "a revocation is final and its time cannot be moved",
            )
        case Unknown():
            raise _never_issued()


def decide_hold(status: CertStatus, *, at: datetime, sequence: int) -> Revoked:
    """The status after a hold. Errors: ``already-on-hold``, ``already-revoked``,
    ``no-such-certificate``."""
    match status:
        case Good():
            return Revoked(at, RevocationReason.certificateHold, None, sequence)
        case Revoked(on_hold=True):
            raise Rejected("already-on-hold", f"on hold since {status.at:%Y-%m-%dT%H:%M:%SZ}")
        case Revoked():
            raise Rejected("already-revoked", "a revoked certificate cannot be put on hold")
        case Unknown():
            raise _never_issued()


def decide_release(status: CertStatus) -> Good:
    """The status after a release. Errors: ``not-on-hold``, ``already-revoked``,
    ``no-such-certificate``."""
    match status:
        case Good():
            raise Rejected("not-on-hold", "the certificate is good; there is nothing to release")
        case Revoked(on_hold=True):
            return Good()
        case Revoked():
            raise Rejected("already-revoked", "a revocation is final; only a hold can be released")
        case Unknown():
            raise _never_issued()


def _never_issued() -> Rejected:
    return Rejected("no-such-certificate", "this CA never issued a certificate of that serial")
