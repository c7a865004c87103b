"""The file of the status table, and how an entry is found in it.

::

    header      4 KiB   words; which ones, see below
    issuers     32 KiB  256 times: name, flags, known_at, until
    ring        32 KiB  keys of the last 4096 changes of status; change n is at n modulo 4096
    directory   768 KiB range of keys → segment
    counts      772 KiB segment → entries in it
    segments    …       a hash table of fixed size each; they grow upwards
    revocations …       32 octets each: time, invalidity date, sequence and reason, key; downwards

The file is sparse and mapped whole at its full size, so nothing is ever mapped again.

An entry is 16 octets: 64 bits of fingerprint (its key), 32 more (its mark), and 32 of state: 1 is
good, more is the number of a revocation plus 2. The fingerprint is BLAKE2b of issuer and serial
under a random key that only this file holds, so nobody can look for two that collide; the file
tells nothing of a certificate to who does not know its serial.

Readers take no lock. What they rely on, on x86-64 and aarch64:

- an aligned word of 8 octets (a directory entry: 4) is loaded and stored whole;
- stores that ``fence`` parts become visible in this order;
- a new entry is its mark and state first, then its key: until that is there, the slot is empty;
  if the stores change places, the reader finds a key without its mark, and passes on;
- a change of status is one store of mark and state together;
- a revocation is written before an entry points to it, and never again;
- when a segment is full, two new ones are filled, then the directory turns to them, then
  ``GENERATION`` rises; the old one is used again by a later split at the earliest. A reader that
  sees the same generation before and after has therefore read from a segment that was whole.

So each state between two stores is harmless, and so is a writer that dies in one.

Keys lie on the directory along a parabola: twice as dense at its low end as at its high end. Even
segments would all fill up, and split, at the same time; like this one after the other does, so that
at every size they are 64 % full on average, and no put meets many splits.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Final

from infra.errors import Broken, Rejected, Unavailable
from infra.state import unusable
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

VERSION: Final = 1
MAX_ISSUERS: Final = 256
MAX_NAME: Final = 64
RING: Final = 4096
DIRECTORY: Final = 3 << 16
SEGMENTS: Final = DIRECTORY + 1024

# Words of the header. The first three stand so in every version.
MAGIC_AT, VERSION_AT, RETIRED_AT, ROOM_AT, SLOTS_AT, KEY_AT, CHECK_AT = 0, 1, 2, 3, 4, 5, 9
CLEAN_AT, BOOT_AT, USED_SEGMENTS_AT, REVOCATIONS_AT, ISSUER_COUNT_AT = 11, 12, 14, 15, 24
# On cache lines of their own: readers look at them for every answer.
COUNTER_AT, GENERATION_AT, APPLIED_AT, NEWEST_AT = 32, 40, 48, 49
# Which of two places holds the tree head, and those; 0 in tables that know of none.
HEAD_PLACE_AT, HEADS_AT, HEAD_WORDS = 56, (64, 72), 5
# Words, then octets, from the start of the file.
ISSUERS_AT, RING_AT = 512, 512 + 4096
DIRECTORY_AT, COUNTS_AT, SEGMENTS_AT = 69632, 69632 + 4 * DIRECTORY, 2 << 20

# Words of an issuer, after its name.
ISSUER_WORDS, FLAGS, KNOWN_AT, UNTIL = 16, 8, 9, 10
COMPLETE, LIVE = 1, 2

STATE_GOOD, FIRST_REVOCATION = 1, 2
STATE: Final = 0xFFFF_FFFF
REVOCATION_WORDS: Final = 4
CHUNK: Final = 2048
"""Revocations that room on the disk is made sure of at a time."""
NO_DATE: Final = -(1 << 63)

_MAGIC: Final = int.from_bytes(b"DIDstat\n", "little")
PAGE: Final = 4096
_ATTEMPTS: Final = 100
_FINGERPRINT: Final = Struct("=QI")
_GOOD: Final = Good()
_UNKNOWN: Final = Unknown()
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FENCE: Final = threading.Lock()


def fence() -> None:
    """Order the stores (or loads) before this call before those after it: letting go of a lock
    and taking it again does so on every machine."""
    with _FENCE:
        pass


def microseconds(at: datetime) -> int:
    """Since 1970; before it, negative."""
    return (at - _EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def entry_of(key: int) -> int:
    """The place of a key in the directory: (x² + 2x) / 3 of its first 26 bits as 0 ≤ x < 1."""
    x = key >> 38
    return x * (x + 0x800_0000) >> 36


def first_key(entry: int) -> int:
    """The least key that belongs to this or a later place in the directory."""
    return bisect_left(range(1 << 26), entry, key=lambda x: entry_of(x << 38)) << 38


def lock_path(path: Path) -> Path:
    """The file beside the table whose lock the writer holds."""
    return path.with_name(f"{path.name}.lock")


def corrupt(path: Path) -> Broken:
    return Broken(
        "status-table-corrupt",
        f"{path} does not hold together; stop its writer, delete it and start again: it is made "
        "anew from what it was derived from",
    )


def empty(issuer: str) -> Unavailable:
    return Unavailable("status-source-empty", f"nothing is known yet about CA {issuer}")


class Missing(Unavailable):
    """No table yet."""

    def __init__(self, path: Path) -> None:
        super().__init__("status-table-missing", f"no status table at {path}; start its writer")


class OtherVersion(Unavailable):
    """A table of another release of this program."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "status-table-version", f"{path} is of another version; its writer makes it anew"
        )


