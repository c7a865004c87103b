"""The file of a backup: tar (POSIX ustar) whose first member says what the others are.

The manifest allows exactly one header for each member. So nothing of a file from elsewhere is
interpreted before the manifest was judged: no links, devices, owners, modes or extensions, though
``tar`` reads the file all the same. It is not compressed: most of it is signatures and encrypted
keys, and what is not compressed cannot grow when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Protocol

import msgspec

from infra.errors import Rejected

FORMAT: Final = "digitalid-backup/1"
TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
MANIFEST: Final = "manifest.json"
LEDGER: Final = "ledger.sqlite"

BLOCK: Final = 512
CHUNK: Final = 1 << 20
END: Final = bytes(2 * BLOCK)
MAX_MANIFEST: Final = 128 << 20
MAX_MEMBERS: Final = 500_000
MAX_SIZE: Final = 1 << 44
"""Octets of a member."""

NOT_KEPT: Final = frozenset(
    {"directory", "lock", "log", "lost+found", "node", "rehearsal", "run", "status", MANIFEST}
)
"""What lies in a home folder and is derived, of this moment or of this place."""

_PART: Final = re.compile(r"[A-Za-z0-9_@+=,-][A-Za-z0-9_@+=,. -]{0,99}")
_OF_SQLITE: Final = ("-wal", "-shm", "-journal")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DEPTH: Final = 8


class Source(Protocol):
    """Where a backup is read from, forward only: a file, or standard input."""

    def read(self, size: int, /) -> bytes: ...


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the home folder. ``name``: its path there; ``sha256``: hexadecimal."""

    name: str
    size: int
    sha256: str


class LogHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log in the copy of the ledger. ``size``: leaves; ``root``: hexadecimal;
    ``checkpoint``: the newest one in it, a signed note."""

    origin: str
    size: int
    root: str
    checkpoint: str | None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a backup. ``created_at``: RFC 3339; all that was acknowledged before is in it."""

    format: str
    product: str
    created_at: str
    with_keys: bool
    log: LogHead
    members: list[Member]


class _Format(msgspec.Struct):
    format: str


def allowed(name: str) -> bool:
    """Whether a file of the home folder may be called so in a backup."""
    parts = name.split("/")
    return (
        parts[0] not in NOT_KEPT
        and len(parts) <= _DEPTH
        and all(_PART.fullmatch(part) for part in parts)
        # SQLite would play a journal back into the ledger.
        and not name.endswith(_OF_SQLITE)
        and _split(name) is not None
    )


def seconds(manifest: Manifest) -> int:
    """When it was made, since 1970. Errors: ``ValueError``, ``OverflowError``."""
    return int(datetime.strptime(manifest.created_at, TIME).replace(tzinfo=UTC).timestamp())


