"""Statuses from the CRL of any CA, kept current in a status table.

A CRL is fetched to the disk, checked there, and only then anything of it is written down: what it
revokes first, what has left it last, how long it holds at the very end. The CRL that the table
holds stays beside it (``crl.der``), so that a process that starts anew knows what to take back;
while one takes its place it is ``next.der``. In memory, an entry takes 24 octets at most.
"""

from __future__ import annotations

import asyncio
import logging
import os
from array import array
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final, Protocol

from infra.clock import Clock
from infra.errors import Broken, Failure, Rejected
from infra.state import sync_folder
from ocsp.crl_fetch import Patience, Seen, bring, in_thread, storage
from ocsp.crl_reading import CrlHead, Octets, check_signed, read_entries, read_head
from pki.issuer import Issuer
from pki.status import Good, Revoked

_AT_ONCE: Final = 200  # entries until others have their turn: some milliseconds

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where statuses are kept: a status table and its writer."""

    def issuer(self, name: str, /, *, complete: bool) -> object:
        """Make room for a CA; not ``complete``: what it does not know is good."""

    def put_many(self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]], /) -> object:
        """Keep the statuses of these serial numbers; once more does no harm."""

    def set_horizon(self, issuer: str, known_at: datetime, until: datetime | None, /) -> object:
        """See ``ocsp.source.Horizon``."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a CRL is fetched again, in seconds: at half of what is left of its time, at the latest
    after ``most`` and not before ``least``; after a failure, after ``first``, doubled up to
    ``longest``; ``patience``: with the server."""

    most: float = 3600.0
    least: float = 1.0
    first: float = 1.0
    longest: float = 300.0
    patience: Patience = field(default_factory=Patience)


class CrlSource:
    """Keeps the statuses of one CA as its CRL says.

    ``where``: URL (http, https) of the CRL, or the path of a file, in DER or PEM; ``folder``: where
    the CRL is kept, of this source alone. The CA is in the table under ``issuer.name``.
    """

    def __init__(
        self,
        issuer: Issuer,
        where: str,
        folder: Path,
        sink: Sink,
        clock: Clock,
        *,
        pace: Pace = Pace(),
    ) -> None:
        self._issuer = issuer
        self._where = where
        self._folder = folder
        self._sink = sink
        self._clock = clock
        self._pace = pace
        self._seen = Seen()
        self.current: CrlHead | None = None
        """The CRL that the table holds."""
        self.count = 0
        """Entries of it."""
        self.failing: Failure | None = None
        """Why there is no newer one, None while all is well."""

    def lag(self, now: datetime) -> float | None:
        """Seconds since the CRL's thisUpdate; None before the first."""
        return None if self.current is None else (now - self.current.this_update).total_seconds()

    async def run(self) -> None:
        """Keep the table current until cancelled; failures are logged and tried again."""
        tries = 0
        while True:
            try:
                if self.current is None:
                    await self._resume()
                await self.fetch()
                tries, self.failing = 0, None
                pause = self._pause()
            except Exception as error:  # whatever a CRL makes us trip over, the next may be better
                failure = error if isinstance(error, Failure) else _mistake(error)
                if self.failing is None or self.failing.code != failure.code:
                    trace = None if failure is error else error
                    _log.warning("CRL %s: %s", self._where, failure, exc_info=trace)
                self.failing = failure
                pause = min(self._pace.longest, self._pace.first * 2.0 ** min(tries, 30))
                tries += 1
            await asyncio.sleep(pause)

    async def fetch(self) -> bool:
        """Look for a newer CRL, and whether there was one.

        Errors: those of ``bring``, of ``read_head``, ``read_entries`` and
        ``check_signed``; ``crl-went-back``, ``crl-from-future``, ``crl-expired``; those of the
        state folder and of ``sink``.
        """
        if (self._folder / "next.der").exists():
            await self._adopt()  # some of it was written down when that was interrupted
        fetched = self._folder / ".fetched"
        seen = await bring(self._where, fetched, self._seen, self._pace.patience)
        if seen is None:
            if self.current is not None and self.current.next_update <= self._clock.now():
                raise _expired(self.current)
            return False
        with _mapped(fetched) as data:
            head = await self._checked(data)
            if self.current is not None and head.signature == self.current.signature:
                self._seen = seen
                return False
        with storage(self._folder):
            fetched.replace(self._folder / "next.der")
            sync_folder(self._folder)
        await self._adopt()
        self._seen = seen
        return True

    def _pause(self) -> float:
        assert self.current is not None  # noqa: S101 - something was fetched without a failure
        left = (self.current.next_update - self._clock.now()).total_seconds()
        return min(self._pace.most, max(self._pace.least, left / 2))

    async def _resume(self) -> None:
        """Write down what was kept; the table may be new."""
        with storage(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sink.issuer(self._issuer.name, complete=False)
        if (self._folder / "crl.der").exists() and not (self._folder / "next.der").exists():
            with _mapped(self._folder / "crl.der") as data:
                head = read_head(data)
                await self._write(data, head)
            self._stand(head)

    async def _checked(self, data: Octets) -> CrlHead:
        """What a CRL says that may take the place of the current one."""
        head = read_head(data)
        await in_thread(check_signed, data, head, self._issuer)
        now = self._clock.now()
        if head.this_update > now:
            raise Rejected(
                "crl-from-future",
                f"the CRL was made at {head.this_update:%FT%TZ}, later than it is here",
            )
        if head.next_update <= now:
            raise _expired(head)
        before = self.current
        if before is not None and (
            head.this_update < before.this_update
            or (before.number is not None and (head.number is None or head.number < before.number))
        ):
            raise Rejected(
                "crl-went-back",
                f"CRL {_named(head)} is older than {_named(before)}, which was here before",
            )
        async for _ in _in_turns(read_entries(data, head)):
            pass  # before anything is written: all of it can be read
        return head

    async def _adopt(self) -> None:
        """Let ``next.der``, which was checked, take the place of ``crl.der`` in the table."""
        upcoming, current = self._folder / "next.der", self._folder / "crl.der"
        with _mapped(upcoming) as data:
            head = read_head(data)
            listed = await self._write(data, head)
        if current.exists():
            with _mapped(current) as data:
                left = (
                    (serial, Good())
                    for serial, _ in read_entries(data, read_head(data))
                    if serial not in listed
                )
                async for some in _in_turns(left):
                    self._sink.put_many(self._issuer.name, some)
        with storage(self._folder):
            upcoming.replace(current)
            sync_folder(self._folder)
        self._stand(head)

    async def _write(self, data: Octets, head: CrlHead) -> _Serials:
        """Write down all that a CRL revokes; returns that."""
        # The least an entry takes: 2 octets of header, 3 of serial number, 15 of time.
        listed = _Serials((head.entries[1] - head.entries[0]) // 20)
        count = 0
        async for some in _in_turns(read_entries(data, head)):
            self._sink.put_many(self._issuer.name, some)
            count += len(some)
            for serial, _ in some:
                listed.add(serial)
        self.count = count
        return listed

    def _stand(self, head: CrlHead) -> None:
        self.current = head
        self._sink.set_horizon(self._issuer.name, head.this_update, head.next_update)
        _log.info(
            "CRL %s: %s with %d entries, until %s",
            self._where, _named(head), self.count, f"{head.next_update:%FT%TZ}",
        )  # fmt: skip


class _Serials:
    """At most ``count`` serial numbers, by hashes of 64 bits under this process's own key.

    Two that collide (once in 10^12 times, and nobody can look for them) are taken for one: then a
    certificate that has left the CRL stays revoked. An open table, because a set of Python's takes
    five times the room.
    """

    def __init__(self, count: int) -> None:
        self._mask = (1 << max(4, (3 * count // 2).bit_length())) - 1
        self._slots = array("Q", bytes(8)) * (self._mask + 1)

    def add(self, serial: int) -> None:
        at, key = self._find(serial)
        self._slots[at] = key

    def __contains__(self, serial: int) -> bool:
        at, key = self._find(serial)
        return self._slots[at] == key

    def _find(self, serial: int) -> tuple[int, int]:
        key = hash(serial.to_bytes(20, "big")) & 0xFFFF_FFFF_FFFF_FFFF or 1
        slots, mask = self._slots, self._mask
        at = key & mask
        while slots[at] and slots[at] != key:
            at = at + 1 & mask
        return at, key


async def _in_turns(
    statuses: Iterator[tuple[int, Good]] | Iterator[tuple[int, Revoked]],
) -> AsyncIterator[list[tuple[int, Good | Revoked]]]:
    """Some at a time, so that everything else goes on meanwhile."""
    some: list[tuple[int, Good | Revoked]] = []
    for one in statuses:
        some.append(one)
        if len(some) == _AT_ONCE:
            yield some
            some = []
            await asyncio.sleep(0)
    yield some


def _expired(head: CrlHead) -> Rejected:
    return Rejected(
        "crl-expired",
        f"the CRL was good until {head.next_update:%FT%TZ}; see to it that its CA makes another",
    )


def _named(head: CrlHead) -> str:
    number = "without number" if head.number is None else f"{head.number}"
    return f"{number} of {head.this_update:%FT%TZ}"


@contextmanager
def _mapped(path: Path) -> Iterator[Octets]:
    """The content of a file, where it lies. Errors: ``bad-crl`` for an empty one."""
    with storage(path):
        file = path.open("rb")
    with file:
        if not os.fstat(file.fileno()).st_size:
            raise Rejected("bad-crl", "the CRL cannot be read: there is nothing")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield data


def _mistake(error: Exception) -> Broken:
    return Broken("crl-not-understood", f"this program tripped over it ({type(error).__name__})")
