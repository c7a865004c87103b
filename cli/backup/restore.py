"""A backup is checked, and put into an empty home folder, whole or not at all.

Everything is unpacked below ``infra.state.RESTORING`` first. While that is there no instance
starts, so nobody sees a part; and whoever restores again removes what is left of it. A folder that
holds what the backup holds, and nothing else, is restored already: a run that was cut off at its
very end is repeated like any other.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from cli.backup.file import LEDGER, BackupReader, LogHead, Manifest, allowed, file_size
from cli.backup.ledger import head_of
from cli.backup.same import have_names_of, have_octets_of, in_the_way
from cli.files import STANDARD
from conf.load import BadSetting, load
from infra.errors import Failure, Rejected, Unavailable
from infra.state import RESTORING, owned, sync_folder, unusable
from infra.store.sqlite import SqliteStore
from pki.hierarchy import SERVICE_KEYS, public_log_key
from pki.ledger_audit import verify_ledger
from pki.log.checkpoint import verifier_key
from pki.log.log import COLLECTIONS
from pki.record import CERTIFICATES

Progress: TypeAlias = Callable[[int, int], None]

_MOVING: Final = ".moving"
"""In ``RESTORING`` once all is unpacked: the names that go from there into the home folder."""


@dataclass(frozen=True, slots=True)
class Restored:
    """``sha256``: of the whole file; ``beside``: what is still to be done by hand; ``already``:
    an earlier run has done it, and this one changed nothing."""

    manifest: Manifest
    sha256: str
    beside: tuple[str, ...]
    already: bool


async def check(file: Path, *, expected: str | None, progress: Progress) -> tuple[Manifest, str]:
    """Read a backup to its end, replay its log, and return its manifest and SHA-256.

    ``expected``: the SHA-256 that it must have. Errors: those of ``BackupReader``;
    ``backup-altered`` also when the log is not the one that the manifest names;
    ``storage-too-new``, ``storage-full`` (the ledger is copied into the temporary folder),
    ``cannot-read``.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="digitalid-backup-") as folder, _opened(file) as f:
            ledger = Path(folder, LEDGER)
            reader = BackupReader(f)
            total, done = file_size(reader.manifest), 0
            for member, octets in reader.members():
                with _new_file(ledger) if member.name == LEDGER else nullcontext() as out:
                    for chunk in octets:
                        if out is not None:
                            out.write(chunk)
                        done += len(chunk)
                        progress(done, total)
                        await asyncio.sleep(0)
            _compare(reader, expected)
            with _of_the_ledger():
                await _replay(ledger, reader.manifest.log, progress)
            return reader.manifest, reader.sha256
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Unavailable(
                "storage-full",
                f"no room for the ledger in {tempfile.gettempdir()}; TMPDIR names another folder",
            ) from error
        raise unusable(Path(tempfile.gettempdir()), error) from error


async def _replay(ledger: Path, head: LogHead, progress: Progress) -> None:
    known = (*COLLECTIONS, SERVICE_KEYS, CERTIFICATES)
    store = await SqliteStore.open_copy(ledger, known, check=True)
    try:
        keys = []
        if head.size:
            keys.append(verifier_key(head.origin, await public_log_key(store)))
        trusted = [] if head.checkpoint is None else [head.checkpoint.encode()]
        report = await verify_ledger(
            store, origin=head.origin, keys=keys, trusted=trusted, progress=progress
        )
    finally:
        await store.close()
    if not report.ok:
        found = report.findings[0]
        raise Rejected(found.code, found.detail)
    if (report.size, report.root.hex()) != (head.size, head.root):
        raise Rejected("log-differs", "its log is not the one that the manifest names")


