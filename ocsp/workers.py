"""The processes that share the responder's port, and whoever keeps them running.

Each has a listening socket of its own on the one port (SO_REUSEPORT), which is made here and
handed down. So a process that is replaced, or dies, leaves its queue of connections to the next.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import reduce
from itertools import chain
from operator import add
from typing import Final

import msgspec

from infra import child
from infra.errors import Rejected, Unavailable
from infra.framing import receive, send
from ocsp.metrics import OcspMetrics
from ocsp.worker import (
    DelegateKey,
    Drain,
    Install,
    Measure,
    Measured,
    Order,
    Refused,
    Report,
    Setup,
    encode,
)

_PATIENCE: Final = 30.0  # seconds for an answer to an order
_ONE_MORE: Final = 1.0  # seconds in which an idle connection may bring one more request at the end
_PAUSES: Final = (0.1, 0.5, 2.0, 5.0)  # seconds before a process that died is replaced
_TRIES: Final = (0.1, 0.3, 1.0)  # seconds before a process that saw no token is tried again
_AWAY: Final = "token-unavailable"

_log = logging.getLogger(__name__)
_decode_report: Final = msgspec.msgpack.Decoder(Report).decode


class Workers:
    """One process for each of ``sockets`` (``infra.http.app.bind_shared``), which are closed with
    it. ``setup``: what a new one is told, ``listeners`` aside."""

    def __init__(
        self, sockets: Sequence[Sequence[socket.socket]], setup: Callable[[], Setup]
    ) -> None:
        self._sockets = sockets
        self._setup = setup
        self._lines: list[_Line | None] = [None] * len(sockets)
        self._keepers: list[asyncio.Task[None]] = []
        self._replacing = asyncio.Lock()

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [line.pid for line in self._lines if line is not None]

    async def start(self) -> None:
        """Start them all, or none. Errors: what a process refuses, such as a key that it cannot
        open."""
        places = range(len(self._sockets))
        try:
            filled = await asyncio.gather(*map(self._fill, places), return_exceptions=True)
            for error in filled:
                if error is not None:
                    raise error
        except BaseException:
            await self.stop(0.0)
            raise
        self._keepers = [asyncio.create_task(self._keep(place)) for place in places]

    async def install(self, delegates: Sequence[DelegateKey]) -> None:
        """Let these delegates sign in every process; those that start later learn of them from
        ``setup``. Errors: what a process refuses, once all were told."""
        refused: Refused | None = None
        async with self._replacing:
            for line in self._lines:
                if line is not None:
                    with suppress(Unavailable):  # it died, and another one is started
                        report = await line.order(Install(delegates))
                        refused = report if isinstance(report, Refused) else refused
        if refused is not None:
            raise Rejected(refused.code, refused.detail)

    async def measure(self) -> OcspMetrics:
        """The metrics of all together; a process that does not answer is left out."""
        found = []
        for line in self._lines:
            if line is not None:
                with suppress(Unavailable):
                    report = await line.order(Measure())
                    if isinstance(report, Measured):
                        found.append(report.metrics)
        return reduce(add, found, OcspMetrics())

    async def restart(self, seconds: float) -> None:
        """Replace each process by a new one, with no connection lost: the old one gets
        ``seconds`` to end what it has."""
        async with self._replacing:
            for place, bound in enumerate(self._sockets):
                new = await self._started(bound)
                old, self._lines[place] = self._lines[place], new
                if old is not None:
                    await old.end(seconds, idle=seconds)

    async def stop(self, seconds: float) -> None:
        """End them all; what is under way gets ``seconds``."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        async with self._replacing:
            lines, self._lines[:] = list(self._lines), [None] * len(self._lines)
            await asyncio.gather(
                *(line.end(seconds, idle=_ONE_MORE) for line in lines if line is not None)
            )
            for bound in chain.from_iterable(self._sockets):
                bound.close()
            self._sockets = ()

    async def _keep(self, place: int) -> None:
        """Replace the process of this place whenever it dies."""
        failures = 0
        while True:
            line = self._lines[place]
            if line is not None:
                await line.ended.wait()
                if line.ending or self._lines[place] is not line:
                    await asyncio.sleep(0)
                    if self._lines[place] is line:
                        return
                    continue
                _log.error("an OCSP process died; another one is started")
                self._lines[place] = None
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            try:
                async with self._replacing:
                    if self._lines[place] is None:  # else `restart` was faster
                        await self._fill(place)
                failures = 0
            except (Rejected, Unavailable) as error:
                failures += 1
                _log.error("an OCSP process could not be started: %s", error)

    async def _fill(self, place: int) -> None:
        self._lines[place] = await self._started(self._sockets[place])

    async def _started(self, sockets: Sequence[socket.socket]) -> _Line:
        for pause in _TRIES:
            try:
                return await self._try_to_start(sockets)
            except Rejected as rejected:
                if rejected.code != _AWAY:
                    raise
                # SoftHSM shows no token to who looks while another process logs in to it.
                _log.warning("an OCSP process is started again: %s", rejected)
            await asyncio.sleep(pause)
        return await self._try_to_start(sockets)

    async def _try_to_start(self, sockets: Sequence[socket.socket]) -> _Line:
        listeners = [bound.fileno() for bound in sockets]
        setup = msgspec.structs.replace(self._setup(), listeners=listeners)
        starting = asyncio.create_task(_Line.start(listeners))
        try:
            line = await asyncio.shield(starting)
            report = await line.order(setup)
        except BaseException:  # also when this is cancelled, which a process does not hear of
            line = await starting
            await line.end(0.0, idle=0.0)
            raise
        if isinstance(report, Refused):
            await line.end(0.0, idle=0.0)
            raise Rejected(report.code, report.detail)
        return line


