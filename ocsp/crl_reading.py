"""CRLs of any CA, read where they lie: a mapped file, of which only entries are ever copied.

RFC 5280 §5. What a validation authority must understand to tell the statuses of all certificates
of one CA is read; a CRL that speaks for a part of them, or for other CAs, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from mmap import mmap
from typing import Final, Never, TypeAlias, cast

from infra.errors import Rejected
from pki import der
from pki.algorithms import algorithm_of, verify
from pki.crl_entry import OID_INVALIDITY_DATE, OID_REASON_CODE, REASONS
from pki.issuer import Issuer
from pki.status import RevocationReason, Revoked
from pki.tbs_certificate import Extension, read_extension

MAX_CRL: Final = 256 << 20
"""Octets of a CRL, some seven million entries."""

Octets: TypeAlias = bytes | mmap

_CRL_NUMBER: Final = "2.5.29.20"
_DELTA_CRL_INDICATOR: Final = "2.5.29.27"
_ISSUING_DISTRIBUTION_POINT: Final = "2.5.29.28"
_CERTIFICATE_ISSUER: Final = "2.5.29.29"
_INDIRECT: Final = 0x84  # indirectCRL [4] of an IssuingDistributionPoint
_LIMIT: Final = 1 << 160
"""Of serial numbers: whatever a responder looks up (20 octets, their first bit one included, which
takes one more in DER and yet is out there) has to be found."""
_MAX_EXTENSIONS: Final = 64
_MAX_NAME: Final = 64 * 1024
_MAX_SIGNATURE: Final = 8 * 1024
_MAX_DETAILS: Final = 4 * 1024
_MAX_NUMBER: Final = 20  # octets (§5.2.3)
_SEQUENCE: Final = 1
"""Of each ``Revoked``: always the same, so that an entry that stays is no change."""


@dataclass(frozen=True, slots=True)
class CrlHead:
    """What a CRL says besides its entries.

    ``issuer``: Name in DER; ``number``: None in a CRL without one; ``algorithm``:
    AlgorithmIdentifier; ``tbs`` and ``entries``: where the to-be-signed octets and the entries
    begin and end.
    """

    issuer: bytes
    number: int | None
    this_update: datetime
    next_update: datetime
    algorithm: bytes
    signature: bytes
    tbs: tuple[int, int]
    entries: tuple[int, int]


def read_head(data: Octets) -> CrlHead:
    """Read a CRL in DER but for its entries.

    Errors: ``bad-crl``, ``crl-too-large``; ``crl-delta``, ``crl-indirect``, ``crl-partitioned`` and
    ``crl-critical-extension`` for what does not tell, or not only, all of one CA's statuses.
    """
    if len(data) > MAX_CRL:
        raise Rejected("crl-too-large", f"a CRL takes at most {MAX_CRL} octets")
    try:
        return _head(cast(bytes, data))
    except Rejected as rejected:
        raise _as_bad_crl(rejected) from rejected


def read_entries(data: Octets, head: CrlHead) -> Iterator[tuple[int, Revoked]]:
    """What is revoked, by serial number, in the CRL's order.

    Serial numbers that no certificate can have (RFC 5280 §4.1.2.2) are passed over. Errors:
    ``bad-crl``, ``crl-indirect``, ``crl-critical-extension``.
    """
    reader = der.Reader(cast(bytes, data), *head.entries)
    try:
        while reader:
            serial, revoked = _entry(reader)
            if 0 < serial < _LIMIT:
                yield serial, revoked
    except Rejected as rejected:
        raise _as_bad_crl(rejected) from rejected


def check_signed(data: Octets, head: CrlHead, issuer: Issuer) -> None:
    """That this CA itself signed the CRL.

    Errors: ``crl-issuer`` for another name, ``crl-signature``, ``unknown-algorithm``.
    """
    if head.issuer != issuer.subject:
        raise Rejected("crl-issuer", "the CRL is of another CA: its issuer is not this CA's name")
    with memoryview(data) as whole, whole[slice(*head.tbs)] as tbs:
        try:
            # No copy of it: cryptography takes any buffer.
            verify(
                algorithm_of(head.algorithm),
                issuer.public_key_info,
                head.signature,
                cast(bytes, tbs),
            )
        except Rejected as rejected:
            if rejected.code != "bad-signature":
                raise
            raise Rejected(
                "crl-signature", f"the CRL was not signed by this CA's key: {rejected.detail}"
            ) from rejected


def _head(data: bytes) -> CrlHead:
    whole = der.one(data, der.SEQUENCE)
    begin = whole.position
    tbs = whole.enter(der.SEQUENCE)
    end = whole.position
    algorithm = _short(whole, der.SEQUENCE, _MAX_SIGNATURE)
    _require_short(whole, _MAX_SIGNATURE)
    signature, unused = whole.bit_string()
    whole.done()
    if unused:
        _bad("its signature is not a whole number of octets")
    version = 1
    if tbs.peek() == der.INTEGER:
        version = tbs.integer() + 1
        if version != 2:
            _bad("its version is neither 1 nor 2")
    if _short(tbs, der.SEQUENCE, _MAX_SIGNATURE) != algorithm:
        _bad("it names two signature algorithms (RFC 5280 §5.1.1.2)")
    issuer = _short(tbs, der.SEQUENCE, _MAX_NAME)
    this_update = tbs.time()
    if tbs.peek() not in (der.UTC_TIME, der.GENERALIZED_TIME):
        _bad("it has no nextUpdate, so nobody can tell how long it holds (RFC 5280 §5.1.2.5)")
    next_update = tbs.time()
    if next_update <= this_update:
        _bad("its nextUpdate is not after its thisUpdate")
    entries = (tbs.position, tbs.position)
    if tbs.peek() == der.SEQUENCE:
        _, *bounds = tbs.header()
        entries = (bounds[0], bounds[1])
    number = None
    if tbs:
        if version != 2:
            _bad("only version 2 has extensions")
        number = _read_extensions(tbs)
    tbs.done()
    return CrlHead(
        issuer, number, this_update, next_update, algorithm, signature, (begin, end), entries
    )


def _read_extensions(tbs: der.Reader) -> int | None:
    """Look at the CRL's extensions (RFC 5280 §5.2), and return its number."""
    number = None
    for extension in _extensions(tbs.enter(0xA0).enter(der.SEQUENCE)):
        if extension.oid == _CRL_NUMBER:
            reader = der.Reader(extension.value)
            _require_short(reader, _MAX_NUMBER + 2)
            number = reader.integer()
            reader.done()
            if number < 0:
                _bad("its number is negative")
        elif extension.oid == _DELTA_CRL_INDICATOR:
            raise Rejected("crl-delta", "this is a delta CRL; name the complete one")
        elif extension.oid == _ISSUING_DISTRIBUTION_POINT:
            _refuse_scope(extension)
        elif extension.critical:
            _refuse_critical(extension.oid)
    return number


