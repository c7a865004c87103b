"""Certificate revocation lists in DER (RFC 5280 §5): built without a key, read back strictly.

Entries stand in the order in which the ledger made them, not by serial: any order is legal
(RFC 5280 §5.1.2.6), and in this one a new revocation is appended, so what was encoded for the
last CRL is a prefix of the next one but for releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from infra.errors import Rejected
from pki import der
from pki.crl_entry import (
    MAX_INTEGER_OCTETS,
    OID_INVALIDITY_DATE,
    OID_REASON_CODE,
    REASONS,
    Entry,
    encode_entry,
    encode_time,
    extension,
)
from pki.status import RevocationReason

OID_CRL_NUMBER: Final = "2.5.29.20"
OID_DELTA_CRL_INDICATOR: Final = "2.5.29.27"
OID_AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"

__all__ = ["Entry", "encode_entry", "extension"]

MAX_CRL_SIZE: Final = 64 * 1024 * 1024
_MAX_EXTENSIONS: Final = 32

_SERIAL: Final = "a serial is not positive, takes more than 20 octets or more than it needs"
_VERSION_2: Final = der.integer(1)


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: its dotted object identifier, and the octets inside its OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class TbsCertList:
    """What a CRL issuer signs (RFC 5280 §5.1.2).

    ``der``: all of it; ``algorithm`` and ``issuer``: DER; ``number``: the CRL number;
    ``key_identifier``: of the authority key identifier; ``extensions``: by object identifier,
    those two included. ``entries`` reads the entries as it goes: a long list takes no memory.
    """

    der: bytes
    algorithm: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime
    number: int
    key_identifier: bytes
    extensions: Mapping[str, Extension]
    entries_start: int
    entries_end: int

    @property
    def is_delta(self) -> bool:
        """Whether it only says what changed since a base (§5.2.4)."""
        return OID_DELTA_CRL_INDICATOR in self.extensions

    def entries(self) -> Iterator[Entry]:
        """The entries in their order. Errors while reading: ``bad-crl``, ``bad-der``."""
        return _entries(self.der, self.entries_start, self.entries_end)


@dataclass(frozen=True, slots=True)
class Crl:
    """A signed CRL; ``der`` is all of it, ``count`` says how many entries it has."""

    der: bytes
    tbs: TbsCertList
    algorithm: bytes
    signature: bytes
    count: int


def authority_key_identifier(key_identifier: bytes) -> bytes:
    """The authority key identifier by its key identifier, which every CRL has (§5.2.1)."""
    return extension(OID_AUTHORITY_KEY_IDENTIFIER, der.sequence(der.implicit(0, key_identifier)))


def crl_number(number: int) -> bytes:
    """The CRL number, which every CRL has: not critical, at most 20 octets (§5.2.3)."""
    encoded = der.integer(number)
    if number < 0 or len(encoded) - 2 > MAX_INTEGER_OCTETS:
        raise Rejected("bad-crl-number", "a CRL number is not negative and takes 20 octets at most")
    return extension(OID_CRL_NUMBER, encoded)


def build_tbs(
    *,
    issuer: bytes,
    algorithm: bytes,
    this_update: datetime,
    next_update: datetime,
    entries: Iterable[bytes],
    extensions: Sequence[bytes],
) -> bytes:
    """TBSCertList, version 2.

    ``issuer``: Name in DER, as in the certificate of the CA; ``algorithm``: AlgorithmIdentifier
    in DER; ``entries`` from ``encode_entry``; ``extensions`` from ``extension`` and its kin.
    """
    body = b"".join(entries)
    head, tail = frame(
        issuer=issuer,
        algorithm=algorithm,
        this_update=this_update,
        next_update=next_update,
        entries_size=len(body),
        extensions=extensions,
    )
    return b"".join((head, body, tail))


def frame(
    *,
    issuer: bytes,
    algorithm: bytes,
    this_update: datetime,
    next_update: datetime,
    entries_size: int,
    extensions: Sequence[bytes],
) -> tuple[bytes, bytes]:
    """What stands before and after the entries, which take ``entries_size`` octets together.

    With this, entries can be written out one after the other once their size is known.
    """
    before = b"".join(
        (_VERSION_2, algorithm, issuer, encode_time(this_update), encode_time(next_update))
    )
    # revokedCertificates MUST be absent when there are none (§5.1.2.6).
    opening = header(der.SEQUENCE, entries_size) if entries_size else b""
    after = der.explicit(0, der.sequence(*extensions))
    size = len(before) + len(opening) + entries_size + len(after)
    return b"".join((header(der.SEQUENCE, size), before, opening)), after


def assemble(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """CertificateList of what was signed, AlgorithmIdentifier in DER and the signature value."""
    return der.sequence(tbs, algorithm, der.bit_string(signature))


def parse_crl(data: bytes, *, limit: int = MAX_CRL_SIZE) -> Crl:
    """Read a CRL as strictly as RFC 5280 §5 lets its issuer write it, every entry included.

    ``limit``: octets. Errors: ``crl-too-large``, ``bad-crl``, ``bad-der``.
    """
    if len(data) > limit:
        raise Rejected("crl-too-large", f"a CRL of more than {limit} octets is not read here")
    outer = der.one(data, der.SEQUENCE)
    tbs_der = outer.raw(der.SEQUENCE)
    algorithm = outer.raw(der.SEQUENCE)
    signature, unused = outer.bit_string()
    outer.done()
    tbs = parse_tbs(tbs_der)
    if unused or algorithm != tbs.algorithm:
        raise _bad("the algorithm outside differs from the signed one, or the signature is ragged")
    count = 0
    for entry in tbs.entries():
        if entry.reason is RevocationReason.removeFromCRL and not tbs.is_delta:
            raise _bad("removeFromCRL stands outside a delta CRL")
        count += 1
    return Crl(data, tbs, algorithm, signature, count)


def parse_entry(octets: bytes) -> Entry:
    """Read one element of revokedCertificates. Errors: ``bad-crl``, ``bad-der``."""
    return _entry(der.one(octets, der.SEQUENCE))


def parse_tbs(data: bytes) -> TbsCertList:
    """Read TBSCertList but for its entries. Errors: ``bad-crl``, ``bad-der``."""
    reader = der.one(data, der.SEQUENCE)
    if reader.integer() != 1:
        raise _bad("only version 2 has extensions, and a CRL must have some")
    algorithm = reader.raw(der.SEQUENCE)
    issuer = reader.raw(der.SEQUENCE)
    if len(issuer) == 2:
        raise _bad("the issuer has an empty name")
    this_update = _read_time(reader)
    if reader.peek() not in (der.UTC_TIME, der.GENERALIZED_TIME):
        raise _bad("nextUpdate is missing")
    next_update = _read_time(reader)
    start = end = reader.position
    if reader.peek() == der.SEQUENCE:
        _, start, end = reader.header()
        if start == end:
            raise _bad("revokedCertificates is there but empty")
    extensions = _read_extensions(der.one(reader.content(0xA0), der.SEQUENCE))
    reader.done()
    identifier = der.one(_required(extensions, OID_AUTHORITY_KEY_IDENTIFIER), der.SEQUENCE)
    return TbsCertList(
        der=data,
        algorithm=algorithm,
        issuer=issuer,
        this_update=this_update,
        next_update=next_update,
        number=_read_number(_required(extensions, OID_CRL_NUMBER)),
        key_identifier=identifier.content(0x80),
        extensions=extensions,
        entries_start=start,
        entries_end=end,
    )


def _required(extensions: Mapping[str, Extension], oid: str) -> bytes:
    found = extensions.get(oid)
    if found is None or found.critical:
        raise _bad(f"extension {oid} is missing, or critical")
    return found.value


def _read_number(value: bytes) -> int:
    reader = der.Reader(value)
    number = reader.integer()
    reader.done()
    if number < 0 or len(value) - 2 > MAX_INTEGER_OCTETS:
        raise _bad("the CRL number is negative or takes more than 20 octets")
    return number


def _read_extensions(reader: der.Reader) -> dict[str, Extension]:
    if not reader:
        raise _bad("a list of extensions is empty")
    found: dict[str, Extension] = {}
    while reader:
        one = reader.enter(der.SEQUENCE)
        oid = one.object_identifier()
        critical = one.peek() == der.BOOLEAN
        if critical and not one.boolean():
            raise _bad("a default value is written out")
        value = one.content(der.OCTET_STRING)
        one.done()
        if oid in found or len(found) == _MAX_EXTENSIONS:
            raise _bad(f"extension {oid} is there twice, or there are too many")
        found[oid] = Extension(oid, critical, value)
    return found


def _entries(data: bytes, position: int, end: int) -> Iterator[Entry]:
    # Most of a CRL is this loop: the usual shape of an entry is taken by slices; its extensions,
    # which repeat, go to a function that remembers. Any other goes to the reader. The mandatory
    # extensions of the CRL follow ``end``, so looking a few octets ahead stays inside ``data``.
    while position < end:
        stop = position + 2 + data[position + 1]
        size = data[position + 3]
        dated = position + 4 + size
        plain = dated + 15
        if (
            data[position] == der.SEQUENCE
            and data[position + 1] < 0x80
            and data[position + 2] == der.INTEGER
            and data[position + 4] < 0x80
            and plain <= stop <= end
            and data[dated] == der.UTC_TIME
        ):
            serial = int.from_bytes(data[position + 4 : dated], "big")
            at = _utc_time(data[dated:plain])
            reason, invalidity_date = _details(data[plain:stop])
            fewest = serial.bit_length() // 8 + 1
            if not serial or size != fewest or size > MAX_INTEGER_OCTETS:
                raise _bad(_SERIAL)
            yield Entry(serial, at, reason, invalidity_date)
            position = stop
        else:
            reader = der.Reader(data, position, end)
            yield _entry(reader.enter(der.SEQUENCE))
            position = reader.position


def _entry(reader: der.Reader) -> Entry:
    serial = reader.integer()
    if serial <= 0 or serial.bit_length() >= 8 * MAX_INTEGER_OCTETS:
        raise _bad(_SERIAL)
    at = _read_time(reader)
    return Entry(serial, at, *_details(reader.rest()))


def _utc_time(data: bytes) -> datetime:
    """UTCTime of 13 octets from 15 with its header, whose tag is right."""
    if data[1] != 13 or data[14] != 0x5A or not data[2:14].isdigit():
        raise _bad("a revocation date is not written as RFC 5280 §4.1.2.5.1 wants it")
    date, time = divmod(int(data[2:14]), 1_000_000)
    year = date // 10_000 + (1900 if date >= 500_000 else 2000)
    day = (year, date // 100 % 100, date % 100)
    try:
        return datetime(*day, time // 10_000, time // 100 % 100, time % 100, 0, UTC)
    except ValueError as error:
        raise _bad("a revocation date does not exist in the calendar") from error


@lru_cache(maxsize=4096)
def _details(data: bytes) -> tuple[RevocationReason, datetime | None]:
    """Reason and invalidity date from crlEntryExtensions in DER, or from nothing."""
    reason, invalidity_date = RevocationReason.unspecified, None
    if not data:
        return reason, invalidity_date
    for found in _read_extensions(der.one(data, der.SEQUENCE)).values():
        inside = der.Reader(found.value)
        if found.oid == OID_REASON_CODE and not found.critical:
            known = REASONS.get(inside.integer(der.ENUMERATED))
            if known is None:
                raise _bad("a reason code does not exist")
            reason = known
        elif found.oid == OID_INVALIDITY_DATE and not found.critical:
            if inside.peek() != der.GENERALIZED_TIME:
                raise _bad("an invalidity date is no GeneralizedTime")
            invalidity_date = inside.time()
        elif found.critical:
            # §5.3: a CRL with one that is not understood must not be used.
            raise _bad(f"entry extension {found.oid} is critical and not known here")
        else:
            continue
        inside.done()
    return reason, invalidity_date


def _read_time(reader: der.Reader) -> datetime:
    tag = reader.peek()
    at = reader.time()
    if tag == der.GENERALIZED_TIME and 1950 <= at.year < 2050:
        raise _bad("a time before 2050 is written as GeneralizedTime")
    return at


def header(tag: int, size: int) -> bytes:
    """Identifier and length octets of a value whose content takes ``size`` octets."""
    if size < 0x80:
        return bytes((tag, size))
    octets = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + size.to_bytes(octets, "big")


def _bad(why: str) -> Rejected:
    return Rejected("bad-crl", why)
