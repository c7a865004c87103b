"""Connections passed on, octet by octet, to a server on a Unix socket of this machine."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import cast

from infra.http.limits import Limits
from infra.http.message import FULL
from infra.unix_socket import reachable

_log = logging.getLogger(__name__)


class _Side(asyncio.Protocol):
    """One of two connections: what comes in here goes out at the other, and no faster."""

    transport: asyncio.Transport

    def __init__(self, unread: float, other: _Side | None = None) -> None:
        self.other = other
        self._unread = unread
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()
        self._cut_later()

    def resume_writing(self) -> None:
        self._stop_timer()
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.close()  # after what was written to it
            self.other._cut_later()

    def _cut_later(self) -> None:
        if self._cut is None:
            loop = asyncio.get_running_loop()
            self._cut = loop.call_later(self._unread, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None


class Relay(_Side):
    """A client's connection, copied to the socket ``path`` and back until either side ends.

    The server behind it sees this process as its peer, not the client: never relay to a socket
    that trusts whoever can open it. What one side does not take is not read from the other, and
    after ``Limits.unread`` seconds of that both are cut off. How long the client may take to ask
    is the server's affair. The client gets 503 if the server cannot be reached.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        super().__init__(self._limits.unread)
        self._path = path
        self._early = bytearray()  # what came before the server's side was there
        self._half_closed = False
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._open())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early += data  # no more than what was read before the pause
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Half-closed: the server has some time to say what it still has to say. When the server
        says no more, that is the end of both."""
        if self.other is None or not self.transport.can_write_eof():
            return False  # over TLS there is no half
        if not self.other.transport.is_closing():
            self.other.transport.write_eof()
        self._half_closed = True
        self._cut_later()
        return True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._half_closed:
            self._cut_later()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.wait):
                with reachable(self._path) as address:
                    _, server = await loop.create_unix_connection(
                        lambda: _Side(self._limits.unread, self), address
                    )
        except OSError as error:  # TimeoutError is one
            _log.error("nobody answers on %s: %s", self._path, error)
            if not self.transport.is_closing():
                self.transport.write(FULL)
                self.transport.close()
                self._cut_later()
            return
        if self.transport.is_closing():
            server.transport.abort()
            return
        self.other = server
        server.transport.write(bytes(self._early))
        self._early.clear()
        self.transport.resume_reading()
