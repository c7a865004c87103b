"""A validation authority on a host of its own: OCSP without a CA's key or database.

It learns of statuses from the feed of a CA's instance and from the CRLs of other CAs, writes them
into its table, and lets processes answer from that. Its responder keys are made here; the CAs
certify them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from typing import Final

from cli.service import foreign
from cli.service.ending import tls_in_use
from cli.service.from_settings import limits, url_of
from cli.service.keys import open_keys
from cli.service.responders import RESPONDERS, Responders
from cli.service.validation import TABLE, Apart, responder_id
from cli.service.validation_api import private_app
from cli.service.validation_source import RESTORED, TO_DO, Statuses, feed_key_of, origin_of
from conf.schema import Settings
from infra.clock import Clock, SystemClock
from infra.errors import Failure, Rejected
from infra.http.app import bind_shared, serve_app, serve_unix
from infra.state import ADMIN_SOCKET, check_folder, owned
from ocsp.crl_source import CrlSource
from ocsp.delegate import Delegate
from ocsp.follower import OTHER_HISTORY, Follower, Origin
from pki.signer import Keys, Signer
from pki.signer.watch import KeyWatch

RENEW: Final = 3600.0
"""Seconds between looks at the certificates of the responders."""

_RETRY: Final = 15.0
_LOOK: Final = 0.05
_PATIENCE: Final = 10.0

_log = logging.getLogger(__name__)


class ValidationAuthority:
    """What keeps the table and the responders' certificates current.

    ``say``: told, in a sentence, what is being waited for.
    """

    def __init__(
        self, settings: Settings, keys: Keys, keys_note: str, say: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.keys_note = keys_note
        self.clock: Clock = SystemClock()
        self.follower: Follower | None = None
        self.sources: dict[str, CrlSource] = {}
        self.delegates: dict[str, Delegate] = {}
        """Who signs, by the name of the CA in the table."""
        self.uncertified: dict[str, Failure] = {}
        """Why nobody signs for a CA."""
        self.apart: Apart | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when following has ended, with why."""
        self.since = self.clock.now()
        self.tls = tls_in_use(settings)
        self.key_watch = KeyWatch(self.signers, settings.keys.check_interval)
        self._keys = keys
        self._say = say
        self._statuses = Statuses(settings.home / TABLE)
        self._appeared = asyncio.Event()
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._fetching: list[asyncio.Task[None]] = []
        self._foreign: list[foreign.Foreign] = []
        self._following: asyncio.Task[None] | None = None
        self._responders: Responders | None = None
        self._feed: tuple[Origin, bytes] | None = None
        if settings.feed.url:
            self._feed = origin_of(settings), feed_key_of(settings)
            self._responders = Responders(settings, keys, self._feed[0], self.clock)

    def signers(self) -> dict[str, Signer]:
        """Every key that answers are signed with, by its label."""
        return {foreign.key_of(name): one.signer for name, one in self.delegates.items()}

    async def start(self) -> None:
        """Follow the feed, and wait until all is known and somebody signs for it.

        Errors: ``nothing-to-follow``, and what the state folder refuses.
        """
        if self._feed is None and not any(foreign.names(self.settings.home)):
            raise Rejected(
                "nothing-to-follow",
                "name the CA's instance with --feed URL, or add a CA with `digitalid ocsp ca add`",
            )
        if self._feed is not None:
            self._statuses.belong_to(self._feed[1])
            self._tasks.append(asyncio.create_task(self._follow(*self._feed)))
            await self._first_word()
        await self._take_foreign()
        self._tasks.append(asyncio.create_task(self._keep_certified()))

    async def stop(self) -> None:
        """End all of it, and leave the table to the next run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop_fetching()
        self.ended.cancel()
        self._statuses.close()

    async def reload(self) -> None:
        """Take in which CAs were added, certified and removed, and whether the operator accepts a
        CA that was restored, and replace every process."""
        async with self._changing:
            await self._stop_fetching()
            if self._statuses.accepted:
                # The next follower begins where the table does.
                self._statuses.accept()
                if self._following is not None:
                    self._following.cancel()
            await self._take_foreign()
            if self.apart is not None:
                self.apart.only(list(self.delegates.values()))
                await self.apart.restart()

    async def _first_word(self) -> None:
        """Wait for the first heartbeat and the first certificate; say why it takes so long."""
        url = self.settings.feed.url
        self._say(f"waiting for the status feed of {url}")
        told = ""
        while not self.delegates:
            follower = self.follower
            why: Failure | None = None
            if self.ended.done():
                await self.ended
            if follower is not None:
                why = follower.failing
                if why is None and not math.isinf(follower.lag(self.clock.now())):
                    await self._certify()
                    why = next(iter(self.uncertified.values()), None)
            if why is not None and str(why) != told:
                told = str(why)
                self._say(f"still waiting for {url}: {told}")
            if not self.delegates:
                await asyncio.sleep(1.0 if self.uncertified else _LOOK)

    async def _follow(self, origin: Origin, key_info: bytes) -> None:
        try:
            while True:
                self.follower = Follower(
                    origin,
                    key_info,
                    self._statuses,
                    self.clock,
                    on_authorities=lambda issuers: self._appeared.set(),
                )
                self._following = asyncio.create_task(self.follower.run())
                try:
                    await self._following
                except Rejected as rejected:
                    if rejected.code not in OTHER_HISTORY:
                        raise
                    await self._begin_again(rejected)
                except asyncio.CancelledError:
                    own = asyncio.current_task()
                    if own is None or own.cancelling():
                        raise
        except Exception as error:
            self.ended.set_exception(error)

    @property
    def retaining(self) -> bool:
        """Whether revocations are kept that the CA, which was restored, need not know of."""
        return self._statuses.retaining

    async def _begin_again(self, why: Rejected) -> None:
        """The feed has another history than the table, or somebody in between says so: it is
        followed from its beginning, and nothing that is revoked becomes good by that."""
        if self._statuses.untouched:
            # There is nothing from which it could differ: this is no word of the CA's.
            _log.error("the status feed makes no sense: %s", why)
            await asyncio.sleep(_PATIENCE)
            return
        _log.error("%s: %s (%s)", RESTORED, TO_DO, why)
        try:
            self._statuses.retain(why.detail)
        except (Failure, OSError) as error:
            # Without the mark, what is revoked here would not stay so: nothing is followed.
            _log.error("that cannot be written down: %s", error)
            await asyncio.sleep(_PATIENCE)

    async def _keep_certified(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY if self.uncertified else RENEW):
                    await self._appeared.wait()
            try:
                async with self._changing:
                    await self._certify()
            except Failure as failure:
                _log.error("the processes did not get their certificates: %s", failure)
            except Exception:
                _log.exception("renewing certificates met a mistake in this program")

    async def _certify(self) -> None:
        """See that somebody signs for each CA of the feed, and let the processes know."""
        self._appeared.clear()
        if self.follower is None or self._responders is None:
            return
        fresh: list[Delegate] = []
        for issuer in self.follower.issuers:
            try:
                delegate = await self._responders.delegate(issuer)
            except Failure as failure:
                self._lack(issuer.name, failure)
                continue
            self.uncertified.pop(issuer.name, None)
            if self.delegates.get(issuer.name) != delegate:
                fresh.append(delegate)
        if fresh and self.apart is not None:
            await self.apart.install(fresh)
        self.delegates |= {one.issuer.name: one for one in fresh}

    def _lack(self, name: str, failure: Failure) -> None:
        before = self.uncertified.get(name)
        if before is None or before.code != failure.code:
            _log.error("nobody signs for CA %s: %s", name, failure)
        self.uncertified[name] = failure

    async def _take_foreign(self) -> None:
        """Begin with the CAs that are served by their CRLs, as they are on the disk now."""
        await self._stop_fetching()
        for known in (self.delegates, self.uncertified):
            for name in [name for name in known if name.startswith(foreign.PREFIX)]:
                del known[name]
        kind = responder_id(self.settings)
        self._foreign = []
        for name in foreign.names(self.settings.home):
            try:
                one = foreign.load(self.settings.home, name)
                delegate = await foreign.delegate(one, self._keys, kind)
            except Failure as failure:
                self._lack(f"{foreign.PREFIX}{name}", failure)
                continue
            self.delegates[one.issuer.name] = delegate
            self._foreign.append(one)
        self._start_fetching()

    def _start_fetching(self) -> None:
        for one in self._foreign:
            source = CrlSource(one.issuer, one.crl, one.folder, self._statuses, self.clock)
            self.sources[one.issuer.name] = source
            self._fetching.append(asyncio.create_task(source.run()))

    async def _stop_fetching(self) -> None:
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)
        self._fetching.clear()
        self.sources.clear()


@asynccontextmanager
async def validating(
    settings: Settings, *, tls: ssl.SSLContext | None, say: Callable[[str], None]
) -> AsyncIterator[tuple[ValidationAuthority, str, str]]:
    """A validation authority on its state folder; yields it with the URLs of its private port and
    of OCSP once it answers.

    Errors: ``state-locked``, ``nothing-to-follow``, ``no-such-secret``, ``feed-key`` and what the
    table, the keys and the ports refuse.
    """
    http, home = settings.http, settings.home
    async with AsyncExitStack() as stack:
        stack.enter_context(owned(home))
        first = not (home / RESPONDERS).exists() and not (home / foreign.AUTHORITIES).exists()
        keys, keys_note = await open_keys(settings, new=first)
        stack.push_async_callback(keys.close)
        authority = ValidationAuthority(settings, keys, keys_note, say)
        stack.push_async_callback(authority.stop)
        private = await serve_app(private_app(authority), http.app_host, http.app_port, tls=tls)
        stack.push_async_callback(private.stop)
        (home / ADMIN_SOCKET).parent.mkdir(mode=0o700, exist_ok=True)
        check_folder((home / ADMIN_SOCKET).parent)
        own = await serve_unix(private_app(authority, owner=True), home / ADMIN_SOCKET)
        stack.push_async_callback(own.stop)
        host, count = http.validation_host, settings.ocsp.workers or os.cpu_count() or 1
        # Before anything is waited for: a port that is taken shows at once.
        sockets = await bind_shared(host, http.validation_port, count, limits(settings))
        stack.callback(_close, sockets)
        await authority.start()
        keys.when_lost(authority.key_watch.soon)
        await authority.key_watch.start()
        stack.push_async_callback(authority.key_watch.stop)
        authority.apart = await Apart.start(
            settings,
            list(authority.delegates.values()),
            sockets,
            here=None,
            most_lag=settings.feed.most_lag,
        )
        stack.push_async_callback(authority.apart.stop)
        yield authority, private.urls[0], url_of(host, sockets[0][0].getsockname()[1])


def _close(sockets: Sequence[Sequence[socket.socket]]) -> None:
    for one in chain.from_iterable(sockets):
        one.close()
