"""A backup is made: the ledger's copy first, then what it names, then one file, whole or not."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from cli.backup.contents import read_settled
from cli.backup.file import (
    CHUNK,
    END,
    FORMAT,
    LEDGER,
    MANIFEST,
    BackupReader,
    Manifest,
    Member,
    encode_manifest,
    file_size,
    header,
    padding,
    seconds,
)
from cli.backup.ledger import Copy, check_ledger, head_of, staging, take_copy
from cli.files import STANDARD, check_free
from conf.load import FILE_NAME
from conf.schema import Settings
from infra.errors import Failure, Rejected, Unavailable
from infra.state import sync_folder, unusable

Progress: TypeAlias = Callable[[int, int], None]
_Sources: TypeAlias = Mapping[str, bytes | Path]

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Made:
    """``size``, ``sha256``: of the whole file; ``left_out``: see ``Contents``."""

    manifest: Manifest
    size: int
    sha256: str
    left_out: tuple[str, ...]


async def create(settings: Settings, out: Path, *, with_keys: bool, progress: Progress) -> Made:
    """Write a backup of this home folder to the new file ``out``, or to standard output for ``-``.

    Keys are read after the ledger, so every key that the ledger names is there: none is ever
    removed. Errors: ``file-exists``, ``cannot-write``, ``storage-…``, ``backup-busy``,
    ``backup-too-large``, ``no-such-state``, those of ``take_copy``.
    """
    _check_free(out)
    check_ledger(settings)
    with staging(settings.home) as folder:
        copy = await take_copy(settings, folder, progress)
        try:
            contents, small = await asyncio.to_thread(read_settled, settings, with_keys=with_keys)
            sources: dict[str, bytes | Path] = {**small, LEDGER: folder / LEDGER}
            sources |= _linked(settings.home, contents.crls, folder)
            manifest = await _manifest(copy, sources, with_keys=with_keys, folder=folder)
        except OSError as error:
            raise unusable(settings.home, error) from error
        whole = sha256()
        with _opened(out) as file:
            async for octets in _octets(manifest, sources, progress):
                whole.update(octets)
                with _writing(out):
                    file.write(octets)
            with _writing(out):
                file.flush()
    return Made(manifest, file_size(manifest), whole.hexdigest(), contents.left_out)


def _linked(home: Path, crls: tuple[str, ...], folder: Path) -> dict[str, Path]:
    """CRLs under names that stay when the instance removes them; their octets never change."""
    found: dict[str, Path] = {}
    for number, name in enumerate(crls):
        kept = folder / f"{number}.crl"
        try:
            os.link(home / name, kept, follow_symlinks=False)
        except FileNotFoundError:
            continue  # it is not kept any more
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            with suppress(FileNotFoundError):
                shutil.copyfile(home / name, kept, follow_symlinks=False)
        if stat.S_ISREG(kept.lstat().st_mode):
            found[name] = kept
    return found


async def _manifest(copy: Copy, sources: _Sources, *, with_keys: bool, folder: Path) -> Manifest:
    first = [name for name in (FILE_NAME, LEDGER) if name in sources]
    members = []
    for name in [*first, *sorted(sources.keys() - set(first))]:
        content = sources[name]
        if isinstance(content, bytes):
            members.append(Member(name, len(content), sha256(content).hexdigest()))
        else:
            size, digest = await asyncio.to_thread(_digest, content)
            members.append(Member(name, size, digest))
    head = await head_of(folder / LEDGER, copy.origin)
    return Manifest(FORMAT, version("digitalid"), copy.at, with_keys, head, members)


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, file_digest(file, "sha256").hexdigest()


async def _octets(
    manifest: Manifest, sources: _Sources, progress: Progress
) -> AsyncIterator[bytes]:
    """The whole file. Others have their turn after each chunk, and Ctrl-C too."""
    at, total, done = seconds(manifest), file_size(manifest), 0
    encoded = encode_manifest(manifest)
    yield header(MANIFEST, len(encoded), at) + encoded + bytes(padding(len(encoded)))
    for member in manifest.members:
        yield header(member.name, member.size, at)
        for octets in _content(sources[member.name]):
            yield octets
            done += len(octets)
            progress(done, total)
            await asyncio.sleep(0)
        yield bytes(padding(member.size))
    yield END


def _content(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with source.open("rb") as file:
            while octets := file.read(CHUNK):
                yield octets
    except OSError as error:
        raise unusable(source, error) from error


@contextmanager
def _opened(out: Path) -> Iterator[BinaryIO]:
    """Where the file is written: it has its name once the block is done and it was read again."""
    if out == STANDARD:
        if sys.stdout.isatty():
            raise Rejected("cannot-write", "a backup is not shown on a terminal; name a file")
        yield sys.stdout.buffer
        return
    part = out.with_name(f"{out.name}.part")
    try:
        with _writing(out):
            part.unlink(missing_ok=True)
            file = os.fdopen(
                os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b"
            )
        with _writing(out), file:  # what could not be written fails once more at the end
            yield file
            with _writing(out):
                os.fsync(file.fileno())
                file.seek(0)
                _read_again(file, out)
        with _writing(out):
            _name(part, out)
            sync_folder(out.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _read_again(file: BinaryIO, out: Path) -> None:
    try:
        for _ in BackupReader(file).members():
            pass
    except Rejected as bad:
        raise Unavailable(
            "storage-unavailable", f"{out} does not hold what was written there: {bad.detail}"
        ) from bad


def _name(part: Path, out: Path) -> None:
    try:
        # Unlike a rename, a link fails when the name is taken meanwhile.
        os.link(part, out)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _check_free(out)
        part.rename(out)


def _check_free(out: Path) -> None:
    """Refuse early what would be refused at the end."""
    if out != STANDARD and os.path.lexists(out):
        raise _exists(out)
    check_free(out, force=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(out, error) from error


def _cannot_write(out: Path, error: OSError) -> Failure:
    if error.errno in _NO_ROOM:
        return Unavailable("storage-full", f"{out}: {error.strerror}; make room and try again")
    if isinstance(error, FileExistsError):
        return _exists(out)
    return Rejected("cannot-write", f"{out}: {error.strerror}")


def _exists(out: Path) -> Rejected:
    return Rejected("file-exists", f"{out} is there already; name another file")