async def restore(
    file: Path,
    home: Path,
    *,
    flags: Mapping[str, object],
    expected: str | None,
    progress: Progress,
) -> Restored:
    """Put a backup into ``home``, which is empty or not there, or where it is already.

    ``flags``: settings from the command line. Errors: those of ``check``; ``home-not-empty``,
    ``state-locked``, ``storage-…``, ``state-unusable``.
    """
    with _opened(file) as source:
        reader = BackupReader(source)
        new = not home.exists()
        try:
            with owned(home, restoring=True):
                _clear(home)
                already = bool(in_the_way(home))
                if already:
                    beside = await _require_same(reader, home, flags, expected, progress)
                else:
                    _check_room(home, file_size(reader.manifest))
                    try:
                        beside = await _unpack(reader, home, flags, expected, progress)
                    except BaseException:
                        # Not what was unpacked is in the way of the next try, but its leftovers.
                        shutil.rmtree(home / RESTORING, ignore_errors=True)
                        raise
                    _move(home)
        except BaseException:
            if new:
                _remove_if_empty(home)
            raise
    return Restored(reader.manifest, reader.sha256, beside, already)


async def _unpack(
    reader: BackupReader,
    home: Path,
    flags: Mapping[str, object],
    expected: str | None,
    progress: Progress,
) -> tuple[str, ...]:
    folder, owner = home / RESTORING, home.stat()
    chown = os.geteuid() == 0
    total, done = file_size(reader.manifest), 0

    def make_folder(path: Path) -> None:
        path.mkdir(mode=0o700)
        if chown:
            os.chown(path, owner.st_uid, owner.st_gid)

    try:
        make_folder(folder)
        if chown:
            os.chown(home / "lock", owner.st_uid, owner.st_gid)
        made = {folder}
        for member, octets in reader.members():
            path = folder / member.name
            for above in reversed(path.relative_to(folder).parents):
                if folder / above not in made:
                    make_folder(folder / above)
                    made.add(folder / above)
            with _new_file(path) as out:
                if chown:
                    os.fchown(out.fileno(), owner.st_uid, owner.st_gid)
                for chunk in octets:
                    out.write(chunk)
                    done += len(chunk)
                    progress(done, total)
                    await asyncio.sleep(0)
                out.flush()
                os.fsync(out.fileno())
        _compare(reader, expected)
        with _of_the_ledger():
            if await head_of(folder / LEDGER, reader.manifest.log.origin) != reader.manifest.log:
                raise Rejected("log-differs", "its log is not the one that the manifest names")
        name, beside = _place_of_ledger(folder, home, flags, reader.manifest)
        if name != LEDGER:
            for above in reversed(Path(name).parents):
                if not (folder / above).exists():
                    make_folder(folder / above)
            (folder / LEDGER).rename(folder / name)
            sync_folder((folder / name).parent)
        with _new_file(folder / _MOVING) as out:
            out.write("".join(f"{name.name}\n" for name in sorted(folder.iterdir())).encode())
            out.flush()
            os.fsync(out.fileno())
        for one in sorted(made, reverse=True):
            sync_folder(one)
    except OSError as error:
        raise _unusable(home, error) from error
    return beside


def _place_of_ledger(
    folder: Path, home: Path, flags: Mapping[str, object], manifest: Manifest
) -> tuple[str, tuple[str, ...]]:
    """Where the settings that were restored into ``folder`` look for the ledger, if a backup may
    put it there; and what is left to say."""
    try:
        path = load(folder, os.environ, flags).settings.store.path
    except BadSetting as error:
        said = str(error).replace(str(folder), str(home))
        return LEDGER, (f"correct the settings: {said}",)
    inside = folder if path.is_relative_to(folder) else home
    name = os.path.relpath(os.path.normpath(path), inside)
    if name == LEDGER:
        return LEDGER, ()
    taken = any(f"{one.name}/".startswith(f"{name}/") for one in manifest.members)
    if name.startswith("..") or not allowed(name) or taken:
        return LEDGER, (f"move {home / LEDGER} to {path}, where store.path says it is",)
    return name, ()


def _move(home: Path) -> None:
    """From here on only names change. Cut off, it leaves ``RESTORING`` there."""
    folder = home / RESTORING
    try:
        for name in _moving(folder):
            (folder / name).rename(home / name)
        with suppress(PermissionError):
            home.chmod(0o700)
        sync_folder(home)
        (folder / _MOVING).unlink()
        folder.rmdir()
        sync_folder(home)
    except OSError as error:
        raise _unusable(home, error) from error


