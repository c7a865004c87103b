"""The status feed's server, and where a follower gets its responder's certificate.

Whoever connects says how far it has come and gets what is beyond that, page by page, then what
changes, and a heartbeat each second. Only who follows costs anything: with nobody there, nothing is
looked up. Followers at the same place share the frames, which are looked up and signed once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from infra.errors import Failure, Rejected, Unavailable
from infra.http.auth import HOLDS, WHO
from infra.http.body import decode
from infra.http.limits import LIMITS, read_body
from infra.http.problems import Statuses
from ocsp.feed import (
    NAME,
    VERSION,
    WITHOUT_LOG,
    Authorities,
    Changes,
    Continuation,
    Entry,
    Frame,
    Heartbeat,
    Void,
    authorities_hash,
    basis_hash,
    encode,
)
from ocsp.feed_progress import NEVER
from ocsp.feed_wire import FEED_PATH, MEDIA_TYPE, RESPONDER_PATH, FeedKey, seal
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.export import encode_pem
from pki.issuer import Issuer
from pki.record import Record, State
from pki.signer.port import Signer
from pki.status import Good, Revoked

FOLLOWER_MAY: Final = frozenset({("GET", FEED_PATH), ("POST", RESPONDER_PATH)})
"""All that a follower's token is good for, as ``infra.http.auth.Scope`` has it."""

STATUSES: Final[Statuses] = {"feed-ahead": 409, "feed-version": 409}

PAGE: Final = 1000
"""Certificates in a frame: some 30 kB, and so many documents in memory at a time."""

BEAT: Final = 1.0
"""Seconds from heartbeat to heartbeat."""

POLL: Final = 0.1
"""Seconds until a change is seen that nobody has announced."""

SETTLE: Final = 0.01
"""Seconds in which changes are gathered after one was sent on."""

_MAX_BODY: Final = 128 * 1024

_log = logging.getLogger(__name__)

_Shared = TypeVar("_Shared")


class ChangeSource(Protocol):
    """What of the ledger the feed needs (``pki.ledger.Ledger``)."""

    def now(self) -> datetime: ...
    async def sequence(self) -> int: ...
    async def changed(self, after: int, *, limit: int) -> list[Record]: ...


class ChangeLog(Protocol):
    """What of the log the feed needs (``pki.log.log.Log``)."""

    async def durable(self) -> tuple[int, bytes]: ...
    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]: ...


@dataclass(frozen=True, slots=True)
class _Batch:
    """Frames that lead on from somewhere, ``upto``; ``whole``: and nothing was beyond that.

    ``head``: of the log, with the acts of all changes in it; ``pulse``: set as soon as there may
    be, counted from before it was looked up.
    """

    octets: bytes
    upto: int
    at: datetime
    issuers: tuple[Issuer, ...]
    head: TreeHead
    whole: bool
    pulse: asyncio.Event