def _refuse_scope(extension: Extension) -> None:
    """A scope that is narrower than the CA, or wider (RFC 5280 §5.2.5)."""
    scope = der.one(extension.value, der.SEQUENCE)
    fields = set()
    while scope:
        fields.add(scope.header()[0])
    if _INDIRECT in fields:
        raise _indirect()
    if fields:
        raise Rejected(
            "crl-partitioned",
            "this CRL says that it is about a part of the CA's certificates "
            "(issuingDistributionPoint); statuses of the others would be wrong: name the full CRL",
        )


def _entry(reader: der.Reader) -> tuple[int, Revoked]:
    entry = reader.enter(der.SEQUENCE)
    serial = entry.integer()
    at = entry.time()
    details = _short(entry, der.SEQUENCE, _MAX_DETAILS) if entry else b""
    entry.done()
    return serial, Revoked(at, *_details(details), _SEQUENCE)


@lru_cache(maxsize=1024)
def _details(extensions: bytes) -> tuple[RevocationReason, datetime | None]:
    """Reason and invalidity date in the crlEntryExtensions (RFC 5280 §5.3), which are the same in
    most entries."""
    reason, invalidity_date = RevocationReason.unspecified, None
    if not extensions:
        return reason, invalidity_date
    for extension in _extensions(der.one(extensions, der.SEQUENCE)):
        value = der.Reader(extension.value)
        if extension.oid == OID_REASON_CODE:
            # A reason that is newer than this program revokes all the same.
            reason = REASONS.get(value.integer(der.ENUMERATED), RevocationReason.unspecified)
            value.done()
            if reason is RevocationReason.removeFromCRL:
                _bad("an entry is removed from it, which only a delta CRL can say")
        elif extension.oid == OID_INVALIDITY_DATE:
            invalidity_date = value.time()
            value.done()
        elif extension.oid == _CERTIFICATE_ISSUER:
            raise _indirect()
        elif extension.critical:
            _refuse_critical(extension.oid)
    return reason, invalidity_date


def _extensions(listed: der.Reader) -> Iterator[Extension]:
    seen: set[str] = set()
    while listed:
        extension = read_extension(listed)
        if extension.oid in seen or len(seen) == _MAX_EXTENSIONS:
            _bad(f"it has an extension twice, or more than {_MAX_EXTENSIONS}")
        seen.add(extension.oid)
        yield extension


def _short(reader: der.Reader, tag: der.Tag, most: int) -> bytes:
    """The next value whole, at most so many octets."""
    _require_short(reader, most)
    return reader.raw(tag)


def _require_short(reader: der.Reader, most: int) -> None:
    """Refuse to copy what can be as large as the CRL and never is."""
    position = reader.position
    _, _, stop = reader.header()
    reader.position = position
    if stop - position > most:
        _bad(f"a part of it takes more than {most} octets")


def _refuse_critical(oid: str) -> Never:
    raise Rejected(
        "crl-critical-extension",
        f"the CRL has the critical extension {oid}, which is not understood (RFC 5280 §5.2)",
    )


def _indirect() -> Rejected:
    return Rejected(
        "crl-indirect", "this CRL also speaks for other CAs (RFC 5280 §5.2.5); name the CA's own"
    )


def _as_bad_crl(rejected: Rejected) -> Rejected:
    if rejected.code.startswith(("crl-", "bad-crl")):
        return rejected
    return Rejected("bad-crl", f"the CRL cannot be read: {rejected.detail}")


def _bad(why: str) -> Never:
    raise Rejected("bad-crl", f"the CRL cannot be read: {why}")
