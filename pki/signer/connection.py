"""The way to a token process: requests, their answers, and what they become when it is lost."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import msgspec

from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.framing import Frames
from pki.signer.messages import (
    Answer,
    Failed,
    KeyFound,
    KeyMade,
    KeyOpened,
    Request,
    Signed,
    Started,
    frame,
)

FIRST_DELAY: Final = 0.25
"""Seconds until the second attempt to reach a token."""

_DECODER: Final = msgspec.msgpack.Decoder(Answer)

Expected = TypeVar("Expected", Started, KeyOpened, KeyFound, KeyMade)


class Connection(asyncio.Protocol):
    """A token process and the requests that it has not answered yet; ``tell``: called when it is
    lost."""

    def __init__(
        self, process: subprocess.Popen[bytes], patience: float, tell: Callable[[], None]
    ) -> None:
        self.lost: str | None = None
        self._process = process
        self._patience = patience
        self._tell = tell
        self._frames = Frames()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._outgoing: list[bytes] = []
        self._last_id = 0
        self._watch: asyncio.TimerHandle | None = None

    def request(self, request_of: Callable[[int], Request]) -> asyncio.Future[Any]:
        """Send a request under a new number; the future is its answer."""
        if self.lost is not None:
            raise _away(self.lost)
        message = frame(request_of(self._last_id + 1))  # first: it may ask for a PIN, in vain
        self._last_id += 1
        answer = self._loop.create_future()
        self._waiting[self._last_id] = answer
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(message)
        if self._watch is None:
            self._watch_from_now()
        return answer

    async def ask(self, expected: type[Expected], request_of: Callable[[int], Request]) -> Expected:
        """Send a request and wait for an answer of this type."""
        answer = await self.request(request_of)
        if not isinstance(answer, expected):
            raise Broken("bad-token-answer", f"{type(answer).__name__} is not {expected.__name__}")
        return answer

    def lose(self, why: str) -> None:
        """Give the process up: whoever waits for it hears that the token is away."""
        if self.lost is not None:
            return
        self.lost = why
        self._process.kill()
        if self._transport is not None:
            self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(_away(why))
        self._waiting.clear()
        self._outgoing.clear()
        self._tell()

    async def close(self) -> None:
        """End the process and wait until it has ended."""
        self.lose("the key store has been closed")
        await asyncio.to_thread(self._process.wait)

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            self._transport.write(b"".join(self._outgoing))
            self._outgoing.clear()

    def _watch_from_now(self) -> None:
        self._watch = self._loop.call_later(self._patience, self._look, self._last_id)

    def _look(self, asked: int) -> None:
        """Whether everything that was asked ``patience`` seconds ago has been answered."""
        self._watch = None
        if any(id <= asked for id in self._waiting):
            self.lose(f"the token has not answered for {self._patience:g} s")
        elif self._waiting:
            self._watch_from_now()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is of no such class

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            answer = _DECODER.decode(message)
            waiting = self._waiting.pop(answer.id, None)
            if isinstance(answer, Failed):
                error = _failure(answer)
                if waiting is not None and not waiting.done():
                    waiting.set_exception(error)
                if isinstance(error, Unavailable) and error.code == "token-unavailable":
                    # A session that has gone wrong does not come right by itself.
                    self.lose(error.detail)
                    return
            elif waiting is not None and not waiting.done():
                if isinstance(answer, Signed):
                    waiting.set_result(answer.signature)
                else:
                    waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose("the PKCS#11 module has crashed or was ended")


def _away(why: str) -> Unavailable:
    return Unavailable("token-unavailable", why, retry_after=FIRST_DELAY)


def _failure(answer: Failed) -> Failure:
    match answer.kind:
        case "rejected":
            return Rejected(answer.code, answer.detail)
        case "unavailable":
            return Unavailable(answer.code, answer.detail, retry_after=FIRST_DELAY)
        case _:
            return Broken(answer.code, answer.detail)