class StatusFeed:
    """Sends every change of the ledger to whoever follows.

    ``log``: the ledger's; ``issuers``: the CAs by name, read anew each time; ``signer``: the feed's
    key; ``name``: what followers know the feed by. Errors: ``feed-key``.
    """

    def __init__(
        self,
        ledger: ChangeSource,
        log: ChangeLog,
        issuers: Mapping[str, Issuer],
        signer: Signer,
        *,
        name: str = NAME,
        page: int = PAGE,
    ) -> None:
        FeedKey.of(signer.public_key_info)
        self._ledger = ledger
        self._log = log
        self._issuers = issuers
        self._signer = signer
        self._name = name
        self._page = page
        self._latest = NEVER
        self._streams: set[asyncio.Task[object]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._announced = asyncio.Event()
        self._pulse = asyncio.Event()
        self._under_way: dict[tuple[object, ...], asyncio.Task[Any]] = {}

    @property
    def followers(self) -> int:
        """How many are connected now."""
        return len(self._streams)

    def wake(self) -> None:
        """Send on at once what has changed; without it, that takes up to ``POLL``."""
        self._announced.set()

    def install(self, app: web.Application) -> None:
        """Serve the feed on ``app``, and end its streams when that shuts down."""
        app.add_routes([web.get(FEED_PATH, self.stream, allow_head=False)])

        async def shut_down(app: web.Application) -> None:
            await self.stop()

        app.on_shutdown.append(shut_down)

    async def stop(self) -> None:
        """Cut every follower off; who comes back is served again."""
        tasks: list[asyncio.Task[object]] = [*self._streams, *self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """``GET /status-feed?version=2&after=N&log=S``: frames, for as long as the follower stays.

        Errors: ``bad-number``, ``feed-version``, ``feed-ahead``; those of the ledger, of the log
        and of the key.
        """
        version = _whole(request.query.get("version", str(WITHOUT_LOG)))
        after = _whole(request.query.get("after", "0"))
        known = _whole(request.query.get("log", "0"))
        who = str(request.get(WHO, "somebody"))
        if version not in (VERSION, WITHOUT_LOG):
            raise Rejected(
                "feed-version",
                f"the status feed is to be had in version {VERSION} or {WITHOUT_LOG}, not "
                f"{version}: upgrade this CA's instance before its validation authorities",
            )
        await self._check_not_ahead(after, known)
        if version == WITHOUT_LOG:
            known = 0
            _log.warning(
                "%s follows in an older version of the status feed and would not notice if this CA "
                "was restored from a backup: upgrade it",
                who,
            )
        response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE})
        # A proxy that gathers the answer before it passes it on would stop the feed.
        response.headers["X-Accel-Buffering"] = "no"
        with self._following(who):
            # What cannot be had is still answered as a problem.
            first = await self._beyond(version, after, leaves=known)
            await response.prepare(request)
            try:
                await self._send(request, response, version, after, known, first)
            except TimeoutError:
                _log.warning("a follower that does not read is cut off")
                if request.transport is not None:
                    request.transport.abort()
            except Failure as failure:
                _log.warning("the status feed ends for a follower: %s", failure)
        return response

    async def _check_not_ahead(self, after: int, leaves: int) -> None:
        newest = await self._ledger.sequence()
        size, _ = await self._log.durable()
        for known, what, here in ((after, "changes", newest), (leaves, "leaves of the log", size)):
            if known > here:
                raise Rejected(
                    "feed-ahead",
                    f"there were never more than {here} {what} here, the follower knows {known}: "
                    "this CA was restored from a backup, or is another one; the follower has to "
                    "start anew",
                )

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        version: int,
        after: int,
        leaves: int,
        batch: _Batch,
    ) -> None:
        """``leaves``: of the log, which the follower knows."""
        unread = request.config_dict[LIMITS].unread
        holds = request.get(HOLDS, _always)
        known: tuple[Issuer, ...] | None = None
        head = NO_LEAVES if version == WITHOUT_LOG else None
        while holds():
            octets = batch.octets
            if batch.head != head:
                octets = await self._continued(after, leaves, batch) + octets
                head, leaves = batch.head, batch.head.size
            if batch.issuers != known:
                known = batch.issuers
                authorities = Authorities(after, batch.at, known)
                octets = await self._sealed(authorities, version) + octets
            async with asyncio.timeout(unread):
                await response.write(octets)  # waits while the follower has too much to read
            after, at = batch.upto, batch.at
            if batch.whole:
                await batch.pulse.wait()
            batch = await self._beyond(version, after, leaves=leaves, at=at)

    async def _beyond(
        self, version: int, after: int, *, leaves: int, at: datetime = NEVER
    ) -> _Batch:
        """What is beyond ``after``; no older than ``at``, from a log no shorter than ``leaves``."""
        while True:
            key = (version, after)
            batch = await self._shared(key, lambda: self._look_up(version, after))
            # It may be shared with somebody who asked before we had the last one.
            if batch.at >= at and (version == WITHOUT_LOG or batch.head.size >= leaves):
                return batch
            await asyncio.sleep(0)  # one that has just ended would be found for ever

    async def _continued(self, after: int, old: int, batch: _Batch) -> bytes:
        """The frame by which a follower that knows the log up to ``old`` goes on to this batch."""

        async def make() -> bytes:
            # Any log goes on from none.
            proof = await self._log.consistency(old, batch.head.size) if old else ()
            frame = Continuation(after, batch.at, old, batch.head, proof)
            return await self._sealed(frame, VERSION)

        return await self._shared((VERSION, after, batch.at, old, batch.head), make)

    async def _shared(
        self, key: tuple[object, ...], make: Callable[[], Coroutine[Any, Any, _Shared]]
    ) -> _Shared:
        """What is made, the same for all who ask while it is."""
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(make())
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key))
        found: _Shared = await asyncio.shield(task)
        return found

    async def _look_up(self, version: int, after: int) -> _Batch:
        # These come first: whatever was changed by then is found.
        pulse = self._pulse
        at = self._latest = max(self._latest, self._ledger.now())
        issuers = tuple(self._issuers.values())
        records = await self._ledger.changed(after, limit=self._page)
        whole = len(records) < self._page
        newest = upto = records[-1].sequence if records else after
        if not whole:
            newest = max(newest, await self._ledger.sequence())
        basis, head = authorities_hash(issuers), NO_LEAVES
        if version != WITHOUT_LOG:
            # Last: what was found was logged before it could be.
            head = TreeHead(*await self._log.durable())
            basis = basis_hash(basis, head)
        frames: list[Frame] = []
        if records:
            places = {issuer.name: place for place, issuer in enumerate(issuers)}
            entries = tuple(_entry(record, places) for record in records)
            frames.append(Changes(after, upto, at, newest, basis, entries))
        if whole:
            frames.append(Heartbeat(upto, at, basis))
        octets = b"".join([await self._sealed(frame, version) for frame in frames])
        return _Batch(octets, upto, at, issuers, head, whole, pulse)

    async def _sealed(self, frame: Frame, version: int) -> bytes:
        message = encode(self._name, frame, version)
        return seal(message, await self._signer.sign(message))

    @contextmanager
    def _following(self, who: str) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._streams.add(task)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._wake_followers())
        _log.info("%s follows the status feed", who)
        try:
            yield
        finally:
            self._streams.discard(task)
            _log.info("%s follows the status feed no more", who)
            if not self._streams and self._watch is not None:
                self._watch.cancel()
                self._watch = None

    async def _wake_followers(self) -> None:
        """Let all who wait look again: when something changed, and at each beat."""
        loop = asyncio.get_running_loop()
        seen, beat = -1, loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._announced.wait()
            self._announced.clear()
            try:
                newest = await self._ledger.sequence()
            except Failure:
                newest = -1  # each follower hears of it when it looks
            if newest != seen or loop.time() >= beat:
                seen, beat = newest, loop.time() + BEAT
                self._pulse.set()
                self._pulse = asyncio.Event()
                await asyncio.sleep(SETTLE)


