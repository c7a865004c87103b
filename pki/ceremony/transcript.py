"""The transcript: what happened, one JSON line an entry, each with the hash of the line before it.

An entry is canonical (RFC 8785: keys sorted, no spaces; only texts, whole numbers, lists and
objects), so there is one way to write it and every implementation of SHA-256 and JSON can check it.
A person's entry carries a signature over the rest of the line; since that holds the hash of the
line before, each signature vouches for everything up to it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from infra.errors import Rejected
from pki.algorithms import SIGNATURE_ALGORITHMS, verify

FORMAT: Final = "digitalid-ceremony-1"
NOTHING: Final = "0" * 64
"""What the first entry has for the hash of the one before."""

MAXIMUM_ENTRY: Final = 1 << 20
MAXIMUM_ENTRIES: Final = 20_000
MAXIMUM_SIZE: Final = 64 << 20

_CONTEXT: Final = b"DigitalID ceremony entry, signed by a participant\n"
_WHEN: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What an entry tells."""

    begin = "begin"
    joined = "join"
    intend = "intend"
    confirm = "confirm"
    unlock = "unlock"
    done = "done"
    note = "note"
    pause = "pause"
    resume = "resume"


SIGNED: Final = frozenset({Kind.joined, Kind.confirm, Kind.note})
"""Kinds that a person signs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. ``number``: from 0; ``previous``: SHA-256 of the line before, in hexadecimal;
    ``at``: UTC, to the millisecond; ``signature``: of a person, else empty."""

    number: int
    previous: str
    at: datetime
    kind: Kind
    body: Mapping[str, Any]
    signature: bytes = b""

    @property
    def line(self) -> bytes:
        """The entry as it is written, without the line's end."""
        fields = self._fields()
        if self.signature:
            fields["sig"] = base64.b64encode(self.signature).decode()
        return _encode(fields)

    @property
    def digest(self) -> str:
        """SHA-256 of the line, in hexadecimal: what the next entry has for ``previous``."""
        return hashlib.sha256(self.line).hexdigest()

    @property
    def to_be_signed(self) -> bytes:
        """What a person signs: all of the line but the signature."""
        return _CONTEXT + _encode(self._fields())

    def _fields(self) -> dict[str, Any]:
        return {
            "at": write_time(self.at),
            "body": self.body,
            "kind": self.kind.value,
            "n": self.number,
            "prev": self.previous,
        }


def write_time(at: datetime) -> str:
    """UTC to the millisecond (RFC 3339)."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def write_octets(octets: bytes) -> str:
    """Octets, as an entry carries them: base64."""
    return base64.b64encode(octets).decode()


def read_octets(text: str) -> bytes:
    """Octets from an entry. Errors: ``bad-transcript``."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise _bad("octets are not in base64") from error


class _Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    at: str
    body: dict[str, Any]
    kind: Kind
    n: int
    prev: str
    sig: str = ""


_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder(_Wire).decode


def parse_entry(line: bytes) -> Entry:
    """Read one line. Errors: ``bad-transcript`` unless ``Entry.line`` gives these very octets."""
    if len(line) > MAXIMUM_ENTRY:
        raise _bad(f"an entry takes at most {MAXIMUM_ENTRY} octets")
    try:
        wire = _decode(line)
        at = datetime.fromisoformat(wire.at)
        signature = base64.b64decode(wire.sig, validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _bad("a line is not the JSON of an entry") from error
    if not _WHEN.fullmatch(wire.at) or not _HASH.fullmatch(wire.prev) or wire.n < 0:
        raise _bad("an entry's time, number or hash is not written as it should be")
    _check_values(wire.body, 8)
    entry = Entry(wire.n, wire.prev, at, wire.kind, wire.body, signature)
    try:
        canonical = entry.line == line
    except UnicodeEncodeError:
        canonical = False
    if not canonical:
        raise _bad("an entry is not in canonical form")
    return entry


def _check_values(value: object, depth: int) -> None:
    """Only what has one way to be written, and no depth that recursion minds."""
    if depth == 0:
        raise _bad("an entry is nested too deeply")
    if isinstance(value, dict):
        for inner in value.values():
            _check_values(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, depth - 1)
    elif isinstance(value, bool) or not (
        isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**53)
    ):
        raise _bad("a value is neither text, nor a whole number, nor made of these")


def lines_of(data: bytes) -> Iterator[bytes]:
    """The whole lines of a transcript. Errors: ``bad-transcript`` when it is too large."""
    if len(data) > MAXIMUM_SIZE or data.count(b"\n") > MAXIMUM_ENTRIES:
        raise _bad("it is larger than any ceremony")
    whole, _, _ = data.rpartition(b"\n")
    return iter(whole.split(b"\n") if whole else ())


def signed_by(entry: Entry, algorithm: str, public_key_info: bytes) -> bool:
    """Whether the signature of an entry is by this key. ``algorithm``: by its name."""
    known = SIGNATURE_ALGORITHMS.get(algorithm)
    if known is None:
        return False
    try:
        verify(known, public_key_info, entry.signature, entry.to_be_signed)
    except Rejected:
        return False
    return True


def _bad(why: str) -> Rejected:
    return Rejected("bad-transcript", f"this is not a transcript of a ceremony: {why}")
