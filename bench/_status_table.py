"""Status tables as large as a country's, made quickly: entries by the segment, not by ``put``."""

from __future__ import annotations

import os
from array import array
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random

from ocsp.table import TableWriter
from ocsp.table.layout import DIRECTORY, STATE_GOOD, USED_SEGMENTS_AT, first_key
from ocsp.table.writer import SLOTS
from pki.status import Good, RevocationReason, Revoked

ISSUER = "simulated"
_REAL = 4000
_FULL = 0.9
"""The share of its slots that a segment holds at most: room for the real ones, without a split."""
_PREFIX_AT = 38
"""The bits of a key from here on say where it is in the directory."""


def simulate(path: Path, count: int) -> list[tuple[str, int]]:
    """Make a table in which ``count`` certificates are entered, one in a thousand more or less.

    Segments are as many and as full, and keys in them lie, as if each had been put; whose they are
    nobody knows. Returned are 4000 serials of the CA ``ISSUER`` that really are in it, every fourth
    of them revoked. The next writer must call ``issuer`` to make it live.
    """
    with closing(TableWriter.open(path, anew=True)) as writer:
        writer.issuer(ISSUER, complete=True)
        now = datetime.now(UTC)
        writer.set_horizon(ISSUER, now)
        _fill(writer, count)
        random = Random(count)
        real = [random.getrandbits(127) for _ in range(_REAL)]
        for number, serial in enumerate(real, 1):
            revoked = Revoked(now, RevocationReason.superseded, None, number)
            writer.put(ISSUER, serial, revoked if number % 4 == 0 else Good())
        writer.applied = count
    return [(ISSUER, serial) for serial in real]


def _fill(writer: TableWriter, count: int) -> None:
    table = writer._table
    ranges = _ranges(count)
    table.words[USED_SEGMENTS_AT] = len(ranges)
    os.posix_fallocate(table.file, 8 * table.segment(0), 8 * table.span * len(ranges))
    for segment, (low, high, entries) in enumerate(ranges):
        first = first_key(low) >> _PREFIX_AT
        bits = ((first_key(high) >> _PREFIX_AT) - first).bit_length() - 1
        image, ones = _image(entries, bits)
        octets = (image + ones * (first << _PREFIX_AT)).to_bytes(8 * table.span, "little")
        start = table.segment(segment)
        table.words[start : start + table.span] = memoryview(octets).cast("Q")
        table.counts[segment] = entries
        table.directory[low:high] = memoryview(array("I", [segment]) * (high - low))


def _ranges(count: int) -> list[tuple[int, int, int]]:
    """What splits would have led to: a range of the directory and its entries, each a segment."""
    ranges = []
    pending = [(0, DIRECTORY)]
    while pending:
        low, high = pending.pop()
        entries = count * (first_key(high) - first_key(low)) >> 64
        if entries > _FULL * SLOTS:
            middle = (low + high) // 2
            pending += [(low, middle), (middle, high)]
        else:
            ranges.append((low, high, round(entries / 32) * 32))
    return ranges


@cache
def _image(entries: int, bits: int) -> tuple[int, int]:
    """A segment with so many good entries, as one number, whose keys vary in ``bits`` bits of their
    place in the directory; a number with a 1 wherever a key is."""
    random = Random(entries)
    words = [0] * (2 * SLOTS)
    ones = [0] * (2 * SLOTS)
    for _ in range(entries):
        key = random.getrandbits(bits) << _PREFIX_AT | random.randrange(1, 1 << _PREFIX_AT)
        at = 2 * key & 2 * SLOTS - 1
        while words[at]:
            at = at + 2 & 2 * SLOTS - 1
        words[at], words[at + 1] = key, random.getrandbits(32) << 32 | STATE_GOOD
        ones[at] = 1
    numbers = (int.from_bytes(array("Q", half).tobytes(), "little") for half in (words, ones))
    return next(numbers), next(numbers)
