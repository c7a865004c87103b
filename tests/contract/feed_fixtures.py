"""A ledger with CAs, the server of its status feed, and followers of it."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from infra.clock import Clock, SystemClock
from infra.http.app import Serving, make_app, serve_app
from infra.http.auth import Scope, TokenFolder, authenticate
from infra.http.limits import Limits
from infra.store.sqlite import SqliteStore
from ocsp.feed_http import FOLLOWER_MAY, STATUSES, StatusFeed
from ocsp.follower import Follower, Origin, Timing
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.algorithms import KeyType, usual_algorithm
from pki.certificate import parse_certificate
from pki.hierarchy import COLLECTIONS as HIERARCHY
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.log.log import COLLECTIONS as LOG
from pki.log.log import Log
from pki.record import CERTIFICATES, Intent, Record
from pki.serial import SerialNumber
from pki.signer.file import FileSigner
from pki.status import Good, Revoked, Unknown
from tests.unit.certificate_fixtures import ISSUING, ROOT

OPERATOR = "the-operator-s-token-that-is-long-enough"
ISSUERS = {"root": ROOT, "issuing": ISSUING}
QUICK = Timing(connect=2.0, silence=2.5, first=0.005, most=0.02)
CERTIFICATE = ISSUING.certificate
"""Whose octets they are does not matter here, but that they are no root's."""
ENDS = parse_certificate(CERTIFICATE).not_after


@dataclass
class Kept:
    """What a follower has written down, and in which order."""

    applied: int = 0
    head: TreeHead = NO_LEAVES
    known: dict[tuple[str, int], Good | Revoked] = field(default_factory=dict)
    written: list[tuple[str, int, int]] = field(default_factory=list)
    horizons: dict[str, datetime] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    on_horizon: Callable[[datetime], None] = lambda at: None

    def issuer(self, name: str, /, *, complete: bool) -> None:
        if complete:
            self.complete.add(name)

    def put_many(self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]], /) -> None:
        assert issuer in self.complete
        for serial, status in statuses:
            self.known[issuer, serial] = status
            self.written.append((issuer, serial, getattr(status, "sequence", 0)))

    def set_horizon(self, issuer: str, known_at: datetime, until: datetime | None, /) -> None:
        assert until is None
        self.horizons[issuer] = known_at
        self.on_horizon(known_at)


def feed_signer(threads: ThreadPoolExecutor, seed: bytes = b"f") -> FileSigner:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return FileSigner("file:feed", key, info, usual_algorithm(KeyType.ED25519), threads)


