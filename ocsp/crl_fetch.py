"""Where a CRL comes from: a web server or a file; it is brought to the disk, in DER."""

from __future__ import annotations

import asyncio
import binascii
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final, ParamSpec, TypeVar

import aiohttp

from infra.errors import Rejected, Unavailable
from infra.state import unusable
from ocsp.crl_reading import MAX_CRL

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK: Final = 1 << 16
_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_END: Final = b"-----END X509 CRL-----"
_REDIRECTS: Final = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server (its ETag) or a file (time, size, inode) said of itself last."""

    tag: str = ""
    file: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may take, in seconds: to connect, to go on, for the whole of it."""

    connect: float = 5.0
    read: float = 20.0
    total: float = 600.0


async def bring(where: str, to: Path, seen: Seen, patience: Patience) -> Seen | None:
    """Write the CRL that is at ``where``, an http or https URL or a path, to ``to`` in DER; None
    when it is what was ``seen``. Nothing but its size and its PEM is checked.

    Errors: ``crl-unreachable``, ``crl-too-large``, ``bad-crl``, those of the state folder.
    """
    if where.startswith(("http://", "https://")):
        now = await _from_server(where, to, seen, patience)
    else:
        now = await in_thread(_from_file, Path(where), to, seen)
    if now is not None:
        await in_thread(_unarmour, to)
    return now


async def _from_server(url: str, to: Path, seen: Seen, patience: Patience) -> Seen | None:
    headers = {"Accept-Encoding": "identity"}
    if seen.tag:
        headers["If-None-Match"] = seen.tag
    timeout = aiohttp.ClientTimeout(
        total=patience.total, sock_connect=patience.connect, sock_read=patience.read
    )
    async with (
        _reached(url),
        aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session,
        session.get(url, headers=headers, max_redirects=_REDIRECTS) as response,
    ):
        if response.status == 304 and seen.tag:
            return None
        if response.status != 200:
            raise Unavailable("crl-unreachable", f"{url} answers {response.status}")
        size = 0
        with _new(to) as file:
            async for chunk in response.content.iter_chunked(_CHUNK):
                size += len(chunk)
                _require_size(size, url)
                with storage(to):  # what the connection fails with is no error of ours
                    file.write(chunk)
        return Seen(tag=response.headers.get("ETag", ""))


async def in_thread(work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call ``work`` in a thread, and see its end also when this is cancelled: nobody else touches
    what it works on before that."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **named))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _from_file(path: Path, to: Path, seen: Seen) -> Seen | None:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not hang.
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unavailable("crl-unreachable", f"{path}: {error.strerror}") from error
    with os.fdopen(source, "rb") as file, storage(to):
        about = os.fstat(source)
        if not stat.S_ISREG(about.st_mode):
            raise Rejected("crl-unreachable", f"{path} is no file")
        now = Seen(file=(about.st_mtime_ns, about.st_size, about.st_ino))
        if now == seen:
            return None
        size = 0
        with _new(to) as copy:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                _require_size(size, str(path))
                copy.write(chunk)
    return now


def _unarmour(path: Path) -> None:
    """Turn a file in PEM (RFC 7468 §6) into DER, line by line; one in DER stays."""
    draft = path.with_name(f"{path.name}.der")
    with storage(path), path.open("rb") as armoured:
        # DER of more than 127 octets has a second one that is no ASCII, text of any kind has not.
        if armoured.read(2)[1:] >= b"\x80":
            return
        armoured.seek(0)
        with _new(draft) as file:
            for octets in _decoded(armoured):
                file.write(octets)
        draft.replace(path)


def _decoded(armoured: BinaryIO) -> Iterator[bytes]:
    """The content of the first block; text in front of it is for people, as openssl writes it."""
    inside = False
    while line := armoured.readline(1024):
        text = line.strip()
        if text == _BEGIN:
            inside = True
        elif text == _END and inside:
            return
        elif inside:
            try:
                yield binascii.a2b_base64(text, strict_mode=True)  # whole groups of four (§2)
            except binascii.Error as error:
                raise Rejected("bad-crl", "the CRL cannot be read: bad base64 in PEM") from error
    raise Rejected("bad-crl", "the CRL cannot be read: neither DER nor PEM of an X509 CRL")


def _require_size(size: int, where: str) -> None:
    if size > MAX_CRL:
        raise Rejected("crl-too-large", f"{where}: a CRL takes at most {MAX_CRL} octets")


@contextmanager
def _new(path: Path) -> Iterator[FileIO]:
    """A file that is written anew, on the disk when the block ends."""
    with storage(path):
        file = path.open("wb", buffering=0)
    with file:
        yield file
        with storage(path):
            os.fsync(file.fileno())


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Errors of the file system as those of the state folder."""
    try:
        yield
    except OSError as error:
        raise unusable(path, error) from error


@asynccontextmanager
async def _reached(where: str) -> AsyncIterator[None]:
    """aiohttp's failures as ours."""
    try:
        yield
    except aiohttp.InvalidURL as error:
        raise Rejected("crl-unreachable", f"{where} is no URL") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        why = str(error) or "no answer in time"
        raise Unavailable("crl-unreachable", f"{where}: {why}") from error
