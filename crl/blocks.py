"""The entries of a CRL in blocks: a new CRL copies the blocks that did not change.

Entries stand in order of their issuer (in an indirect CRL) and serial number, a few hundred to a
block. Nothing but the CRL itself holds them: beside each full CRL there is a ``Layout``, which
says where its blocks are and what each of them hashes to. It is derived: without it, or when a
block is not what it says, the CRL is made from the ledger.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final, NamedTuple, TypeAlias

import msgspec

from crl.source import Part
from infra.errors import Failure
from pki import der
from pki.crl_entry import extension

BLOCK: Final = 160
"""Entries in a new block; one of more than twice as many is cut in two."""

OID_CERTIFICATE_ISSUER: Final = "2.5.29.29"
_VERSION: Final = 1
_DIGEST: Final = 16  # octets of SHA-256 kept of a block

Key: TypeAlias = tuple[int, bytes]
"""The place of an entry: the number of its part in the scope, the octets of its serial number."""


class Damaged(Failure):
    """What was kept to make the next CRL from is not there, or is not what was put there."""

    def __init__(self, detail: str) -> None:
        super().__init__("crl-state-damaged", f"{detail}; the CRL is made from the ledger instead")


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Entries that stand together: of which part, the first serial number, octets, how many
    entries, and the beginning of the SHA-256 of its octets as they stand in the CRL."""

    part: int
    first: bytes
    size: int
    count: int
    digest: bytes

    @property
    def key(self) -> Key:
        return self.part, self.first


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """Where the entries of a full CRL stand: ``start``: the offset of the first in the file."""

    version: int
    scope: str
    number: int
    start: int
    blocks: list[Block]


