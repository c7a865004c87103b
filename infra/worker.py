"""A process of our own that works questions off, for what would keep the event loop busy.

A question costs the loop some twenty microseconds. They are answered in order, so they carry no
numbers. The process ends when the
socket between the two does, whichever side that is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from infra.collection import settle
from infra.errors import Broken, Unavailable

MAX_MESSAGE: Final = 16 * 1024 * 1024
_CHUNK: Final = 256 * 1024
_TOGETHER: Final = 4  # answers
_PATIENCE: Final = 5.0  # seconds for the process to end by itself


class Worker:
    """One such process, of the module ``module``, which calls ``work`` when it is run.

    ``arguments``: for the module, ``sys.argv[2:]`` there; ``patience``: seconds without any answer
    after which it is ended. It is started by the first question, and again by the next one after
    it died.
    """

    def __init__(self, module: str, *arguments: str, patience: float = 30.0) -> None:
        self._module = module
        self._patience = patience
        self._arguments = arguments
        self._line: _Line | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def ask(self, question: bytes) -> bytes:
        """The answer. Errors: ``Unavailable("worker-died")`` when the process ended meanwhile:
        ask again if asking twice does no harm."""
        line = self._line
        if line is None or line.broken:
            line = await self._start()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        line.put(question, answer)
        return await answer

    async def close(self) -> None:
        """End the process, after the questions that it was asked."""
        self._closed = True
        async with self._starting:
            if self._line is not None:
                await self._line.close()

    async def _start(self) -> _Line:
        async with self._starting:
            if self._closed:
                raise Unavailable("worker-died", f"{self._module} is closed")
            if self._line is not None:
                if not self._line.broken:
                    return self._line
                await self._line.close()
            ours, theirs = socket.socketpair()
            with theirs:
                process = await asyncio.to_thread(
                    _spawn, self._module, theirs.fileno(), self._arguments
                )
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            _, line = await loop.create_connection(
                lambda: _Line(process, self._patience), sock=ours
            )
            self._line = line
            return line


class _Line(asyncio.Protocol):
    """The questions under way, and the answers as they come."""

    def __init__(self, process: subprocess.Popen[bytes], patience: float) -> None:
        self._process = process
        self._patience = patience
        self._answered = 0
        self._watch: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._incoming = bytearray()
        self._transport: asyncio.Transport | None = None
        self.broken = False

    def put(self, question: bytes, answer: asyncio.Future[bytes]) -> None:
        # At once: while the loop goes on with other callers, the process works on this one.
        if self._transport is not None:
            self._transport.write(_frame(question))
        self._waiting.append(answer)
        if self._watch is None:
            self._look_later()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of a stream socket

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        messages, used = _messages(self._incoming)
        del self._incoming[:used]
        self._answered += len(messages)
        for message in messages:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = True
        if self._watch is not None:
            self._watch.cancel()
        for future in self._waiting:
            if not future.done():
                future.set_exception(Unavailable("worker-died", "a helper process died; try again"))
        self._waiting.clear()

    def _look_later(self) -> None:
        # One timer for all who wait: the process answers in order, so any answer is a sign of life.
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(self._patience, self._look, self._answered)

    def _look(self, answered: int) -> None:
        self._watch = None
        if not self._waiting:
            return
        if self._answered == answered:
            self._process.kill()
        else:
            self._look_later()

    async def close(self) -> None:
        while self._waiting and not self.broken:
            await asyncio.wait([self._waiting[-1]])
        if self._transport is not None:
            self._transport.close()
        try:
            await asyncio.to_thread(self._process.wait, _PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def work(answer: Callable[[bytes], bytes]) -> None:
    """In the process: answer questions until the other side is gone. ``answer`` raises nothing."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    settle()
    with suppress(OSError), socket.socket(fileno=int(sys.argv[1])) as line:
        incoming = bytearray()
        while data := line.recv(_CHUNK):
            incoming += data
            questions, used = _messages(incoming)
            del incoming[:used]
            # A few at a time: the other side goes on with the first while this works on the next
            # ones, and neither wakes the other for each.
            for first in range(0, len(questions), _TOGETHER):
                few = questions[first : first + _TOGETHER]
                line.sendall(b"".join([_frame(answer(question)) for question in few]))
    os._exit(0)  # nothing to put in order: what was asked is answered


def _spawn(module: str, descriptor: int, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, str(descriptor), *arguments],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent, which ends us in order
    )


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def _messages(data: bytearray) -> tuple[list[bytes], int]:
    """The whole messages at the beginning of ``data``, and how many octets they take."""
    found = []
    position = 0
    while len(data) - position >= 4:
        length = int.from_bytes(data[position : position + 4], "big")
        if length > MAX_MESSAGE:
            raise Broken("worker-nonsense", "a message between processes is too long")
        if len(data) - position - 4 < length:
            break
        found.append(bytes(data[position + 4 : position + 4 + length]))
        position += 4 + length
    return found, position
