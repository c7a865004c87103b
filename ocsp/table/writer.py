"""Writing the status table: one process at a time."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from infra.errors import Broken, Rejected, Unavailable
from infra.state import unusable
from ocsp.table.layout import (
    APPLIED_AT,
    CHUNK,
    CLEAN_AT,
    COMPLETE,
    COUNTER_AT,
    DIRECTORY,
    FIRST_REVOCATION,
    FLAGS,
    GENERATION_AT,
    HEAD_PLACE_AT,
    HEAD_WORDS,
    HEADS_AT,
    ISSUER_COUNT_AT,
    KNOWN_AT,
    LIVE,
    MAX_ISSUERS,
    MAX_NAME,
    NEWEST_AT,
    NO_DATE,
    PAGE,
    REVOCATION_WORDS,
    REVOCATIONS_AT,
    RING,
    RING_AT,
    SEGMENTS,
    STATE,
    STATE_GOOD,
    UNTIL,
    USED_SEGMENTS_AT,
    Table,
    entry_of,
    fence,
    first_key,
    microseconds,
)
from ocsp.table.reader import TableReader
from ocsp.table.takeover import begin, boot_id, create, end_live, locked, retiring, standing
from ocsp.tree_head import LAYOUT, NO_LEAVES, TreeHead
from pki.status import CertStatus, Good, Revoked

ROOM: Final = 64 << 30
SLOTS: Final = 4096
FULLEST: Final = 0.92
"""The share of its slots from which on a segment is split."""


class TableWriter:
    """The one writer of a status table. Not for several threads at a time.

    Every call has taken effect for all readers when it returns. Errors of calls that need room:
    ``storage-full``, ``status-table-full``; nothing has changed then.
    """

    def __init__(self, table: Table, lock: int) -> None:
        self._table = table
        self._lock = lock
        self._limit = min(int(FULLEST * table.span / 2), table.span // 2 - 1)
        used = set(table.directory.tolist())
        self._free = [n for n in range(table.words[USED_SEGMENTS_AT]) if n not in used]
        for segment in self._free:
            table.counts[segment] = 0  # left behind by a split that was not finished

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        room: int = ROOM,
        slots: int = SLOTS,
        anew: bool = False,
        boot: bytes | None = None,
    ) -> TableWriter:
        """Take the table over, made if need be; no issuer is live until it is said again.

        A table that was not closed when the machine went down cannot be trusted, and one of another
        version not be read: an empty one takes its place, ``applied`` 0, and readers turn to it.
        After the mere death of its writer it goes on, and readers are told that anything may have
        changed.

        ``room``: octets that the file may grow to, a multiple of 4096; ``slots``: of a segment, a
        power of 2; both of a new file only. ``anew``: begin with an empty table in any case.
        ``boot``: of this run of the kernel, else ``boot_id``. The lock goes with the process,
        unless a forked child holds it too: start readers as programs of their own. Errors:
        ``state-locked``, ``not-a-status-table``, ``status-table-corrupt``, ``bad-table-size`` and
        those of the state folder.
        """
        with ExitStack() as stack:
            lock = locked(path)
            stack.callback(os.close, lock)
            boot = boot or boot_id()
            table = standing(path)
            if table is None or anew or not (table.words[CLEAN_AT] or table.boot == boot):
                with retiring(path):
                    create(path, room, slots)
                if table is not None:
                    table.words[COUNTER_AT] += RING  # whoever looks at that alone is told as well
                    table.close()
                table = Table.open(path, write=True)
            stack.callback(table.close)
            begin(table, boot)
            writer = cls(table, lock)
            stack.pop_all()
        return writer

    def reader(self, *, most_lag: timedelta | None = None) -> TableReader:
        """A reader of the same table in this process, to be closed by itself."""
        return TableReader.open(self._table.path, most_lag=most_lag)

    def issuer(self, name: str, *, complete: bool, live: bool = False) -> None:
        """Take a CA in, or say anew what it is.

        ``name``: at most 64 octets; ``complete``: what is not in the table was never issued, else
        it is good; ``live``: nothing changes but by this process, so that the statuses are known at
        any moment while it lives; to be said when all that happened before is in the table.
        Errors: ``bad-issuer-name``, ``too-many-issuers``.
        """
        table, words = self._table, self._table.words
        flags = COMPLETE * complete | LIVE * live
        try:
            words[table.of_issuer(table.issuer(name), FLAGS)] = flags
        except Unavailable:
            octets = name.encode()
            if not 0 < len(octets) <= MAX_NAME or b"\0" in octets:
                raise Rejected(
                    "bad-issuer-name", f"{name!r}: a name takes 1 to {MAX_NAME} octets"
                ) from None
            number = words[ISSUER_COUNT_AT]
            if number == MAX_ISSUERS:
                raise Rejected("too-many-issuers", f"{MAX_ISSUERS} CAs are in the table") from None
            padded = array("Q", octets.ljust(MAX_NAME, b"\0"))
            words[table.of_issuer(number, 0) : table.of_issuer(number, FLAGS)] = memoryview(padded)
            words[table.of_issuer(number, FLAGS)] = flags
            words[table.of_issuer(number, KNOWN_AT)] = words[table.of_issuer(number, UNTIL)] = 0
            fence()
            words[ISSUER_COUNT_AT] = number + 1

    def put(self, issuer: str, serial: int, status: Good | Revoked) -> None:
        """Enter the status of a certificate. Errors: ``status-source-empty`` before ``issuer``
        was called for this CA, and those of room."""
        table = self._table
        words, counts = table.words, table.counts
        good = isinstance(status, Good)
        key, mark = table.fingerprint(issuer, serial)
        at = table.find(key, mark)
        if at >= 0:
            if self._holds(words[at + 1] & STATE, status, key):
                return
            words[at + 1] = mark << 32 | self._state(status, key)
            self._announce(key)
            return
        segment = table.directory[entry_of(key)]
        while counts[segment] >= self._limit:
            self._split(entry_of(key))
            at, segment = table.find(key, mark), table.directory[entry_of(key)]
        marked = mark << 32 | (STATE_GOOD if good else self._state(status, key))
        counts[segment] += 1  # first: after a crash a segment is split early then, never late
        words[~at + 1] = marked
        words[~at] = key
        if not good:
            self._announce(key)

    def put_many(self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]]) -> None:
        """Enter statuses by serial; after an error, those before it are in the table."""
        for serial, status in statuses:
            self.put(issuer, serial, status)

    def set_horizon(self, issuer: str, known_at: datetime, until: datetime | None = None) -> None:
        """Say that all changes up to ``known_at`` are in the table, to be relied on ``until``.
        Errors: ``status-source-empty``."""
        table = self._table
        number = table.issuer(issuer)
        table.words[table.of_issuer(number, UNTIL)] = microseconds(until) if until else 0
        table.words[table.of_issuer(number, KNOWN_AT)] = microseconds(known_at)

    @property
    def applied(self) -> int:
        """The sequence number up to which every change is in the table, as set; 0 at first."""
        return self._table.words[APPLIED_AT]

    @applied.setter
    def applied(self, sequence: int) -> None:
        self._table.words[APPLIED_AT] = sequence

    @property
    def newest(self) -> int:
        """The highest sequence number of which anything may be in the table."""
        return max(self._table.words[NEWEST_AT], self.applied)

    def reach(self, sequence: int) -> None:
        """Say that a change of this number is about to be put. Not all before it need be here."""
        if sequence > self._table.words[NEWEST_AT]:
            self._table.words[NEWEST_AT] = sequence

    @property
    def head(self) -> TreeHead:
        """The log that tells of all that may be in the table, as set; no leaves at first."""
        words = self._table.words
        at = HEADS_AT[words[HEAD_PLACE_AT] & 1]
        head = TreeHead(*LAYOUT.unpack(words[at : at + HEAD_WORDS].tobytes()))
        return head if head.size else NO_LEAVES

    @head.setter
    def head(self, head: TreeHead) -> None:
        # In the other place, then known in one store: whoever dies here leaves the old one or this.
        words = self._table.words
        place = 1 - (words[HEAD_PLACE_AT] & 1)
        words[HEADS_AT[place] : HEADS_AT[place] + HEAD_WORDS] = memoryview(
            array("Q", head.encode())
        )
        fence()
        words[HEAD_PLACE_AT] = place

    def status(self, issuer: str, serial: int) -> CertStatus:
        """The status in the table. Errors: ``status-source-empty``."""
        return self._table.status(issuer, serial)

    def sync(self) -> None:
        """Write to the disk what has changed, so that closing takes less time.
        Errors: those of the state folder."""
        self._table.flush()

    def close(self) -> None:
        """Leave the table to the next writer, also after the machine was down.
        Errors: those of the state folder; it is closed then too, but not trusted later."""
        table = self._table
        try:
            end_live(table)
            table.flush()
            table.words[CLEAN_AT] = 1
            table.flush(PAGE)
        finally:
            table.close()
            os.close(self._lock)

    def _holds(self, state: int, status: Good | Revoked, key: int) -> bool:
        if isinstance(status, Good) or state == STATE_GOOD:
            return isinstance(status, Good) and state == STATE_GOOD
        return self._table.revocation(state, key) == status

    def _state(self, status: Good | Revoked, key: int) -> int:
        """The state of an entry for this status; a revocation is written down for it."""
        if isinstance(status, Good):
            return STATE_GOOD
        table, words = self._table, self._table.words
        number = words[REVOCATIONS_AT]
        at = table.top - REVOCATION_WORDS * (number + 1)
        if number % CHUNK == 0:
            high = at + REVOCATION_WORDS
            self._make_room(high - REVOCATION_WORDS * CHUNK, high)
        words[REVOCATIONS_AT] = number + 1  # first, so that after a crash it is not used again
        date = status.invalidity_date
        table.signed[at] = microseconds(status.at)
        table.signed[at + 1] = NO_DATE if date is None else microseconds(date)
        words[at + 2] = status.sequence << 8 | status.reason
        words[at + 3] = key
        fence()
        return number + FIRST_REVOCATION

    def _announce(self, key: int) -> None:
        words = self._table.words
        counter = words[COUNTER_AT]
        words[RING_AT + counter % RING] = key
        fence()
        words[COUNTER_AT] = counter + 1

    def _split(self, entry: int) -> None:
        """Let two segments take the place of the one that serves this entry of the directory."""
        table, directory = self._table, self._table.directory
        old = directory[entry]
        low = bisect_left(range(entry), True, key=lambda at: directory[at] == old)
        high = bisect_left(range(DIRECTORY), True, entry, key=lambda at: directory[at] != old)
        if high - low == 1:
            raise Broken("status-table-full", "begin the status table anew, with more slots")
        while len(self._free) < 2:
            self._free.append(self._new_segment())
        middle = (low + high) // 2
        start = table.segment(old)
        content = table.words[start : start + table.span].tolist()
        new = [self._free.pop(), self._free.pop()]
        halves = [[0] * table.span, [0] * table.span]
        counts = [0, 0]
        first, border, end = first_key(low), first_key(middle), first_key(high)
        last = table.span - 1
        for key, marked in zip(content[::2], content[1::2], strict=True):
            # Entries of other ranges are there after a split that was not finished.
            if key and first <= key < end:
                upper = key >= border
                half, to = halves[upper], 2 * key & last
                while half[to]:
                    to = to + 2 & last
                half[to], half[to + 1] = key, marked
                counts[upper] += 1
        for segment, half, count in zip(new, halves, counts, strict=True):
            start = table.segment(segment)
            table.words[start : start + table.span] = memoryview(array("Q", half))
            table.counts[segment] = count
        fence()
        # One by one, in order: wherever this ends, what a segment serves is in one piece.
        for at in range(low, high):
            directory[at] = new[at >= middle]
        fence()
        table.words[GENERATION_AT] += 1
        fence()
        table.counts[old] = 0
        self._free.append(old)

    def _new_segment(self) -> int:
        words = self._table.words
        number = words[USED_SEGMENTS_AT]
        if number == SEGMENTS:
            raise Broken("status-table-full", "begin the status table anew, with more slots")
        start = self._table.segment(number)
        self._make_room(start, start + self._table.span)
        words[USED_SEGMENTS_AT] = number + 1
        return number

    def _make_room(self, low: int, high: int) -> None:
        """Make sure that words can be written: without room on the disk a store ends the process.
        Errors: ``status-table-full``, ``storage-full``."""
        table, words = self._table, self._table.words
        chunks = -(-words[REVOCATIONS_AT] // CHUNK)
        if (
            low < table.segment(words[USED_SEGMENTS_AT])
            or high > table.top - REVOCATION_WORDS * CHUNK * chunks
        ):
            raise Broken("status-table-full", "begin the status table anew, with more room")
        try:
            os.posix_fallocate(table.file, 8 * low, 8 * (high - low))
        except OSError as error:
            raise unusable(table.path, error) from error