class Table:
    """A status table as mapped; what readers and the writer share.

    ``words``: the file as words of 8 octets; ``signed``: the same; ``directory``, ``counts``: of 4.
    ``span``: words of a segment; ``top``: words of the file; ``boot``: the run of the kernel in
    which it was last written.
    """

    def __init__(self, path: Path, descriptor: int, *, write: bool) -> None:
        """Map an open file, to be closed with this. Errors: ``not-a-status-table``,
        ``status-table-version``, ``status-table-corrupt``, ``state-unusable``."""
        self.path, self.file = path, descriptor
        head = os.pread(descriptor, PAGE, 0)
        size = os.fstat(descriptor).st_size
        _check(path, head, size)
        try:
            self._map = mmap.mmap(
                descriptor, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
            )
        except OSError as error:
            raise unusable(path, error) from error
        octets = memoryview(self._map)
        self.words = octets.cast("Q")
        self.signed = octets.cast("q")
        self.directory = octets[DIRECTORY_AT:COUNTS_AT].cast("I")
        self.counts = octets[COUNTS_AT : COUNTS_AT + 4 * SEGMENTS].cast("I")
        self._octets = octets
        self._key = bytes(octets[8 * KEY_AT : 8 * KEY_AT + 32])
        self.span = 2 * self.words[SLOTS_AT]
        self.top = size // 8
        self._first = SEGMENTS_AT // 8
        self._numbers: dict[str, int] = {}
        self._hashers: dict[str, blake2b] = {}

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Table:
        """Map a file. Errors: ``status-table-missing`` and those of ``Table``."""
        try:
            descriptor = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Missing(path) from error
        except OSError as error:
            raise unusable(path, error) from error
        try:
            return cls(path, descriptor, write=write)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        for view in (self.counts, self.directory, self.signed, self.words, self._octets):
            view.release()
        self._map.close()
        os.close(self.file)

    @property
    def boot(self) -> bytes:
        return bytes(self._octets[8 * BOOT_AT : 8 * BOOT_AT + 16])

    def flush(self, octets: int = 0) -> None:
        """Write changes to the disk: those in the first ``octets``, or all.
        Errors: ``storage-full`` and others of the state folder."""
        try:
            self._map.flush(0, octets or 8 * self.top)
        except OSError as error:
            raise unusable(self.path, error) from error

    def segment(self, number: int) -> int:
        """The first word of a segment."""
        return self._first + number * self.span

    def issuer(self, name: str) -> int:
        """The number of an issuer. Errors: ``status-source-empty``."""
        number = self._numbers.get(name)
        if number is None:
            self._learn_issuers()
            number = self._numbers.get(name)
        if number is None:
            raise empty(name)
        return number

    def of_issuer(self, number: int, word: int) -> int:
        """Where a word of an issuer is."""
        return ISSUERS_AT + number * ISSUER_WORDS + word

    def fingerprint(self, issuer: str, serial: int) -> tuple[int, int]:
        """Key and mark of a certificate; a key is never 0. Errors: ``status-source-empty``."""
        hasher = self._hashers.get(issuer)
        if hasher is None:
            self.issuer(issuer)
            hasher = self._hashers[issuer]
        hasher = hasher.copy()
        try:
            hasher.update(serial.to_bytes(20, "big"))
        except OverflowError:
            # No such certificate should exist (RFC 5280 §4.1.2.2), yet any may be asked for.
            hasher.update(f"{serial:+052x}".encode())
        key, mark = _FINGERPRINT.unpack(hasher.digest())
        return key or 1, mark

    def find(self, key: int, mark: int) -> int:
        """The word at which an entry begins, or where it would, as a complement (negative)."""
        words, span = self.words, self.span
        x = key >> 38  # as entry_of
        start = self._first + self.directory[x * (x + 0x800_0000) >> 36] * span
        first = start + (2 * key & span - 1)
        for low, high in ((first, start + span), (start, first)):
            for at in range(low, high, 2):
                word = words[at]
                if word == key and words[at + 1] >> 32 == mark:
                    return at
                if not word:
                    return ~at
        raise corrupt(self.path)  # a segment is never full

    def status(self, issuer: str, serial: int) -> CertStatus:
        """The status as it is now. Errors: ``status-source-empty``, ``status-table-busy``,
        ``status-table-corrupt``."""
        key, mark = self.fingerprint(issuer, serial)
        words = self.words
        try:
            generation = words[GENERATION_AT]
            at = self.find(key, mark)
            state = words[at + 1] & STATE if at >= 0 else 0
            if words[GENERATION_AT] != generation:
                state = self._settled(key, mark)
            if state == STATE_GOOD:
                return _GOOD
            if state:
                return self.revocation(state, key)
        except (IndexError, OverflowError, ValueError) as error:
            raise corrupt(self.path) from error
        flags = words[self.of_issuer(self._numbers[issuer], FLAGS)]
        return _UNKNOWN if flags & COMPLETE else _GOOD

    def _settled(self, key: int, mark: int) -> int:
        """The state in an entry, 0 for none, once no entries are moved. Errors:
        ``status-table-busy``."""
        words = self.words
        for _ in range(_ATTEMPTS):
            generation = words[GENERATION_AT]
            at = self.find(key, mark)
            state = words[at + 1] & STATE if at >= 0 else 0
            if words[GENERATION_AT] == generation:
                return state
        raise Unavailable("status-table-busy", "the status table is being filled; try again")

    def revocation(self, state: int, key: int) -> Revoked:
        """What an entry in this state points to. Errors: ``status-table-corrupt``."""
        at = self.top - REVOCATION_WORDS * (state - FIRST_REVOCATION + 1)
        revoked_at, invalidity_date = self.signed[at], self.signed[at + 1]
        change, owner = self.words[at + 2], self.words[at + 3]
        if owner != key:
            raise corrupt(self.path)
        return Revoked(
            moment(revoked_at),
            RevocationReason(change & 0xFF),
            None if invalidity_date == NO_DATE else moment(invalidity_date),
            change >> 8,
        )

    def _learn_issuers(self) -> None:
        for number in range(len(self._numbers), self.words[ISSUER_COUNT_AT]):
            at = 8 * self.of_issuer(number, 0)
            name = bytes(self._octets[at : at + MAX_NAME]).rstrip(b"\0").decode()
            hasher = blake2b(bytes([number]), key=self._key, digest_size=_FINGERPRINT.size)
            self._numbers[name], self._hashers[name] = number, hasher


