"""A process that answers OCSP: it holds responder keys, reads the status table, and nothing else.

``ocsp.workers`` starts it, hands it a listening socket that outlives it, and talks to it over a
socket of their own: MessagePack in frames (``infra.framing``), answered in order. It ends when that
socket does.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, TypeAlias, assert_never

import msgspec
import uvloop

from infra.clock import SystemClock
from infra.collection import settle
from infra.errors import Failure
from infra.framing import receive, send
from infra.http.front import Front
from infra.http.limits import Limits
from infra.http.relay import Relay
from infra.memory import keep_to_ourselves
from infra.telemetry import set_up_logging
from ocsp.metrics import OcspMetrics
from ocsp.responder import Delegate, Practice, Responder, ResponderIdType, crl_urls
from ocsp.server import PREFIXES, OcspServer
from ocsp.table import TableReader
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.issuer import Issuer
from pki.signer import FileKeys, Keys, Pkcs11Uri, TokenKeys

_BACKLOG: Final = 4096


class KeyAccess(msgspec.Struct, frozen=True):
    """Where the responder's keys are, and what opens them: it crosses one private socket."""

    folder: str
    passphrase: bytes
    module: str | None = None
    token: str = ""
    pin: bytes = b""
    environment: Mapping[str, str] = {}


class DelegateKey(msgspec.Struct, frozen=True):
    """A delegate (``ocsp.responder.Delegate``) with its key by name."""

    issuer: Issuer
    key: str
    algorithm: str
    certificate: bytes
    responder_id: ResponderIdType


class Setup(msgspec.Struct, frozen=True, tag=True):
    """All that a process is told before it listens.

    ``table``: path of the status table; ``most_lag``: how old its statuses may be, None when its
    writer is the CA itself; ``relay``: path of the Unix socket that gets all that is not OCSP;
    ``listeners``: descriptors of bound sockets; ``level`` and ``log_format``: of the log;
    ``access``: whether each answer gets a line there.
    """

    table: str
    most_lag: timedelta | None
    relay: str | None
    listeners: Sequence[int]
    limits: Limits
    practice: Practice
    lifetime: timedelta
    crl_references: bool
    entries: int
    access: bool
    level: str
    log_format: Literal["auto", "text", "json"]
    keys: KeyAccess
    delegates: Sequence[DelegateKey]


class Install(msgspec.Struct, frozen=True, tag=True):
    """Let these delegates sign from now on."""

    delegates: Sequence[DelegateKey]


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Tell the metrics."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Take no more connections, let those that are open end within so many seconds, and end.

    ``idle``: how many of them a connection may still bring one more request.
    """

    seconds: float
    idle: float


class Done(msgspec.Struct, frozen=True, tag=True):
    """It was done."""


class Measured(msgspec.Struct, frozen=True, tag=True):
    """What was measured."""

    metrics: OcspMetrics


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It could not be done."""

    code: str
    detail: str


Order: TypeAlias = Setup | Install | Measure | Drain
Report: TypeAlias = Done | Measured | Refused

encode: Final = msgspec.msgpack.Encoder().encode
decode_order: Final = msgspec.msgpack.Decoder(Order).decode

_log = logging.getLogger(__name__)


class _Process:
    """What runs between the first order and the last."""

    def __init__(self, setup: Setup, keys: Keys, responder: Responder, table: TableReader) -> None:
        clock = SystemClock()
        self._keys = keys
        self._responder = responder
        self.server = OcspServer(
            responder,
            table,
            clock,
            issuers={one.issuer.name for one in setup.delegates},
            entries=setup.entries,
            access=write_access if setup.access else None,
        )
        relay = setup.relay
        self.front = Front(
            self.server.answer,
            PREFIXES,
            fallback=None if relay is None else lambda: Relay(Path(relay), setup.limits),
            limits=setup.limits,
        )
        self._refresher = asyncio.create_task(self.server.run())
        self._listeners: list[asyncio.AbstractServer] = []

    @classmethod
    async def start(cls, setup: Setup) -> _Process:
        keys = _open_keys(setup.keys)
        responder = Responder(
            [await _delegate(keys, one) for one in setup.delegates],
            table := TableReader.open(Path(setup.table), most_lag=setup.most_lag),
            SystemClock(),
            setup.lifetime,
            setup.practice,
            crl_urls(one.issuer for one in setup.delegates) if setup.crl_references else None,
        )
        process = cls(setup, keys, responder, table)
        loop = asyncio.get_running_loop()
        for descriptor in setup.listeners:
            bound = socket.socket(fileno=descriptor)
            bound.setblocking(False)
            process._listeners.append(
                await loop.create_server(process.front.protocol, sock=bound, backlog=_BACKLOG)
            )
        return process

    async def install(self, delegates: Sequence[DelegateKey]) -> None:
        for one in delegates:
            self._responder.install(await _delegate(self._keys, one))
            self.server.issuers.add(one.issuer.name)

    async def drain(self, seconds: float, idle: float) -> None:
        for listener in self._listeners:
            listener.close()
        await self.front.drain(seconds, idle=min(idle, seconds))
        self._refresher.cancel()
        await self._keys.close()

    def measure(self) -> OcspMetrics:
        metrics = self.server.measured()
        metrics.connections = self.front.connections
        metrics.turned_away = self.front.turned_away
        return metrics


async def _obey(control: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=control)
    process: _Process | None = None
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            order = decode_order(await receive(reader))
            report: Report = Done()
            try:
                match order:
                    case Setup():
                        set_up_logging(order.level, order.log_format)
                        process = await _Process.start(order)
                        settle()
                    case Install() if process is not None:
                        await process.install(order.delegates)
                    case Measure() if process is not None:
                        report = Measured(process.measure())
                    case Drain():
                        if process is not None:
                            await process.drain(order.seconds, order.idle)
                        await send(writer, encode(report))
                        return
                    case Install() | Measure():
                        report = Refused("worker-idle", "the process was told nothing yet")
                    case _:
                        assert_never(order)
            except Failure as failure:
                report = Refused(failure.code, failure.detail)
            await send(writer, encode(report))
    # Whoever gave the orders is gone: statuses may change unseen, so nothing is answered any more.


async def _delegate(keys: Keys, one: DelegateKey) -> Delegate:
    signer = await keys.open(one.key, SIGNATURE_ALGORITHMS[one.algorithm])
    return Delegate(one.issuer, signer, one.certificate, one.responder_id)


def _open_keys(access: KeyAccess) -> Keys:
    files = FileKeys(Path(access.folder), lambda: access.passphrase)
    if access.module is None:
        return Keys(files)
    return Keys(
        files,
        TokenKeys(
            Path(access.module),
            Pkcs11Uri(token=access.token),
            lambda: access.pin,
            environment=access.environment,
        ),
    )


def write_access(method: str, status: str, code: str, seconds: float) -> None:
    """Write a line of the access log."""
    _access.info("%s %s %s %.6f", method, status, code or "-", seconds)


_access = logging.getLogger("ocsp.access")


def main() -> None:
    """Obey the socket whose descriptor is the first argument."""
    keep_to_ourselves()
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us in order
    uvloop.run(_obey(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