def _moving(folder: Path) -> list[str]:
    try:
        names = (folder / _MOVING).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [name for name in names if "/" not in name and not name.startswith(".")]


def _clear(home: Path) -> None:
    """Remove what a restore left that was cut off: only what it has put there."""
    folder = home / RESTORING
    if not folder.exists():
        return
    try:
        for name in _moving(folder):
            if not os.path.lexists(folder / name):
                if (home / name).is_dir():
                    shutil.rmtree(home / name)
                else:
                    (home / name).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        raise _unusable(home, error) from error


async def _require_same(
    reader: BackupReader,
    home: Path,
    flags: Mapping[str, object],
    expected: str | None,
    progress: Progress,
) -> tuple[str, ...]:
    """Refuse a folder that holds anything but this backup; what is left to say of it."""
    ledger, beside = _place_of_ledger(home, home, flags, reader.manifest)
    members = {one.name: one for one in reader.manifest.members}
    members[ledger] = members.pop(LEDGER)
    try:
        # Before so much is read: names and sizes.
        same = have_names_of(home, members)
        total, done = file_size(reader.manifest), 0
        for _, octets in reader.members() if same else ():
            for chunk in octets:
                done += len(chunk)
                progress(done, total)
                await asyncio.sleep(0)
        if same:
            _compare(reader, expected)
            same = await asyncio.to_thread(have_octets_of, home, members)
        there = in_the_way(home)
        if not same:
            raise Rejected(
                "home-not-empty",
                f"{home} holds {there[0]}{' and more' if there[1:] else ''}, and is not this "
                "backup; restore into a new or empty folder: digitalid --home DIR backup restore "
                "FILE",
            )
        sync_folder(home)
    except OSError as error:
        raise _unusable(home, error) from error
    return beside


def _check_room(home: Path, needed: int) -> None:
    room = os.statvfs(home)
    free = room.f_bavail * room.f_frsize
    if free < needed:
        raise Unavailable(
            "storage-full",
            f"the backup takes {(needed >> 20) + 1} MiB, and {home} has {free >> 20}; make room "
            "and try again",
        )


def _remove_if_empty(home: Path) -> None:
    with suppress(OSError):
        if {entry.name for entry in home.iterdir()} <= {"lock"}:
            (home / "lock").unlink(missing_ok=True)
            home.rmdir()


def _compare(reader: BackupReader, expected: str | None) -> None:
    if expected is not None and not hmac.compare_digest(reader.sha256, expected.lower()):
        raise Rejected(
            "backup-altered",
            f"the whole file: its SHA-256 is {reader.sha256}, not the one that was given",
        )


@contextmanager
def _of_the_ledger() -> Iterator[None]:
    """What is wrong with the copy of the ledger is wrong with the backup."""
    try:
        yield
    except (Unavailable, OSError):
        raise
    except Exception as error:  # somebody may have written anything into its documents
        if isinstance(error, Rejected) and error.code == "storage-too-new":
            raise
        why = str(error) if isinstance(error, Failure) else "a document in it makes no sense"
        raise Rejected(
            "backup-altered", f"{LEDGER}: {why}; use another copy of this backup"
        ) from error


@contextmanager
def _opened(file: Path) -> Iterator[_Readable]:
    if file == STANDARD:
        yield _Readable(sys.stdin.buffer, file)
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise _cannot_read(file, error) from error
    with stream:
        yield _Readable(stream, file)


class _Readable:
    """A stream whose errors are ours, for ``BackupReader``."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise _cannot_read(self._path, error) from error


def _new_file(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _unusable(path: Path, error: OSError) -> Rejected | Unavailable:
    if error.errno == errno.EFBIG:
        return Unavailable("storage-full", f"{path}: {error.strerror}")
    return unusable(path, error)


def _cannot_read(path: Path, error: OSError) -> Rejected:
    return Rejected("cannot-read", f"{path}: {error.strerror}")
