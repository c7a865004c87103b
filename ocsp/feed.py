"""The status feed: every certificate's status as signed frames, in order of the ledger's changes.

A frame is a length (4 octets), a body and a signature over both (``ocsp.feed_wire``). The body
begins with what it is and whose, says which range of sequence numbers it carries and when it was
made, and names by a hash what it builds on: the authorities that its numbers stand for, and the log
that tells of all changes up to it. So a frame means the same wherever it is seen.

Four kinds: ``Authorities`` says which CAs there are, ``Continuation`` proves that the log goes on
from what the follower knew, both first on every connection; ``Changes`` brings statuses;
``Heartbeat`` promises that nothing else had changed at its time, from which freshness is measured.
Followers of version 1 get no ``Continuation``. docs/adr/0012-status-feed.md says why.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final, Never, TypeAlias, assert_never

from infra.errors import Broken, Rejected
from ocsp.tree_head import LAYOUT, TreeHead
from pki.certificate import parse_certificate
from pki.issuer import Issuer, Urls
from pki.log.merkle import HASH_SIZE
from pki.serial import LIMIT
from pki.status import Good, RevocationReason, Revoked

NAME: Final = "status"
"""The name of a feed that was given no other."""

VERSION: Final = 2
WITHOUT_LOG: Final = 1
"""The version of followers that cannot tell a CA that went back."""

MAX_FRAME: Final = 1 << 20
"""Octets of a frame's body."""

MAX_ENTRIES: Final = 16_384
"""Entries of one frame: the largest, of 49 octets, still fit."""

MAX_PROOF: Final = 65
"""Hashes of a consistency proof: one more than a size has bits (RFC 9162 §2.1.4.1)."""

_DOMAIN: Final = b"digitalid status feed v"

LENGTH: Final = struct.Struct(">I")  # octets of the body
_HEADER: Final = struct.Struct(">BQQq32s")  # kind, after, upto, at, hash of what it builds on
_COUNTS: Final = struct.Struct(">QI")  # newest sequence number, entries
_ENTRY: Final = struct.Struct(">HQBB")  # authority, sequence, state, octets of the serial
_REVOKED: Final = struct.Struct(">Bq")  # reason, since
_U64: Final = struct.Struct(">Q")
_MOMENT: Final = struct.Struct(">q")  # microseconds since 1970

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_REASONS: Final = {
    int(reason): reason
    for reason in RevocationReason
    if reason is not RevocationReason.removeFromCRL  # for delta CRLs only
}


class _Kind(IntEnum):
    AUTHORITIES = 1
    CHANGES = 2
    HEARTBEAT = 3
    CONTINUATION = 4


class _State(IntEnum):
    GOOD = 0
    VOID = 1
    REVOKED = 2
    REVOKED_SUSPECT = 3  # with an invalidity date


@dataclass(frozen=True, slots=True)
class Void:
    """Given up before it was issued: nobody has such a certificate."""


EntryStatus: TypeAlias = Good | Revoked | Void


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest status of one certificate.

    ``authority``: the place of its CA in the last ``Authorities``, from 0; ``serial``: positive,
    at most 20 octets; ``sequence``: number of its newest change, that of a ``Revoked`` too.
    """

    authority: int
    serial: int
    sequence: int
    status: EntryStatus


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CAs of the feed from here on; ``upto``: where in the feed that is."""

    upto: int
    at: datetime
    issuers: tuple[Issuer, ...]


@dataclass(frozen=True, slots=True)
class Continuation:
    """The CA's log from here on; ``upto``: where in the feed that is.

    ``old``: leaves that the follower knows, 0 for none; ``proof``: that they are the beginning of
    those of ``head`` (RFC 6962 §2.1.2). Whatever frames tell that build on ``head`` is in it.
    """

    upto: int
    at: datetime
    old: int
    head: TreeHead
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed beyond ``after``, ``upto`` and with it; each certificate once.

    ``at``: when it was looked up; ``newest``: the newest sequence number then; ``basis``: what it
    builds on, see ``basis_hash``.
    """

    after: int
    upto: int
    at: datetime
    newest: int
    basis: bytes
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Beyond ``upto`` nothing had changed at the time ``at``."""

    upto: int
    at: datetime
    basis: bytes


Frame: TypeAlias = Authorities | Continuation | Changes | Heartbeat


# Encoding