class ResponderCertifier(Protocol):
    """Gives OCSP responders their certificates (``pki.hierarchy.Hierarchy``)."""

    async def certify_responder(
        self, name: str, request: bytes, *, by: str, lifetime: timedelta
    ) -> Record: ...


class ResponderBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /authorities/CA/responder`` takes; ``csr``: PKCS#10 in PEM."""

    csr: str


def responder_route(certifier: ResponderCertifier, lifetime: timedelta) -> web.RouteDef:
    """``POST /authorities/CA/responder``: a certificate for the key of a follower's responder.

    ``lifetime``: of the certificate; there is a new one in its last third.
    """

    async def certify(request: web.Request) -> web.Response:
        body = decode(await read_body(request, _MAX_BODY), ResponderBody)
        ca, who = request.match_info["ca"], request[WHO]
        record = await certifier.certify_responder(ca, body.csr.encode(), by=who, lifetime=lifetime)
        _log.info("%s has the OCSP responder certificate %x of %s", who, record.serial, ca)
        pem = encode_pem("CERTIFICATE", record.certificate).decode()
        return web.json_response({"certificate": pem})

    return web.post(RESPONDER_PATH, certify)


def _entry(record: Record, places: Mapping[str, int]) -> Entry:
    place = places.get(record.ca)
    if place is None:
        # Its root certificate is in the ledger before a new CA is open: it comes with the CA.
        raise Unavailable(
            "authority-unfinished",
            f"the CA {record.ca} is being made; if that was interrupted, do it again",
        )
    if record.state is State.void:
        return Entry(place, record.serial, record.sequence, Void())
    status = record.status
    assert isinstance(status, Good | Revoked)  # noqa: S101 - it was issued
    return Entry(place, record.serial, record.sequence, status)


def _always() -> bool:
    return True


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Rejected("bad-number", f"{text[:40]!r} is no sequence number")
    return int(text)
