"""A process of our own that works questions off, for what would keep the event loop busy.

A question costs the loop some twenty microseconds. They are answered in order, so they carry no
numbers. The process ends when the socket between the two does, whichever side that is.
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

from infra import child
from infra.collection import settle
from infra.errors import Unavailable
from infra.framing import Frames, frame

_CHUNK: Final = 256 * 1024
_TOGETHER: Final = 4  # answers


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

    async def kill(self) -> None:
        """End the process at once; the next question starts another one."""
        async with self._starting:
            line, self._line = self._line, None
            if line is not None:
                await line.kill()

    async def _start(self) -> _Line:
        async with self._starting:
            if self._closed:
                raise Unavailable("worker-died", f"{self._module} is closed")
            if self._line is not None:
                if not self._line.broken:
                    return self._line
                await self._line.close()
            process, ours = await child.start(
                lambda descriptor: _spawn(self._module, descriptor, self._arguments)
            )
            line = _Line(process, self._patience)
            try:
                await asyncio.get_running_loop().create_connection(lambda: line, sock=ours)
            except BaseException:
                await line.close()
                raise
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
        self._settled = asyncio.Event()  # nobody waits
        self._settled.set()
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self.broken = False

    def put(self, question: bytes, answer: asyncio.Future[bytes]) -> None:
        if self.broken:
            answer.set_exception(_died())
            return
        # At once: while the loop goes on with other callers, the process works on this one.
        if self._transport is not None:
            self._transport.write(frame(question))
        self._waiting.append(answer)
        self._settled.clear()
        if self._watch is None:
            self._look_later()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of a stream socket

    def data_received(self, data: bytes) -> None:
        messages = self._frames.feed(data)
        self._answered += len(messages)
        for message in messages:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(message)
        if not self._waiting:
            self._settled.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = True
        if self._watch is not None:
            self._watch.cancel()
        for future in self._waiting:
            if not future.done():
                future.set_exception(_died())
        self._waiting.clear()
        self._settled.set()

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

    async def kill(self) -> None:
        self._process.kill()
        if self._transport is not None:
            self._transport.abort()
        await child.ended(self._process)

    async def close(self) -> None:
        while self._waiting:
            await self._settled.wait()
        if self._transport is not None:
            self._transport.close()
        await child.ended(self._process)


def _died() -> Unavailable:
    return Unavailable("worker-died", "a helper process died; try again")


def work(answer: Callable[[bytes], bytes]) -> None:
    """In the process: answer questions until the other side is gone. ``answer`` raises nothing."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    settle()
    with suppress(OSError), socket.socket(fileno=int(sys.argv[1])) as line:
        frames = Frames()
        while data := line.recv(_CHUNK):
            questions = frames.feed(data)
            # A few at a time: the other side goes on with the first while this works on the next
            # ones, and neither wakes the other for each.
            for first in range(0, len(questions), _TOGETHER):
                few = questions[first : first + _TOGETHER]
                line.sendall(b"".join([frame(answer(question)) for question in few]))
    os._exit(0)  # nothing to put in order: what was asked is answered


def _spawn(module: str, descriptor: int, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, str(descriptor), *arguments],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent, which ends us in order
    )