class Placed(NamedTuple):
    """A block and where its octets are; ``fresh``: nobody has read it back yet."""

    block: Block
    file: IO[bytes]
    offset: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The entries of the CRL to be made."""

    blocks: Sequence[Placed]

    @property
    def size(self) -> int:
        """Octets of all entries."""
        return sum(placed.block.size for placed in self.blocks)

    @property
    def count(self) -> int:
        """How many entries."""
        return sum(placed.block.count for placed in self.blocks)

    def runs(self) -> Iterator[tuple[IO[bytes], int, int]]:
        """What to copy, in order: file, offset, octets; neighbours in one."""
        file: IO[bytes] | None = None
        begin = end = 0
        for placed in self.blocks:
            if placed.file is not file or placed.offset != end:
                if file is not None:
                    yield file, begin, end - begin
                file, begin, end = placed.file, placed.offset, placed.offset
            end += placed.block.size
        if file is not None:
            yield file, begin, end - begin


class Spill:
    """New blocks on their way into a CRL, in a file that nobody else sees."""

    def __init__(self, file: IO[bytes], parts: Sequence[Part], *, indirect: bool) -> None:
        self.file = file
        self._subjects = [part.subject for part in parts] if indirect else []
        self._end = 0

    def put(self, part: int, first: bytes, entries: bytes, count: int) -> Placed:
        """Keep a block; ``entries``: without certificateIssuer."""
        if self._subjects:
            entries = name_issuer(entries, self._subjects[part])
        placed = Placed(
            Block(part, first, len(entries), count, digest(entries)), self.file, self._end, True
        )
        self.file.write(entries)
        self._end += len(entries)
        return placed

    def read(self, placed: Placed) -> bytes:
        """The entries of a block without certificateIssuer. Errors: ``Damaged``."""
        if placed.file is self.file:
            self.file.flush()
        octets = pread(placed.file, placed.block.size, placed.offset)
        if digest(octets) != placed.block.digest:
            raise Damaged("a block of entries is not what it was")
        return unname_issuer(octets) if self._subjects else octets


def digest(octets: bytes | memoryview) -> bytes:
    """What a ``Block`` keeps of its octets."""
    return hashlib.sha256(octets).digest()[:_DIGEST]


def place(layout: Layout, file: IO[bytes]) -> list[Placed]:
    """The blocks of a CRL that stands in ``file``."""
    offset, placed = layout.start, []
    for block in layout.blocks:
        placed.append(Placed(block, file, offset, False))
        offset += block.size
    return placed


class Gathering:
    """Entries of one part that come in order, on their way into blocks."""

    def __init__(self, spill: Spill, part: int) -> None:
        self.placed: list[Placed] = []
        self._spill = spill
        self._part = part
        self._serials: list[bytes] = []
        self._entries: list[bytes] = []

    def add(self, serials: Iterable[bytes], entries: Iterable[bytes]) -> None:
        """The next entries, with the octets of their serial numbers."""
        self._serials += serials
        self._entries += entries
        full = len(self._entries) - len(self._entries) % BLOCK
        for at in range(0, full, BLOCK):
            self._put(at, BLOCK)
        del self._serials[:full], self._entries[:full]

    def done(self) -> list[Placed]:
        """All blocks; nothing follows."""
        if self._entries:
            self._put(0, len(self._entries))
        return self.placed

    def _put(self, at: int, count: int) -> None:
        entries = b"".join(self._entries[at : at + count])
        self.placed.append(self._spill.put(self._part, self._serials[at], entries, count))


def merge(old: Sequence[Placed], changes: Mapping[Key, bytes | None], spill: Spill) -> list[Placed]:
    """The blocks after ``changes``: an entry to put in or in the place of another, or None to take
    one out, which need not be there. Errors: ``Damaged``."""
    keys = sorted(changes)
    merged: list[Placed] = []
    begin = 0
    pending: _Loose | None = None  # few entries, which go together with the next block's
    for number, placed in enumerate(old):
        part = placed.block.part
        after = old[number + 1] if number + 1 < len(old) else None
        # A part's first block takes what comes before it, its last what comes after.
        limit = (part + 1, b"") if after is None or after.block.part != part else after.block.key
        while begin < len(keys) and keys[begin][0] < part:  # a part that had no block
            begin = _fresh_part(keys, begin, changes, spill, merged)
        end = bisect_left(keys, limit, begin)
        if begin == end and pending is None:
            merged.append(placed)
            continue
        loose = _Loose(part, placed.block.first, spill.read(placed), placed.block.count)
        if pending is not None:
            loose = pending.followed_by(loose)
            pending = None
        loose = loose.changed([(key[1], changes[key]) for key in keys[begin:end]])
        begin = end
        same_part = after is not None and after.block.part == part
        if loose.count < BLOCK // 4 and same_part:
            pending = loose if loose.count else None
        else:
            merged += loose.put(spill)
    while begin < len(keys):
        begin = _fresh_part(keys, begin, changes, spill, merged)
    return merged


def _fresh_part(
    keys: list[Key],
    begin: int,
    changes: Mapping[Key, bytes | None],
    spill: Spill,
    merged: list[Placed],
) -> int:
    part = keys[begin][0]
    end = bisect_left(keys, (part + 1, b""), begin)
    there = [(key[1], entry) for key in keys[begin:end] if (entry := changes[key]) is not None]
    gathering = Gathering(spill, part)
    gathering.add([serial for serial, _ in there], [entry for _, entry in there])
    merged += gathering.done()
    return end


@dataclass(frozen=True, slots=True)
class _Loose:
    """A block in memory, without certificateIssuer."""

    part: int
    first: bytes
    entries: bytes
    count: int

    def followed_by(self, other: _Loose) -> _Loose:
        return _Loose(self.part, self.first, self.entries + other.entries, self.count + other.count)

    def changed(self, changes: Sequence[tuple[bytes, bytes | None]]) -> _Loose:
        data, count = self.entries, self.count
        out: list[bytes] = []
        kept = position = 0
        end = len(data)
        for serial, entry in changes:
            found = b""
            while position < end:
                # Short lengths: an entry has at most 127 octets without certificateIssuer.
                found = data[position + 4 : position + 4 + data[position + 3]]
                if found >= serial:
                    break
                position += 2 + data[position + 1]
            out.append(data[kept:position])
            if position < end and found == serial:
                position += 2 + data[position + 1]
                count -= 1
            if entry is not None:
                out.append(entry)
                count += 1
            kept = position
        out.append(data[kept:])
        changed = b"".join(out)
        return _Loose(self.part, first_serial(changed), changed, count)

    def put(self, spill: Spill) -> list[Placed]:
        if not self.count:
            return []
        if self.count <= 2 * BLOCK:
            return [spill.put(self.part, self.first, self.entries, self.count)]
        gathering = Gathering(spill, self.part)
        gathering.add(*split(self.entries))
        return gathering.done()


def split(octets: bytes) -> tuple[list[bytes], list[bytes]]:
    """Serial numbers and entries of a block without certificateIssuer."""
    serials, entries = [], []
    position = 0
    while position < len(octets):
        stop = position + 2 + octets[position + 1]
        serials.append(octets[position + 4 : position + 4 + octets[position + 3]])
        entries.append(octets[position:stop])
        position = stop
    return serials, entries


def first_serial(octets: bytes) -> bytes:
    """The content octets of the first entry's serial number."""
    return octets[4 : 4 + octets[3]] if octets else b""