def encode(name: str, frame: Frame, version: int = VERSION) -> bytes:
    """The octets of a frame that are to be signed.

    ``version``: of the feed, ``VERSION`` or ``WITHOUT_LOG``. Errors: ``Broken("feed-frame")`` for
    what no frame can hold.
    """
    match frame:
        case Authorities(upto, at, issuers):
            content = _encode_issuers(issuers)
            header = (_Kind.AUTHORITIES, upto, upto, _micros(at), hashlib.sha256(content).digest())
        case Continuation(upto, at, old, head, proof):
            content = _U64.pack(old) + head.encode() + bytes([len(proof)]) + b"".join(proof)
            header = (_Kind.CONTINUATION, upto, upto, _micros(at), hashlib.sha256(content).digest())
        case Changes():
            header = (_Kind.CHANGES, frame.after, frame.upto, _micros(frame.at), frame.basis)
            content = _COUNTS.pack(frame.newest, len(frame.entries))
            content += b"".join(_encode_entry(entry) for entry in frame.entries)
        case Heartbeat(upto, at, basis):
            header, content = (_Kind.HEARTBEAT, upto, upto, _micros(at), basis), b""
        case _:
            assert_never(frame)
    body = _domain(version) + _text(name, 1) + _HEADER.pack(*header) + content
    if len(body) > MAX_FRAME:
        raise Broken("feed-frame", f"a frame of {len(body)} octets is larger than {MAX_FRAME}")
    return LENGTH.pack(len(body)) + body


def authorities_hash(issuers: Sequence[Issuer]) -> bytes:
    """By what these authorities are named; in version 1, all that frames build on."""
    return hashlib.sha256(_encode_issuers(issuers)).digest()


def basis_hash(authorities: bytes, head: TreeHead) -> bytes:
    """By what frames name that they build on; ``authorities``: from ``authorities_hash``."""
    return hashlib.sha256(authorities + head.encode()).digest()


def _domain(version: int) -> bytes:
    return b"%s%d\0" % (_DOMAIN, version)


def _encode_issuers(issuers: Sequence[Issuer]) -> bytes:
    parts = [len(issuers).to_bytes(2, "big")]
    for issuer in issuers:
        parts += [
            _text(issuer.name, 1),
            _octets(issuer.certificate, 2),
            len(issuer.chain).to_bytes(1, "big"),
            *(_octets(above, 2) for above in issuer.chain),
            _text(issuer.crl_url, 2),
            _text(issuer.ocsp_url, 2),
            _text(issuer.certificate_url, 2),
        ]
    return b"".join(parts)


