"""How OCSP is answered: in one process, or by several that share the port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

from cli import certificate, files
from cli.service.from_settings import limits
from cli.service.keys import key_access
from conf.schema import Settings
from infra.clock import Clock
from infra.http.front import Front
from ocsp.metrics import OcspMetrics
from ocsp.request import MAX_REQUEST
from ocsp.requestor import SignedRequests
from ocsp.responder import Delegate, Practice, Responder, ResponderIdType, crl_urls
from ocsp.server import OcspServer
from ocsp.table import TableReader
from ocsp.worker import DelegateKey, KeyAccess, Setup, write_access
from ocsp.workers import Workers

TABLE: Final = Path("status", "table")
"""Where, in the state folder, the status table is."""

RELAY: Final = Path("run", "validation.sock")
"""Where, in the state folder, processes that answer OCSP bring all other requests."""


class Answering(Protocol):
    """Whoever answers OCSP."""

    async def install(self, delegates: Sequence[Delegate]) -> None:
        """Let these delegates sign from now on."""

    async def measure(self) -> OcspMetrics:
        """What was counted, and how things stand."""

    async def restart(self) -> None:
        """Begin anew where that means something, with no request lost."""

    async def stop(self) -> None:
        """Answer what is under way, and no more."""


class Here:
    """OCSP in this very process. ``server``: what answers, for the port's front; ``front``: that,
    if the port is this process's."""

    def __init__(self, responder: Responder, server: OcspServer) -> None:
        self.server = server
        self.front: Front | None = None
        self._responder = responder
        self._refreshing = asyncio.create_task(server.run(), name="refreshing OCSP answers")

    @classmethod
    def start(
        cls, settings: Settings, delegates: Sequence[Delegate], table: TableReader, clock: Clock
    ) -> Here:
        """Errors: those of ``Responder.install`` and of ``practice``."""
        ocsp = settings.ocsp
        references = crl_urls(one.issuer for one in delegates) if ocsp.crl_reference else None
        responder = Responder(
            delegates, table, clock, ocsp.lifetime, practice(settings), references
        )
        server = OcspServer(
            responder,
            table,
            clock,
            issuers={one.issuer.name for one in delegates},
            entries=ocsp.cached_answers,
            access=write_access if ocsp.access_log else None,
        )
        return cls(responder, server)

    async def install(self, delegates: Sequence[Delegate]) -> None:
        for delegate in delegates:
            self._responder.install(delegate)
            self.server.issuers.add(delegate.issuer.name)

    async def measure(self) -> OcspMetrics:
        metrics = self.server.measured()
        if self.front is not None:
            metrics.connections = self.front.connections
            metrics.turned_away = self.front.turned_away
        return metrics

    async def restart(self) -> None:
        """There is no process to replace."""

    async def stop(self) -> None:
        self._refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await self._refreshing


class Apart:
    """OCSP in processes of its own. ``delegates``: by CA, for those that are yet to start too;
    ``here``: answers on connections that they have passed on, if they pass any."""

    def __init__(
        self, workers: Workers, delegates: dict[str, Delegate], grace: float, here: Here | None
    ) -> None:
        self._workers = workers
        self._here = here
        self._delegates = delegates
        self._grace = grace

    @classmethod
    async def start(
        cls,
        settings: Settings,
        delegates: Sequence[Delegate],
        sockets: Sequence[Sequence[socket.socket]],
        *,
        here: Here | None,
        most_lag: timedelta | None,
    ) -> Apart:
        """``sockets``: some for each process; ``here``: with it, requests that are not OCSP are
        brought to ``RELAY``; ``most_lag``: see ``TableReader``. Errors: what a process refuses."""
        keys = await key_access(settings)
        current = {one.issuer.name: one for one in delegates}
        relay = here is not None
        workers = Workers(sockets, lambda: _setup(settings, keys, current, relay, most_lag))
        await workers.start()
        return cls(workers, current, settings.http.shutdown_timeout.total_seconds(), here)

    async def install(self, delegates: Sequence[Delegate]) -> None:
        self._delegates.update({one.issuer.name: one for one in delegates})
        if self._here is not None:
            await self._here.install(delegates)
        await self._workers.install([_key(one) for one in delegates])

    def only(self, delegates: Sequence[Delegate]) -> None:
        """Let these sign, and no others, in each process that starts from now on."""
        self._delegates.clear()
        self._delegates.update({one.issuer.name: one for one in delegates})

    async def measure(self) -> OcspMetrics:
        measured = await self._workers.measure()
        return measured if self._here is None else measured + await self._here.measure()

    async def restart(self) -> None:
        await self._workers.restart(self._grace)

    async def stop(self) -> None:
        await self._workers.stop(self._grace)
        if self._here is not None:
            await self._here.stop()


def practice(settings: Settings) -> Practice:
    """What answers say beyond what they must. Errors: ``cannot-read``, ``bad-certificate``."""
    ocsp = settings.ocsp
    anchors: tuple[bytes, ...] = ()
    if ocsp.request_anchors is not None:
        content = files.read(ocsp.request_anchors)
        anchors = tuple(certificate.all_der(content, str(ocsp.request_anchors)))
    return Practice(
        extended_revoke=ocsp.extended_revoke,
        retention=ocsp.archive_cutoff or None,
        signed_requests=SignedRequests(ocsp.signed_requests),
        requestor_anchors=anchors,
    )


def responder_id(settings: Settings) -> ResponderIdType:
    """How answers name their signer."""
    return ResponderIdType(settings.ocsp.responder_id)


def _setup(
    settings: Settings,
    keys: KeyAccess,
    delegates: dict[str, Delegate],
    relay: bool,
    most_lag: timedelta | None,
) -> Setup:
    return Setup(
        table=str(settings.home / TABLE),
        most_lag=most_lag,
        relay=str(settings.home / RELAY) if relay else None,
        listeners=(),
        limits=limits(settings, MAX_REQUEST),
        practice=practice(settings),
        lifetime=settings.ocsp.lifetime,
        crl_references=settings.ocsp.crl_reference,
        entries=settings.ocsp.cached_answers,
        access=settings.ocsp.access_log,
        level=settings.logging.level,
        log_format=settings.logging.format,
        keys=keys,
        delegates=[_key(one) for one in delegates.values()],
    )


def _key(delegate: Delegate) -> DelegateKey:
    signer = delegate.signer
    return DelegateKey(
        delegate.issuer,
        signer.uri,
        signer.algorithm.name,
        delegate.certificate,
        delegate.responder_id,
    )