@dataclass
class World:
    """A CA's host: its ledger, and the feed of it while ``serving``."""

    folder: Path
    store: SqliteStore
    ledger: Ledger
    log: Log
    signer: FileSigner
    tokens: TokenFolder
    issuers: dict[str, Issuer]
    limits: Limits
    page: int = 10
    port: int = 0
    serving: Serving | None = None
    feed: StatusFeed | None = None
    serials: list[int] = field(default_factory=list)

    async def issue(self, count: int = 1, ca: str = "issuing") -> None:
        """Issue certificates."""
        for _ in range(count):
            await self.ledger.complete(await self._intend(ca), CERTIFICATE)

    async def void(self) -> int:
        """Give one up before it is issued; returns its serial number."""
        record = await self._intend("issuing")
        await self.ledger.void(record, "test")
        self.serials.remove(record.serial)
        return record.serial

    async def _intend(self, ca: str) -> Record:
        serial = len(self.serials) + 1
        while serial in self.serials or await self._taken(ca, serial):
            serial += 1
        self.serials.append(serial)
        now = self.ledger.now()
        return await self.ledger.intend(
            Intent(
                ca=ca,
                serial=SerialNumber(serial),
                profile="citizen",
                tbs_certificate=b"to be signed",
                key_hash=hashlib.sha256(b"%d" % serial).digest(),
                key_number=0,
                subject=f"CN={serial}",
                not_before=now,
                not_after=ENDS,
                by="test",
                request_id=None,
                request_hash=b"",
            )
        )

    async def _taken(self, ca: str, serial: int) -> bool:
        return await self.store.get(CERTIFICATES, f"{ca}/{serial:02x}") is not None

    async def start(self, *more: Any) -> None:
        """Serve, on the same port as before."""
        app = make_app(
            {**STATUSES, "not-authenticated": 401, "not-allowed": 403, "no-such-authority": 404},
            private=True,
            limits=self.limits,
            middlewares=[
                authenticate(OPERATOR, scopes=[Scope("follower", self.tokens, FOLLOWER_MAY)])
            ],
        )
        self.feed = StatusFeed(self.ledger, self.log, self.issuers, self.signer, page=self.page)
        self.feed.install(app)
        app.add_routes(more)
        self.serving = await serve_app(app, "127.0.0.1", self.port)
        self.port = int(self.serving.urls[0].rpartition(":")[2])

    async def stop(self) -> None:
        """Serve no more."""
        if self.serving is not None:
            await self.serving.stop()
            self.serving = None

    async def copy(self, name: str = "before.sqlite") -> Path:
        """A copy of the database as it is now."""
        await self.store.backup(self.folder / name)
        return self.folder / name

    async def restore(self, copy: Path) -> None:
        """Go on, where it was serving, from a copy of its database."""
        served = self.serving is not None
        await self.stop()
        await self.log.close()
        await self.store.close()
        # Each time from a file of its own: the copy stays what it was.
        path = self.folder / f"restored-{len(list(self.folder.iterdir()))}.sqlite"
        shutil.copyfile(copy, path)
        self.store, self.log, self.ledger = await opened(path)
        self.serials.clear()
        if served:
            await self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def follower(
        self, kept: Kept, *, port: int | None = None, clock: Clock | None = None, **more: Any
    ) -> Follower:
        """A follower with a token of its own."""
        url = self.url if port is None else f"http://127.0.0.1:{port}"
        return Follower(
            Origin(url, self.tokens.make("va")),
            more.pop("key_info", self.signer.public_key_info),
            kept,
            clock or SystemClock(),
            timing=more.pop("timing", QUICK),
            **more,
        )

    async def statuses(self) -> dict[tuple[str, int], Good | Revoked]:
        """What the ledger says of every certificate."""
        found: dict[tuple[str, int], Good | Revoked] = {}
        for record in await self.ledger.changed(0, limit=100_000):
            status = await self.ledger.status(record.ca, record.serial)
            if not isinstance(status, Unknown):
                found[record.ca, record.serial] = status
        return found

    async def caught_up(self, follower: Follower) -> None:
        """Wait until a heartbeat has promised all that has happened by now."""
        newest, now = await self.ledger.sequence(), self.ledger.now()
        await until(lambda: follower.applied == newest and follower.lag(now) == 0)


async def opened(path: Path) -> tuple[SqliteStore, Log, Ledger]:
    """What a CA keeps in a database."""
    store = await SqliteStore.open(path, (CERTIFICATES, *LOG, *HIERARCHY))
    log = await Log.open(store, origin="log.example/ca", clock=SystemClock())
    return store, log, await Ledger.open(store, log, SystemClock(), intent_key=bytes(32))


@asynccontextmanager
async def world(folder: Path, *, limits: Limits | None = None) -> AsyncIterator[World]:
    store, log, ledger = await opened(folder / "state.sqlite")
    with ThreadPoolExecutor(1) as threads:
        made = World(
            folder,
            store,
            ledger,
            log,
            feed_signer(threads),
            TokenFolder(folder / "followers", monotonic=_always_later()),
            dict(ISSUERS),
            limits or Limits(stop=30.0),
        )
        try:
            yield made
        finally:
            await made.stop()
            await made.store.close()


@asynccontextmanager
async def running(follower: Follower) -> AsyncIterator[asyncio.Task[None]]:
    """The follower at work."""
    task = asyncio.create_task(follower.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until this holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.002)


def _always_later() -> Callable[[], float]:
    """A monotonic clock by which every look at a folder is due."""
    ticks = iter(range(10**9))
    return lambda: float(next(ticks))