def _encode_entry(entry: Entry) -> bytes:
    serial = entry.serial.to_bytes((entry.serial.bit_length() + 7) // 8, "big")
    match entry.status:
        case Good():
            state, rest = _State.GOOD, b""
        case Void():
            state, rest = _State.VOID, b""
        case Revoked(at, reason, suspect):
            state, rest = _State.REVOKED, _REVOKED.pack(reason, _micros(at))
            if suspect is not None:
                state, rest = _State.REVOKED_SUSPECT, rest + _MOMENT.pack(_micros(suspect))
        case _:
            assert_never(entry.status)
    return _ENTRY.pack(entry.authority, entry.sequence, state, len(serial)) + serial + rest


def _octets(value: bytes, size: int) -> bytes:
    if len(value) >= 1 << 8 * size:
        raise Broken("feed-frame", f"{len(value)} octets are too many for their place in a frame")
    return len(value).to_bytes(size, "big") + value


def _text(value: str, size: int) -> bytes:
    return _octets(value.encode(), size)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


# Decoding


def parse(message: bytes, name: str) -> Frame:
    """What ``encode`` has encoded; whatever is accepted encodes back to the same octets.

    Errors: ``feed-name``, ``feed-malformed``, ``feed-version``.
    """
    try:
        return _parse(_Octets(message), name)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise Rejected("feed-malformed", f"a frame of the feed cannot be read: {error}") from error


class _Octets:
    """Reads a frame from its start; ``struct.error`` where it is cut short."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        found = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return found

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise struct.error("it is cut short")
        return self.data[start : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self, size: int) -> str:
        return self.take(self.number(size)).decode()

    def done(self) -> None:
        if self.position != len(self.data):
            _malformed("something follows its end")


def _parse(octets: _Octets, name: str) -> Frame:
    if octets.number(LENGTH.size) != len(octets.data) - LENGTH.size:
        _malformed("its length is not what it says")
    if octets.take(len(_DOMAIN)) != _DOMAIN:
        _malformed("it is none of a status feed")
    if octets.take(2) != _domain(VERSION)[-2:]:
        raise Rejected(
            "feed-version",
            f"the feed comes in another version than {VERSION}: upgrade the CA's instance first, "
            "which serves those who follow in an older one, too; then the validation authorities",
        )
    found = octets.text(1)
    if found != name:
        raise Rejected("feed-name", f"this frame is of the feed {found!r}, not of {name!r}")
    kind, after, upto, micros, basis = octets.unpack(_HEADER)
    at = _time(micros)
    if kind != _Kind.CHANGES and after != upto:
        _malformed("only changes cover a range")
    match kind:
        case _Kind.AUTHORITIES:
            start = octets.position
            issuers = _parse_issuers(octets)
            if hashlib.sha256(octets.data[start:]).digest() != basis:
                _malformed("its hash is not that of the authorities in it")
            frame: Frame = Authorities(upto, at, issuers)
        case _Kind.CONTINUATION:
            start = octets.position
            frame = _parse_continuation(octets, upto, at)
            if hashlib.sha256(octets.data[start:]).digest() != basis:
                _malformed("its hash is not that of what is in it")
        case _Kind.CHANGES:
            newest, count = octets.unpack(_COUNTS)
            entries = _parse_entries(octets, count, after)
            if entries[-1].sequence != upto or newest < upto:
                _malformed("its entries are not what its range says")
            frame = Changes(after, upto, at, newest, basis, entries)
        case _Kind.HEARTBEAT:
            frame = Heartbeat(upto, at, basis)
        case _:
            _malformed(f"its kind {kind} is unknown")
    octets.done()
    return frame


def _parse_issuers(octets: _Octets) -> tuple[Issuer, ...]:
    issuers = []
    for _ in range(octets.number(2)):
        name, certificate = octets.text(1), octets.take(octets.number(2))
        chain = tuple(octets.take(octets.number(2)) for _ in range(octets.number(1)))
        urls = Urls(crl=octets.text(2), ocsp=octets.text(2), certificate=octets.text(2))
        try:
            issuer = parse_certificate(certificate).as_issuer(name, urls, chain)
        except Rejected as rejected:
            raise Rejected(
                "feed-malformed", f"the certificate of CA {name!r} in it: {rejected}"
            ) from rejected
        issuers.append(issuer)
    if len({issuer.name for issuer in issuers}) != len(issuers):
        _malformed("two authorities in it have the same name")
    return tuple(issuers)


def _parse_continuation(octets: _Octets, upto: int, at: datetime) -> Continuation:
    [old] = octets.unpack(_U64)
    head = TreeHead(*octets.unpack(LAYOUT))
    count = octets.number(1)
    if count > MAX_PROOF or old > head.size or (count and not old):
        _malformed("it is no proof that a log goes on")
    proof = tuple(octets.take(HASH_SIZE) for _ in range(count))
    return Continuation(upto, at, old, head, proof)


def _parse_entries(octets: _Octets, count: int, after: int) -> tuple[Entry, ...]:
    if not 0 < count <= MAX_ENTRIES:
        _malformed(f"changes have 1 to {MAX_ENTRIES} entries")
    entries = []
    for _ in range(count):
        authority, sequence, state, size = octets.unpack(_ENTRY)
        if sequence <= after:
            _malformed("its entries are not in order, or before its range")
        after = sequence
        encoded = octets.take(size)
        serial = int.from_bytes(encoded, "big")
        if not 0 < serial < LIMIT or not encoded[0]:
            _malformed("a serial number in it is none")
        status: EntryStatus
        match state:
            case _State.GOOD:
                status = Good()
            case _State.VOID:
                status = Void()
            case _State.REVOKED | _State.REVOKED_SUSPECT:
                code, since = octets.unpack(_REVOKED)
                reason = _REASONS.get(code)
                if reason is None:
                    _malformed(f"{code} is no reason of a revocation")
                suspect = (
                    _time(octets.unpack(_MOMENT)[0]) if state == _State.REVOKED_SUSPECT else None
                )
                status = Revoked(_time(since), reason, suspect, sequence)
            case _:
                _malformed(f"{state} is no state of a certificate")
        entries.append(Entry(authority, serial, sequence, status))
    return tuple(entries)


def _time(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND


def _malformed(why: str) -> Never:
    raise Rejected("feed-malformed", f"a frame of the feed cannot be read: {why}")