class _Line:
    """One process: orders go out, reports come back in their order."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._writer = writer
        self._waiting: deque[asyncio.Future[Report]] = deque()
        self.ended = asyncio.Event()
        self.ending = False
        self._listening = asyncio.create_task(self._listen(reader))

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, listeners: Sequence[int]) -> _Line:
        """Errors: ``worker-not-started``."""
        try:
            process, ours = await child.start(lambda descriptor: _spawn(descriptor, listeners))
        except OSError as error:
            raise Unavailable(
                "worker-not-started", f"an OCSP process cannot be started: {error}"
            ) from error
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            process.kill()
            await child.ended(process)
            raise
        return cls(process, reader, writer)

    async def order(self, order: Order) -> Report:
        """Errors: ``Unavailable("worker-died")``, also when no report comes in time."""
        if self.ended.is_set():
            raise _died()
        report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._waiting.append(report)
        patience = _PATIENCE + (order.seconds if isinstance(order, Drain) else 0.0)
        try:
            async with asyncio.timeout(patience):
                with suppress(ConnectionError):
                    await send(self._writer, encode(order))
                return await report
        except TimeoutError as error:
            self._process.kill()
            raise _died() from error
        finally:
            report.cancel()  # nobody waits for it any more

    async def end(self, seconds: float, *, idle: float) -> None:
        """Let it finish what it has, and see it end."""
        self.ending = True
        with suppress(Unavailable):
            await self.order(Drain(seconds, idle))
        self._writer.close()
        await child.ended(self._process)
        await self._listening

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                report = _decode_report(await receive(reader))
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(report)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except (msgspec.MsgspecError, IndexError):
            _log.exception("an OCSP process talks nonsense")
            self._process.kill()
        self.ended.set()
        self._writer.close()
        for future in self._waiting:
            if not future.done():
                future.set_exception(_died())
        await asyncio.to_thread(self._process.wait)


def _died() -> Unavailable:
    return Unavailable("worker-died", "an OCSP process died")


def _spawn(control: int, listeners: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ocsp.worker", str(control)],
        pass_fds=(control, *listeners),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
