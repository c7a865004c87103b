"""A finished CRL read back from disk by another program's reader, before anybody else sees it.

cryptography reads it: the entries a megabyte at a time, each inside the CRL's own fields and so a
CRL for it, so that memory stays bounded. Blocks that were read when they were new are only
compared with the hash that they had then. Our encoders and the order of copying are not asked.
"""

from __future__ import annotations

import hashlib
import mmap
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final, TypeAlias

from cryptography import x509

from crl.assembly import CHUNK
from crl.blocks import Block, Damaged, Key, digest, pread
from crl.encode import header
from crl.history import END_OF_TIME
from crl.scope import Contents, Scope
from infra.errors import Broken, Rejected
from pki import der
from pki.algorithms import SignatureAlgorithm, verify
from pki.issuer import Issuer
from pki.signer.digest import verify_digest

_FIELDS: Final = 1 << 16  # octets: the fields before the entries, and those after them
_FEW: Final = 8  # changes in a block from which on all of it is read at once

# What cryptography raises of a CRL that it cannot read.
_UNREADABLE: Final = (
    ValueError,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_Item: TypeAlias = tuple[Key, bytes | None]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a CRL must say: ``base`` for a delta; ``changes``: what of the ledger is new in it,
    entries as ledger and CRL write them, None where there must be none."""

    scope: Scope
    issuer: Issuer
    algorithm: SignatureAlgorithm
    number: int
    base: int | None
    this_update: datetime
    next_update: datetime
    count: int
    blocks: Sequence[tuple[Block, bool]]
    changes: Mapping[Key, bytes | None]

    @property
    def last_of_all(self) -> bool:
        """Whether no delta can start from it."""
        return self.base is not None or self.next_update == END_OF_TIME


@dataclass(frozen=True, slots=True)
class Checked:
    """``sha256`` of the whole file, and its ``size`` in octets."""

    sha256: bytes
    size: int


def check(path: Path, expected: Expected) -> Checked:
    """Read the CRL in ``path`` and compare it with what it is to say.

    ``Expected.blocks``: in order, each with whether nobody has read it yet. Errors:
    ``Broken("crl-check")``; ``Damaged`` when a block that was copied is not what it was.
    """
    with path.open("rb", buffering=0) as file:
        try:
            return _Reader(file, path.stat().st_size, expected).check()
        except (Rejected, *_UNREADABLE) as error:
            raise _wrong(f"it does not read back: {error}") from error


def sample(path: Path, expected: Expected, *, entries: int = 8) -> bytes:
    """The CRL in ``path`` with its first few entries only: enough to lint a long one.

    Errors: as ``check``.
    """
    with path.open("rb", buffering=0) as file:
        return _Reader(file, path.stat().st_size, expected).sample(entries)


class _Reader:
    def __init__(self, file: IO[bytes], size: int, expected: Expected) -> None:
        self._file = file
        self._size = size
        self._expected = expected
        start = pread(file, min(_FIELDS, size), 0)
        outer = der.Reader(start, 0, size)
        tag, inside, end = outer.header()
        if tag != der.SEQUENCE or end != size:
            raise _wrong("its length is not that of the file")
        outer.position = inside
        _, self._fields, self._tbs_end = outer.header()
        self._tbs = inside
        tbs = der.Reader(start, self._fields, self._tbs_end)
        for _ in range(5):  # version, signature, issuer, thisUpdate, nextUpdate
            tbs.header()
        self._before = start[self._fields : tbs.position]
        self._entries = self._entries_end = tbs.position
        if tbs.peek() == der.SEQUENCE:
            _, self._entries, self._entries_end = tbs.header()
        if self._tbs_end - self._entries_end > _FIELDS or size - self._tbs_end > _FIELDS:
            raise _wrong("its extensions or its signature are too large")
        self._after = pread(file, self._tbs_end - self._entries_end, self._entries_end)
        closing = der.Reader(pread(file, size - self._tbs_end, self._tbs_end))
        self._algorithm = closing.raw(der.SEQUENCE)
        self._signature, unused = closing.bit_string()
        closing.done()
        if unused:
            raise _wrong("its signature is ragged")

    def check(self) -> Checked:
        with ThreadPoolExecutor(1, "crl-check") as thread:
            hashing = thread.submit(self._hash)
            self._check_fields(self._crl(b""))
            self._check_entries()
            sha256, tbs_digest = hashing.result()
        self._check_signature(tbs_digest)
        return Checked(sha256, self._size)

    def sample(self, entries: int) -> bytes:
        size = min(_FIELDS, self._entries_end - self._entries)
        reader = der.Reader(pread(self._file, size, self._entries))
        for _ in range(entries):
            if not reader:
                break
            reader.header()
        return self._der(reader.data[: reader.position])

    def _hash(self) -> tuple[bytes, bytes]:
        """SHA-256 of the file, and the hash of the TBSCertList that its algorithm takes."""
        whole = hashlib.sha256()
        name = self._expected.algorithm.hash_name
        tbs = hashlib.new(name) if name else None
        for at in range(0, self._size, CHUNK):
            octets = pread(self._file, min(CHUNK, self._size - at), at)
            whole.update(octets)
            low, high = max(self._tbs - at, 0), min(self._tbs_end - at, len(octets))
            if tbs is not None and low < high:
                tbs.update(memoryview(octets)[low:high])
        return whole.digest(), tbs.digest() if tbs else b""

    def _crl(self, entries: bytes) -> x509.CertificateRevocationList:
        return x509.load_der_x509_crl(self._der(entries))

    def _der(self, entries: bytes) -> bytes:
        """These entries as a CRL with all other fields of the one that is checked."""
        listed = header(der.SEQUENCE, len(entries)) + entries if entries else b""
        tbs = der.sequence(self._before, listed, self._after)
        return der.sequence(tbs, self._algorithm, der.bit_string(self._signature))

    def _check_fields(self, read: x509.CertificateRevocationList) -> None:
        expected, scope = self._expected, self._expected.scope
        found = {extension.oid: extension for extension in read.extensions}
        number = read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        key = read.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        delta = found.get(x509.DeltaCRLIndicator.oid)
        point = found.get(x509.IssuingDistributionPoint.oid)
        freshest = found.get(x509.FreshestCRL.oid)
        wrong = [
            name
            for name, right in (
                ("issuer", read.issuer.public_bytes() == expected.issuer.subject),
                ("algorithm", self._algorithm == expected.algorithm.identifier),
                ("thisUpdate", read.last_update_utc == expected.this_update),
                ("nextUpdate", read.next_update_utc == expected.next_update),
                ("cRLNumber", number == expected.number),
                ("authorityKeyIdentifier", key.key_identifier == expected.issuer.key_identifier),
                ("deltaCRLIndicator", _base(delta) == expected.base),
                ("issuingDistributionPoint", _point(point) == _point_of(scope)),
                (
                    "authorityInfoAccess",
                    _location(found.get(x509.AuthorityInformationAccess.oid)) == scope.issuer_url,
                ),
                (
                    "freshestCRL",
                    _urls(freshest) == (None if expected.last_of_all else scope.delta_url),
                ),
            )
            if not right
        ]
        if wrong:
            raise _wrong(f"{', '.join(wrong)} are not what they should be")

    def _check_entries(self) -> None:
        expected = self._expected
        blocks = expected.blocks
        if sum(block.size for block, _ in blocks) != self._entries_end - self._entries:
            raise _wrong("its entries take another number of octets")
        touched, nowhere = _by_block([block for block, _ in blocks], expected.changes)
        if nowhere:
            raise _wrong(f"{len(nowhere)} entries are missing")
        count = number = 0
        offset = self._entries
        while number < len(blocks):
            end, size = number, 0
            while end < len(blocks) and (size == 0 or size + blocks[end][0].size <= CHUNK):
                size += blocks[end][0].size
                end += 1
            octets = memoryview(pread(self._file, size, offset))
            offset += size
            count += self._check_blocks(octets, number, end, touched)
            number = end
        if count != expected.count:
            raise _wrong(f"it has {count} entries instead of {expected.count}")

    def _check_blocks(
        self, octets: memoryview, begin: int, end: int, touched: Mapping[int, list[_Item]]
    ) -> int:
        """The blocks ``begin`` to ``end``, which are these octets; returns their entries."""
        unread: list[memoryview] = []
        unread_count = count = position = 0
        for number in range(begin, end):
            block, fresh = self._expected.blocks[number]
            inside = octets[position : position + block.size]
            position += block.size
            if digest(inside) != block.digest:
                if fresh:
                    raise _wrong("entries on disk are not those that were written")
                raise Damaged("a block that was copied is not what it was")
            count += block.count
            changes = touched.get(number)
            if changes is not None:
                self._check_changes(bytes(inside), block, changes)
            elif fresh:
                unread.append(inside)
                unread_count += block.count
        if unread and len(self._crl(b"".join(unread))) != unread_count:
            raise _wrong("entries read back are not as many as were written")
        return count

    def _check_changes(self, octets: bytes, block: Block, changes: Sequence[_Item]) -> None:
        """Each change is in the block, or no entry of the serial number is."""
        read = self._crl(octets)
        if len(read) != block.count:
            raise _wrong("entries read back are not as many as were written")
        listed = {one.serial_number: one for one in read} if len(changes) > _FEW else None
        for (_, serial), entry in changes:
            number = int.from_bytes(serial, "big")
            found = (
                read.get_revoked_certificate_by_serial_number(number)
                if listed is None
                else listed.get(number)
            )
            # The reader finds the entry; that it is the ledger's, octet for octet, says the rest.
            # The first of a block may also name its issuer.
            first = serial == block.first and self._expected.scope.indirect
            if (found is None) != (entry is None) or not (
                entry is None or first or entry in octets
            ):
                raise _wrong(f"it says something else of serial {number:x} than the ledger")
            if found is not None:
                _ = found.extensions  # read only when asked for, and refused then

    def _check_signature(self, tbs_digest: bytes) -> None:
        expected = self._expected
        algorithm, key = expected.algorithm, expected.issuer.public_key_info
        try:
            if algorithm.hash_name is not None:
                verify_digest(algorithm, key, self._signature, tbs_digest)
                return
            with message(self._file, self._tbs, self._tbs_end) as octets:
                verify(algorithm, key, self._signature, octets)
        except Rejected as error:
            raise _wrong("the key made a signature that does not verify") from error


class message:
    """Octets of a file as one message, for an algorithm that wants all of it; in memory only as
    far as the system keeps the file there."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._whole = memoryview(self._map)
        self._view = self._whole[start:end]

    def __enter__(self) -> bytes:
        return self._view  # type: ignore[return-value]  # cryptography takes any buffer

    def __exit__(self, *exc: object) -> None:
        self._view.release()
        self._whole.release()
        self._map.close()


def _by_block(
    blocks: Sequence[Block], changes: Mapping[Key, bytes | None]
) -> tuple[dict[int, list[_Item]], list[_Item]]:
    """Changes by the number of the block that they belong into, and entries that belong nowhere."""
    touched: dict[int, list[_Item]] = {}
    nowhere: list[_Item] = []
    firsts = [block.key for block in blocks]
    for key, entry in changes.items():
        number = bisect_right(firsts, key) - 1
        if number >= 0 and blocks[number].part == key[0]:
            touched.setdefault(number, []).append((key, entry))
        elif entry is not None:
            nowhere.append((key, entry))
    return touched, nowhere


def _base(found: x509.Extension[x509.ExtensionType] | None) -> int | None:
    match found:
        case x509.Extension(critical=True, value=x509.DeltaCRLIndicator(crl_number=number)):
            return int(number)
        case None:
            return None
        case _:
            return -1


def _point(
    found: x509.Extension[x509.ExtensionType] | None,
) -> tuple[str | None, Contents, bool] | None:
    if found is None:
        return None
    point = found.value
    if not found.critical or not isinstance(point, x509.IssuingDistributionPoint):
        raise _wrong("its issuing distribution point is not critical")
    contents = Contents.everybody
    if point.only_contains_user_certs:
        contents = Contents.users
    elif point.only_contains_ca_certs:
        contents = Contents.authorities
    url = None if point.full_name is None else str(point.full_name[0].value)
    return url, contents, point.indirect_crl


def _point_of(scope: Scope) -> tuple[str | None, Contents, bool] | None:
    if scope.url is None and scope.contents is Contents.everybody and not scope.indirect:
        return None
    return scope.url, scope.contents, scope.indirect


def _urls(found: x509.Extension[x509.ExtensionType] | None) -> str | None:
    if found is None:
        return None
    if found.critical or not isinstance(found.value, x509.FreshestCRL):
        raise _wrong("its freshest CRL is critical")
    [point] = found.value
    return None if point.full_name is None else str(point.full_name[0].value)


def _location(found: x509.Extension[x509.ExtensionType] | None) -> str | None:
    if found is None:
        return None
    if found.critical or not isinstance(found.value, x509.AuthorityInformationAccess):
        raise _wrong("its authority information access is critical")
    [access] = found.value
    return str(access.access_location.value)


def _wrong(why: str) -> Broken:
    return Broken("crl-check", f"a CRL was made that cannot be published: {why}")