def encode_manifest(manifest: Manifest) -> bytes:
    """JSON, with lines that people can read."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def parse_manifest(octets: bytes) -> Manifest:
    """Read and judge a manifest. Errors: ``backup-foreign``, ``backup-too-new``."""
    try:
        version = msgspec.json.decode(octets, type=_Format).format
        if version != FORMAT and version.startswith("digitalid-backup/"):
            raise Rejected(
                "backup-too-new", "a newer version of DigitalID made this backup; use that one"
            )
        manifest = msgspec.json.decode(octets, type=Manifest)
        in_range = 0 <= seconds(manifest) < 1 << 33
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise _foreign("its manifest cannot be read") from error
    if manifest.format != FORMAT or not in_range:
        raise _foreign("its manifest has another format, or no time")
    head = manifest.log
    if head.size < 0 or not _DIGEST.fullmatch(head.root) or len(head.origin) > 253:
        raise _foreign("its manifest names no log")
    _judge(manifest.members)
    return manifest


def _judge(members: list[Member]) -> None:
    names = {member.name for member in members}
    if len(members) > MAX_MEMBERS or len(names) != len(members) or LEDGER not in names:
        raise _foreign("it names no ledger, a file twice, or too many")
    for member in members:
        if not allowed(member.name):
            raise _foreign(f"{member.name[:200]!r} is no name of a file in a backup")
        if not 0 <= member.size <= MAX_SIZE or not _DIGEST.fullmatch(member.sha256):
            raise _foreign(f"{member.name}: size or SHA-256 is out of range")
        parts = member.name.split("/")
        if any("/".join(parts[:depth]) in names for depth in range(1, len(parts))):
            raise _foreign(f"{member.name} lies in a folder that is also a file")


def header(name: str, size: int, at: int) -> bytes:
    """The header of a regular file of mode 0600 (POSIX.1-2017, pax, ustar interchange format).
    ``at``: seconds since 1970."""
    found = _split(name)
    if found is None:
        raise ValueError(name)
    prefix, rest = found
    # Beyond 8 GiB in the base-256 form that GNU tar began with and everybody reads.
    octal = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    before = rest.ljust(100, b"\0") + b"0000600\0" + b"0000000\0" * 2 + octal + b"%011o\0" % at
    after = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
    after += prefix.ljust(155, b"\0") + bytes(12)
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return before + b"%06o\0 " % checksum + after


def padding(size: int) -> int:
    """Zeros after so many octets."""
    return -size % BLOCK


def file_size(manifest: Manifest) -> int:
    """Octets of the whole file."""
    sizes = [len(encode_manifest(manifest)), *(member.size for member in manifest.members)]
    return sum(BLOCK + size + padding(size) for size in sizes) + len(END)


def _split(name: str) -> tuple[bytes, bytes] | None:
    """The fields prefix and name of a header; None if it fits into none."""
    octets = name.encode()
    if len(octets) <= 100:
        return b"", octets
    at = octets.find(b"/", len(octets) - 101)
    return (octets[:at], octets[at + 1 :]) if 0 < at <= 155 else None


class BackupReader:
    """Reads a backup from its beginning to its end, once, and believes nothing in it.

    Errors: ``Rejected`` with ``backup-foreign`` (none of ours), ``backup-too-new``,
    ``backup-truncated``, ``backup-altered``; the last two name the first member that is bad.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._whole = sha256()
        self.manifest = self._read_manifest()

    @property
    def sha256(self) -> str:
        """Of the whole file, once ``members`` is at its end."""
        return self._whole.hexdigest()

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Each member with its octets in chunks. Its SHA-256 is compared after the last of them,
        and the chunks that the caller leaves are read, too."""
        at = seconds(self.manifest)
        for member in self.manifest.members:
            if self._take(BLOCK, member.name) != header(member.name, member.size, at):
                raise _altered(member.name, "its header is not the one that the manifest allows")
            octets = self._octets(member)
            yield member, octets
            for _ in octets:
                pass
        if self._take(len(END), "the end") != END or self._read(1):
            raise _altered("the end", "something follows the last member")

    def _octets(self, member: Member) -> Iterator[bytes]:
        left, digest = member.size, sha256()
        while left:
            octets = self._take(min(left, CHUNK), member.name)
            digest.update(octets)
            left -= len(octets)
            yield octets
        if digest.hexdigest() != member.sha256:
            raise _altered(member.name, "its SHA-256 is not the one in the manifest")
        if any(self._take(padding(member.size), member.name)):
            raise _altered(member.name, "something follows it")

    def _read_manifest(self) -> Manifest:
        found = self._read(BLOCK)
        name, size = found[:100].rstrip(b"\0"), found[124:135]
        if name != MANIFEST.encode() or not re.fullmatch(rb"[0-7]{11}", size):
            raise _foreign("it does not begin with a manifest")
        length = int(size, 8)
        if length > MAX_MANIFEST:
            raise _foreign(f"its manifest has more than {MAX_MANIFEST} octets")
        manifest = parse_manifest(self._take(length, MANIFEST))
        if any(self._take(padding(length), MANIFEST)):
            raise _altered(MANIFEST, "something follows it")
        if found != header(MANIFEST, length, seconds(manifest)):
            raise _altered(MANIFEST, "its header is not as it was written")
        return manifest

    def _take(self, size: int, what: str) -> bytes:
        octets = self._read(size)
        if len(octets) < size:
            raise Rejected("backup-truncated", f"the file ends within {what}; get all of it")
        return octets

    def _read(self, size: int) -> bytes:
        octets = bytearray()
        # A pipe gives what it has.
        while len(octets) < size and (more := self._source.read(min(size - len(octets), CHUNK))):
            octets += more
        self._whole.update(octets)
        return bytes(octets)


def _altered(name: str, why: str) -> Rejected:
    return Rejected("backup-altered", f"{name}: {why}; use another copy of this backup")


def _foreign(why: str) -> Rejected:
    return Rejected(
        "backup-foreign",
        f"this is no backup of DigitalID: {why}; one that is encrypted is decrypted first, into "
        "a pipe",
    )
