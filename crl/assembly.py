"""A CRL written to disk while it is hashed, then signed and closed: memory does not grow with it.

The file holds the CRL at every moment from its first octet on, but for the length of the whole,
which needs that of the signature; room is left for what it will be.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from crl.blocks import Plan, pread
from crl.encode import header
from pki import der
from pki.algorithms import Family, SignatureAlgorithm

CHUNK: Final = 1 << 20
"""Octets that are copied, hashed or read back at a time."""

_AHEAD: Final = 4  # chunks that may wait to be hashed
# A guess: an Ecdsa-Sig-Value is a few octets longer or shorter each time.
_ROOM: Final = {Family.EC: 72, Family.RSA: 384, Family.ED25519: 64, Family.ML_DSA: 3309}


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A CRL that waits for its signature.

    ``tbs_start``, ``tbs_size``: where its TBSCertList is; ``entries_start``: where, in the file,
    its first entry; ``sha256``: of the TBSCertList; ``digest``: its hash as the algorithm wants it,
    empty for one that wants the whole message.
    """

    path: Path
    tbs_start: int
    tbs_size: int
    entries_start: int
    sha256: bytes
    digest: bytes


class Hashing:
    """Hashes what it is fed on a thread of its own, so that reading and writing go on."""

    def __init__(self, *names: str) -> None:
        self._hashes = {name: hashlib.new(name) for name in names}
        self._thread = ThreadPoolExecutor(1, "crl-hash")
        self._waiting: deque[Future[None]] = deque()

    def feed(self, octets: bytes) -> None:
        """Hash these next."""
        if len(self._waiting) == _AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._update, octets))

    def finish(self) -> dict[str, bytes]:
        """The hashes by their names."""
        while self._waiting:
            self._waiting.popleft().result()
        return {name: found.digest() for name, found in self._hashes.items()}

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _update(self, octets: bytes) -> None:
        for found in self._hashes.values():
            found.update(octets)


def write_tbs(
    path: Path, head: bytes, plan: Plan, tail: bytes, algorithm: SignatureAlgorithm
) -> Unsigned:
    """Write a new file that lacks its signature.

    ``head``, ``tail``: what stands before and after the entries of the TBSCertList
    (``crl.encode.frame``). Errors: ``OSError``, ``Damaged``.
    """
    size = len(head) + plan.size + len(tail)
    start = len(_outer(size, algorithm, _ROOM[algorithm.family]))
    hashing = Hashing(*{"sha256", algorithm.hash_name or "sha256"})
    try:
        with path.open("xb", buffering=0) as file:
            file.seek(start)
            for octets in _chunks(head, plan.runs(), tail):
                file.write(octets)
                hashing.feed(octets)
        hashes = hashing.finish()
    finally:
        hashing.close()
    digest = hashes[algorithm.hash_name] if algorithm.hash_name else b""
    return Unsigned(path, start, size, start + len(head), hashes["sha256"], digest)


def _chunks(
    head: bytes, runs: Iterable[tuple[IO[bytes], int, int]], tail: bytes
) -> Iterator[bytes]:
    # Where blocks have changed all over the file, runs are short: they go on together.
    waiting, waiting_size = [head], len(head)
    for file, offset, size in runs:
        file.flush()
        for at in range(0, size, CHUNK):
            octets = pread(file, min(CHUNK, size - at), offset + at)
            waiting.append(octets)
            waiting_size += len(octets)
            if waiting_size >= CHUNK:
                yield b"".join(waiting)
                waiting, waiting_size = [], 0
    waiting.append(tail)
    yield b"".join(waiting)


def close_with(unsigned: Unsigned, algorithm: SignatureAlgorithm, signature: bytes) -> Unsigned:
    """Add the signature. What is returned says where all of it is now.

    Errors: ``OSError``.
    """
    outer = _outer(unsigned.tbs_size, algorithm, len(signature))
    shift = len(outer) - unsigned.tbs_start
    if shift:
        unsigned = _shifted(unsigned, shift)
    with unsigned.path.open("r+b", buffering=0) as file:
        file.write(outer)
        file.seek(unsigned.tbs_start + unsigned.tbs_size)
        file.write(algorithm.identifier + der.bit_string(signature))
        file.truncate()
    return unsigned


def sync(path: Path) -> None:
    """Make a file survive power loss. Errors: ``OSError``."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _outer(tbs_size: int, algorithm: SignatureAlgorithm, signature: int) -> bytes:
    """Identifier and length of the CertificateList; ``signature``: its octets."""
    bits = 1 + signature
    bit_string = len(header(der.BIT_STRING, bits)) + bits
    return header(der.SEQUENCE, tbs_size + len(algorithm.identifier) + bit_string)


def _shifted(unsigned: Unsigned, shift: int) -> Unsigned:
    """The same with its TBSCertList ``shift`` octets further on: the length of the whole takes one
    octet more or fewer than was thought, which happens near powers of 256 alone."""
    moved = unsigned.path.with_name(f"{unsigned.path.name}.moved")
    moved.unlink(missing_ok=True)
    with unsigned.path.open("rb") as source, moved.open("xb", buffering=0) as target:
        target.seek(unsigned.tbs_start + shift)
        for at in range(0, unsigned.tbs_size, CHUNK):
            size = min(CHUNK, unsigned.tbs_size - at)
            target.write(pread(source, size, unsigned.tbs_start + at))
    moved.rename(unsigned.path)
    return Unsigned(
        unsigned.path,
        unsigned.tbs_start + shift,
        unsigned.tbs_size,
        unsigned.entries_start + shift,
        unsigned.sha256,
        unsigned.digest,
    )