def new_header(room: int, slots: int, key: bytes, counter: int) -> bytes:
    """The beginning of an empty table.

    ``room``: octets of the file; ``slots``: of a segment, a power of 2; ``key``: 32 random octets;
    ``counter``: random, so that no reader of an older table takes it for that one's.
    """
    header = bytearray(PAGE)
    words = memoryview(header).cast("Q")
    words[MAGIC_AT], words[VERSION_AT] = _MAGIC, VERSION
    words[ROOM_AT], words[SLOTS_AT] = room, slots
    words[COUNTER_AT], words[USED_SEGMENTS_AT] = counter, 1  # the whole directory holds segment 0
    header[8 * KEY_AT : 8 * KEY_AT + 32] = key
    header[8 * CHECK_AT : 8 * CHECK_AT + 16] = _checksum(header)
    return bytes(header)


def _check(path: Path, head: bytes, size: int) -> None:
    if len(head) < PAGE or head[:8] != _MAGIC.to_bytes(8, "little"):
        raise Rejected("not-a-status-table", f"{path} is no status table; it is left as it is")
    words = memoryview(head).cast("Q")
    if words[VERSION_AT] != VERSION:
        raise OtherVersion(path)
    if head[8 * CHECK_AT : 8 * CHECK_AT + 16] != _checksum(head) or words[ROOM_AT] != size:
        raise corrupt(path)


def _checksum(header: bytes | bytearray) -> bytes:
    """Of what never changes: all but the word ``RETIRED_AT``."""
    return blake2b(header[:16] + header[24 : 8 * CHECK_AT], digest_size=16).digest()
