"""The ledger's copy for a backup: made by the running instance in a thread, or by the command."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from cli.backup.file import LEDGER, TIME, LogHead
from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.state import unusable
from infra.store.sqlite import SqliteStore, copy_database
from pki.api import BASE
from pki.log.log import COLLECTIONS, Log

if TYPE_CHECKING:
    from cli.service.parts import Instance
    from conf.schema import Settings

ROUTE: Final = "/backup"
STAGING: Final = Path("run", "backup")
"""What a backup is made of, while it is made: links to CRLs, and the ledger's copy."""

PLACE: Final = Path("run", "ledger.copy")
"""Where the running instance puts a copy, for the command to take."""

Progress = Callable[[int, int], None]

_EVERY: Final = 0.25  # seconds
_PATIENCE: Final = 30.0  # for another command on the same state


@dataclass(frozen=True, slots=True)
class Copy:
    """``at``: when it was begun, RFC 3339; ``origin``: of the log in it."""

    at: str
    origin: str


class LedgerCopies:
    """Copies of a running instance's ledger, one at a time."""

    def __init__(self, store: SqliteStore, path: Path, home: Path, origin: str) -> None:
        self._store = store
        self._path = path
        self._target = home / PLACE
        self._origin = origin
        self._busy = False

    async def make(self, progress: Progress) -> Copy:
        """A copy at ``PLACE``. Errors: ``backup-busy``, ``storage-full``, those of the store."""
        if self._busy:
            raise _busy()
        self._busy = True
        try:
            return await copied(
                self._path, self._target, self._origin, self._store.backup, progress
            )
        except BaseException:
            self._target.unlink(missing_ok=True)
            raise
        finally:
            self._busy = False


def backup_routes(instance: Instance) -> list[web.RouteDef]:
    """``POST /backup``: lines of JSON: ``{"done", "total"}`` (octets) from time to time, then
    ``{"copy"}``, or ``{"code", "detail", "kind"}`` when there is none."""

    async def backup(request: web.Request) -> web.StreamResponse:
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def progress(done: int, total: int) -> None:
            lines.put_nowait({"done": done, "total": total})

        task = asyncio.create_task(instance.ledger_copies.make(progress))
        task.add_done_callback(lambda _: lines.put_nowait(None))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            await response.prepare(request)
            while (line := await lines.get()) is not None:
                await response.write(msgspec.json.encode(line) + b"\n")
            try:
                last: dict[str, Any] = {"copy": asdict(await task)}
            except Failure as failure:
                # The answer has begun: the status of HTTP cannot say it any more.
                kind = type(failure).__name__
                last = {"code": failure.code, "detail": failure.detail, "kind": kind}
            await response.write(msgspec.json.encode(last) + b"\n")
        finally:
            task.cancel()
        await response.write_eof()
        return response

    return [web.post(f"{BASE}{ROUTE}", backup)]


def check_ledger(settings: Settings) -> None:
    """Refuse a home folder that is no CA's. Errors: ``no-such-state``."""
    if not settings.store.path.is_file():
        raise Rejected(
            "no-such-state",
            f"there is no ledger at {settings.store.path}; the folder of a validation authority or "
            "of an offline CA is copied as it is, while nothing runs in it",
        )


async def take_copy(settings: Settings, staging: Path, progress: Progress) -> Copy:
    """Put a copy of the ledger into ``staging``: the running instance's, or, when none runs, one
    made here.

    Errors: ``state-locked``, ``restore-unfinished``, ``backup-busy``,
    ``storage-…``; those of the admin socket.
    """
    from cli.instance import STATE_LOCKED, answers
    from infra.state import ADMIN_SOCKET, owned
    from infra.unix_socket import reachable

    source = settings.store.path
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        with reachable(settings.home / ADMIN_SOCKET) as address:
            if await asyncio.to_thread(answers, address):
                made = await _of_instance(address, progress)
                (settings.home / PLACE).rename(staging / LEDGER)
                return made
        try:
            with owned(settings.home, theirs=True):
                return await copied(
                    source,
                    staging / LEDGER,
                    settings.log.origin,
                    partial(copy_database, source),
                    progress,
                )
        except Unavailable as unavailable:
            late = asyncio.get_running_loop().time() > deadline
            if unavailable.code != STATE_LOCKED or late:
                raise
        await asyncio.sleep(0.1)


