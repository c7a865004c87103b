"""Answers that are ready, at the speed of a static file: HTTP/1.1 (RFC 9112) on httptools.

A connection is looked at wherever a request begins. Requests that begin with one of the front's
prefixes are its own: its handler makes the whole answer. Any other request takes its connection,
for good, to the fallback: aiohttp's, or a ``Relay``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from infra.errors import Failure, Rejected
from infra.http.connection import Connection
from infra.http.limits import Limits
from infra.http.message import FULL, Handler, Head, Request, read_head
from infra.http.problems import Problem, Statuses, incident, problem_of
from infra.http.relay import Relay

__all__ = ["SERVER", "Front", "Full", "Handler", "Head", "Relay", "Request", "problem_octets"]

SERVER: Final = "DigitalID"
_HEADS: Final = 4096  # that are remembered, at most
_LONGEST_HEAD: Final = 1024  # octets
_MAPPED: Final = bytes(10) + b"\xff\xff"  # the beginning of an IPv6 address that holds one of IPv4
_GRACE: Final = 1.0  # seconds for what was cut off to be gone
_STATUSES: Final[Statuses] = {
    "target-too-long": 414,
    "expectation-failed": 417,
    "header-too-large": 431,
    "http-version-not-supported": 505,
}


class Front:
    """The connections of one server, and what they share.

    ``handler`` answers what begins with one of ``prefixes`` (method, space, start of the target);
    ``fallback`` makes the protocol for connections with any other request, without it they get
    404; ``statuses``: the HTTP status by the code of what the handler rejects with.
    """

    def __init__(
        self,
        handler: Handler,
        prefixes: tuple[bytes, ...],
        *,
        fallback: Callable[[], asyncio.Protocol] | None = None,
        limits: Limits | None = None,
        statuses: Statuses | None = None,
    ) -> None:
        self.handler = handler
        self.prefixes = prefixes
        self.fallback = fallback
        self.limits = limits or Limits()
        self.under_way = 0  # requests whose answer is being made
        self.refused = 0  # requests that the handler never saw, because of what they were
        self.cut_off = 0  # connections ended because of how long something took
        self.turned_away = 0  # connections that were too many
        self.draining = False
        self.heads: dict[bytes, Head] = {}
        self.now = 0.0
        self.wait_until = 0.0
        self.tick = min(1.0, self.limits.wait / 8, self.limits.read / 8, self.limits.unread / 8)
        self._statuses = {**_STATUSES, **(statuses or {})}
        self._own: set[Connection] = set()
        self._gathered: list[Connection] = []
        self._handed_over: set[_HandedOver] = set()
        self._places: dict[bytes, int] = {}  # how many connections each has open
        self._sweeping: asyncio.TimerHandle | None = None
        self._fewer = asyncio.Event()

    @property
    def connections(self) -> int:
        """How many are open now, those included that the fallback has."""
        return len(self._own) + len(self._handed_over)

    def protocol(self) -> asyncio.Protocol:
        """The protocol of one more connection, for ``loop.create_server``."""
        if self.connections >= self.limits.connections:
            self.turned_away += 1
            return Full()
        return Connection(self)

    async def drain(
        self, seconds: float, *, idle: float | None = None, fallback: bool = True
    ) -> None:
        """Let every connection end, and return when none is left.

        From now on each answer of the front says that its connection ends. ``idle``: seconds in
        which a connection may still bring one more request, all of them if not given;
        ``seconds``: until what is under way is given up. ``fallback``: whether what was handed
        over is waited for, and cut off, as well; otherwise somebody else sees to it.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        await self._until_empty(self._own, end if idle is None else min(end, loop.time() + idle))
        for connection in list(self._own):
            connection.close_if_idle()
        await self._until_empty(self._own, end)
        for connection in list(self._own):
            connection.give_up()
        await self._until_empty(self._own, loop.time() + _GRACE)
        if fallback:
            await self._until_empty(self._handed_over, end)
            for handed_over in list(self._handed_over):
                handed_over.transport.abort()
            await self._until_empty(self._handed_over, loop.time() + _GRACE)

    async def _until_empty(self, some: set[Connection] | set[_HandedOver], end: float) -> None:
        while some and (left := end - asyncio.get_running_loop().time()) > 0:
            self._fewer.clear()
            try:
                async with asyncio.timeout(left):
                    await self._fewer.wait()
            except TimeoutError:
                return

    # What its connections use

    @property
    def hands_over(self) -> bool:
        return self.fallback is not None

    def opened(self, connection: Connection) -> None:
        if self.limits.per_address and not self._enter(connection):
            self.turned_away += 1
            full = Full()
            connection.transport.set_protocol(full)
            full.connection_made(connection.transport)
            return
        self._own.add(connection)
        if self._sweeping is None:
            self.now = asyncio.get_running_loop().time()
            self._sweep()

    def ended(self, connection: Connection) -> None:
        if connection in self._own:
            self._own.discard(connection)
            self._leave(connection.place)
        self._fewer.set()

    def gather(self, connection: Connection) -> None:
        """Write its answers at the end of this turn of the loop, together with those of others:
        a client that waits is woken up by the first of them, and has the rest at once."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._write_gathered)
        self._gathered.append(connection)

    def _write_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for connection in gathered:
            connection.write_gathered()

    def hand_over(self, connection: Connection, data: bytes) -> None:
        """Give the connection to the fallback, with the octets that are none of ours."""
        assert self.fallback is not None  # noqa: S101 - the connection has asked
        transport = connection.transport
        other = _HandedOver(self.fallback(), transport, self._back, connection.place)
        connection.place = b""  # it counts with the other
        self._handed_over.add(other)
        self.ended(connection)
        transport.set_protocol(other)
        other.connection_made(transport)
        other.data_received(data)

    def read_head(self, octets: bytes) -> Head:
        """Judge the header of a request, and remember it if the handler is asked. Errors: those of
        ``infra.http.message.read_head``."""
        head = read_head(octets, self.limits)
        if len(octets) <= _LONGEST_HEAD and octets.startswith(self.prefixes):
            if len(self.heads) >= _HEADS:
                self.heads.clear()
            self.heads[octets] = head
        return head

    def not_found(self, request: Request) -> bytes:
        raise Rejected("not-found", "nothing is served here")

    def problem(self, error: BaseException) -> bytes:
        """The answer that tells of ``error``."""
        if isinstance(error, Failure):
            return problem_octets(problem_of(error, self._statuses))
        return problem_octets(incident(error))

    def _back(self, connection: _HandedOver) -> None:
        self._handed_over.discard(connection)
        self._leave(connection.place)
        self._fewer.set()

    def _enter(self, connection: Connection) -> bool:
        """Whether the client may have one more connection."""
        peer = connection.transport.get_extra_info("peername")
        if not isinstance(peer, tuple):  # a Unix socket's, or it is gone already
            return True
        place = place_of(peer[0])
        open_ = self._places.get(place, 0)
        if open_ >= self.limits.per_address:
            return False
        connection.place = place
        self._places[place] = open_ + 1
        return True

    def _leave(self, place: bytes) -> None:
        if place:
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

    def _sweep(self) -> None:
        """End what takes too long: one timer for all connections, so that a request costs none."""
        loop = asyncio.get_running_loop()
        before, self.now = self.now, loop.time()
        self.wait_until = self.now + self.tick + self.limits.wait
        if self.now - before > 2 * self.tick:
            # While the loop stood still nothing was read: that time is not the clients'.
            for connection in self._own:
                connection.until += self.now - before
        for connection in [one for one in self._own if one.until < self.now]:
            connection.too_late()
        self._sweeping = loop.call_later(self.tick, self._sweep) if self._own else None


class _HandedOver(asyncio.Protocol):
    """A connection that is another's now, and still counts."""

    def __init__(
        self,
        other: asyncio.Protocol,
        transport: asyncio.Transport,
        gone: Callable[[_HandedOver], None],
        place: bytes,
    ) -> None:
        self.transport = transport
        self.place = place
        self._gone = gone
        self._other = other
        self.connection_made = other.connection_made  # type: ignore[method-assign]
        self.data_received = other.data_received  # type: ignore[method-assign]
        self.eof_received = other.eof_received  # type: ignore[method-assign]
        self.pause_writing = other.pause_writing  # type: ignore[method-assign]
        self.resume_writing = other.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(self)
        self._other.connection_lost(error)


def place_of(address: str) -> bytes:
    """What the connections of one client have in common: an IPv4 address, also where it stands in
    one of IPv6, or the first half of one of IPv6, which leaves the other to its user (RFC 4291
    §2.5.4, §2.5.5.2)."""
    if ":" not in address:
        return socket.inet_pton(socket.AF_INET, address)
    octets = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    return octets[12:] if octets.startswith(_MAPPED) else octets[:8]


class Full(asyncio.Protocol):
    """Turns a connection away that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        turned_away = cast(asyncio.WriteTransport, transport)
        turned_away.write(FULL)
        turned_away.close()


def problem_octets(problem: Problem) -> bytes:
    """A problem document as a whole answer, with nothing said of the connection."""
    response = problem.response()
    body = cast(bytes, response.body)
    fields = {
        **response.headers,
        "Content-Length": str(len(body)),
        "Server": SERVER,
        "X-Content-Type-Options": "nosniff",
    }
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body
