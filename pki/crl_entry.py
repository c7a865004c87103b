"""A revoked certificate as CRLs list it (RFC 5280 §5.1.2.6, §5.3): encoded once, when it changes.

Here and not with the CRLs, because the ledger keeps the encoded entry beside each status: a CRL
is then made by copying.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from infra.errors import Rejected
from pki import der
from pki.status import RevocationReason

OID_REASON_CODE: Final = "2.5.29.21"
OID_INVALIDITY_DATE: Final = "2.5.29.24"

MAX_INTEGER_OCTETS: Final = 20  # serials and CRL numbers (RFC 5280 §4.1.2.2, §5.2.3)
REASONS: Final = {int(reason): reason for reason in RevocationReason}


class Entry(NamedTuple):
    """One revoked certificate (RFC 5280 §5.1.2.6, §5.3); times are in UTC, to the second.

    A tuple, because there can be millions: they are made and compared three times as fast.
    """

    serial: int
    at: datetime
    reason: RevocationReason = RevocationReason.unspecified
    invalidity_date: datetime | None = None


def encode_entry(entry: Entry) -> bytes:
    """One element of revokedCertificates, at most 127 octets with its header.

    ``unspecified`` is left out, as it should be (§5.3.1). Errors: ``bad-serial``.
    """
    serial = entry.serial
    size = serial.bit_length() // 8 + 1
    if serial <= 0 or size > MAX_INTEGER_OCTETS:
        raise Rejected("bad-serial", "a serial is positive and takes 20 octets at most")
    reason = entry.reason
    if entry.invalidity_date is None:
        details = _REASON_ALONE[reason]
    else:
        details = _entry_extensions(reason, entry.invalidity_date)
    body = b"\x02%c%b%b%b" % (size, serial.to_bytes(size, "big"), encode_time(entry.at), details)
    # Two octets of header hold 127 octets; an entry of ours has 83 at most.
    return b"\x30%c%b" % (len(body), body)


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Extension with ``value`` as the content of its OCTET STRING (RFC 5280 §4.1)."""
    flag = der.TRUE if critical else b""
    return der.sequence(der.object_identifier(oid), flag, der.octet_string(value))


def encode_time(at: datetime) -> bytes:
    """Time as ``pki.der.time`` writes it, faster for the usual years."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    if not 1950 <= at.year < 2050:
        return der.time(at)
    return b"\x17\x0d%02d%02d%02d%02d%02d%02dZ" % (
        at.year % 100, at.month, at.day, at.hour, at.minute, at.second,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _entry_extensions(reason: RevocationReason, invalidity_date: datetime | None) -> bytes:
    parts = []
    if reason is not RevocationReason.unspecified:
        parts.append(extension(OID_REASON_CODE, der.enumerated(reason)))
    if invalidity_date is not None:
        # Always GeneralizedTime, whatever the year (§5.3.2).
        parts.append(extension(OID_INVALIDITY_DATE, der.generalized_time(invalidity_date)))
    return der.sequence(*parts)


_REASON_ALONE: Final = tuple(
    _entry_extensions(REASONS[number], None) if REASONS.get(number) else b""
    for number in range(max(REASONS) + 1)
)