async def _of_instance(address: str, progress: Progress) -> Copy:
    from cli.client import ApiClient

    async with ApiClient(address) as client:
        async for line in client.lines(ROUTE):
            if "copy" in line:
                return Copy(str(line["copy"]["at"]), str(line["copy"]["origin"]))
            if "done" in line:
                progress(line["done"], line["total"])
                continue
            code, detail = str(line.get("code", "bad-reply")), str(line.get("detail", ""))
            match line.get("kind"):
                case "Rejected":
                    raise Rejected(code, detail)
                case "Unavailable":
                    raise Unavailable(code, detail)
                case _:
                    raise Broken(code, detail)
    raise Broken("bad-reply", "the instance stopped before there was a copy")


async def copied(
    source: Path,
    target: Path,
    origin: str,
    back_up: Callable[[Path], Awaitable[None]],
    progress: Progress,
) -> Copy:
    """Copy the ledger at ``source`` to ``target``. ``back_up``: does it; ``progress``: called with
    octets done and in all. Errors: ``storage-full``, those of the store."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    target.unlink(missing_ok=True)
    total = source.stat().st_size
    _check_room(target.parent, total)
    at = datetime.now(UTC)
    part = target.with_name(f"{target.name}.part")
    copying = asyncio.ensure_future(back_up(target))
    try:
        while not (await asyncio.wait([copying], timeout=_EVERY))[0]:
            with suppress(FileNotFoundError):
                progress(min(part.stat().st_size, total), total)
    finally:
        if not copying.done():
            copying.cancel()
            await asyncio.wait([copying])
    await copying
    return Copy(f"{at:{TIME}}", origin)


async def head_of(path: Path, origin: str) -> LogHead:
    """The head of the log in a copy of a ledger. Errors: those of opening store and log."""
    from infra.clock import SystemClock

    store = await SqliteStore.open_copy(path, COLLECTIONS)
    try:
        log = await Log.open(store, origin=origin, clock=SystemClock())
        note = await log.last_checkpoint()
        return LogHead(origin, log.size, log.root().hex(), note.decode() if note else None)
    finally:
        await store.close()


@contextmanager
def staging(home: Path) -> Iterator[Path]:
    """The folder ``STAGING``, empty, while the block runs, for one command at a time. Errors:
    ``backup-busy``, ``storage-…``."""
    folder = home / STAGING
    with _alone(folder.parent) as alone:
        if not alone:
            raise _busy()
        try:
            _clear(home)
            folder.mkdir(mode=0o700)
            owner = home.stat()
            if os.geteuid() == 0:
                os.chown(folder, owner.st_uid, owner.st_gid)  # who sweeps it if we are killed
        except OSError as error:
            raise unusable(folder, error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(home: Path) -> None:
    """Remove what a backup left that was killed, unless one is being made."""
    if (home / STAGING).parent.is_dir():
        with _alone((home / STAGING).parent) as alone:
            if alone:
                with suppress(OSError):
                    _clear(home)


def _clear(home: Path) -> None:
    if (home / STAGING).exists():
        shutil.rmtree(home / STAGING)
    for left in (home / PLACE).parent.glob(f"{PLACE.name}*"):
        left.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other backup of this home folder is being made, nor will be in the block."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        # The lock of a folder: a file made by root could not be opened by the instance's user.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(folder, error) from error
    try:
        alone = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def _check_room(folder: Path, size: int) -> None:
    """Refuse to fill the disk that the instance lives on."""
    room = os.statvfs(folder)
    free, needed = room.f_bavail * room.f_frsize, size + size // 10 + (1 << 20)
    if free < needed:
        raise Unavailable(
            "storage-full",
            f"a copy of the ledger takes {needed >> 20} MiB in {folder} for a while, and there are "
            f"{free >> 20} MiB; make room and try again",
        )


def _busy() -> Unavailable:
    return Unavailable("backup-busy", "another backup is being made; wait for it to end")