def name_issuer(entries: bytes, subject: bytes) -> bytes:
    """``entries`` with certificateIssuer in the first: it holds until another one names another
    (RFC 5280 §5.3.3). ``subject``: the Name of the issuer in DER."""
    stop = 2 + entries[1]
    names = der.sequence(der.explicit(4, subject))
    named = extension(OID_CERTIFICATE_ISSUER, names, critical=True)
    serial = 4 + entries[3]
    dated = serial + 2 + entries[serial + 1]
    others = der.one(entries[dated:stop], der.SEQUENCE).rest() if dated < stop else b""
    first = der.sequence(entries[2:dated], der.sequence(others, named))
    return first + entries[stop:]


def unname_issuer(entries: bytes) -> bytes:
    """``entries`` as ``name_issuer`` found them."""
    reader = der.Reader(entries)
    entry = reader.enter(der.SEQUENCE)
    fields = entry.raw(der.INTEGER) + entry.raw()
    inside = entry.enter(der.SEQUENCE)
    others = b""
    while inside:
        one = inside.raw(der.SEQUENCE)
        if der.one(one, der.SEQUENCE).object_identifier() != OID_CERTIFICATE_ISSUER:
            others += one
    first = der.sequence(fields, der.sequence(others) if others else b"")
    return first + entries[reader.position :]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Layout)


def encode_layout(layout: Layout) -> bytes:
    """The layout as it is kept; the store keeps its SHA-256."""
    return _ENCODER.encode(layout)


def new_layout(scope: str, number: int, start: int, blocks: Iterable[Placed]) -> Layout:
    """The layout of a CRL whose first entry is at the offset ``start``."""
    return Layout(_VERSION, scope, number, start, [placed.block for placed in blocks])


def parse_layout(octets: bytes, scope: str, number: int) -> Layout:
    """Read a layout back. Errors: ``Damaged``."""
    try:
        layout = _DECODER.decode(octets)
    except msgspec.DecodeError as error:
        raise Damaged(f"the layout of CRL {number} of {scope} is of another version") from error
    if (layout.version, layout.scope, layout.number) != (_VERSION, scope, number):
        raise Damaged(f"the layout of CRL {number} of {scope} is of another CRL or version")
    return layout


def pread(file: IO[bytes], size: int, offset: int) -> bytes:
    """So many octets from there. Errors: ``Damaged`` when the file ends before."""
    octets = os.pread(file.fileno(), size, offset)
    if len(octets) != size:
        raise Damaged("a file of entries is shorter than it was")
    return octets
