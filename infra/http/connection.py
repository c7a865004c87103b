"""One connection of the front: requests of ours in, whole answers out, in the same order.

llhttp decides what is HTTP; here is what it leaves open: how long everything may be and take, and
what becomes of the connection. It is given a header when that is whole, and only when no such
header was seen before: clients send the same octets again and again. So the place where each
request ends is known, and no request is looked at before its turn.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Final, Protocol, cast

from infra.eager import begin
from infra.errors import Rejected
from infra.http.limits import Limits
from infra.http.message import (
    CLOSES,
    MOST_LINES,
    STAYS,
    Answer,
    Body,
    Handler,
    Head,
    Request,
)

_AHEAD: Final = 16  # requests of one connection that are under way, at most
_LINGER: Final = 1.0  # seconds for a client to read why what it sends is not read
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Owner(Protocol):
    """What the connections of one front share. ``now``: the loop's time, at most ``tick`` seconds
    ago; ``wait_until``: when it is too late for a header that is waited for from now on; ``heads``:
    those of requests for the handler that were seen before, by their octets."""

    prefixes: tuple[bytes, ...]
    handler: Handler
    heads: dict[bytes, Head]
    limits: Limits
    tick: float
    now: float
    wait_until: float
    draining: bool
    under_way: int
    refused: int
    cut_off: int

    @property
    def hands_over(self) -> bool: ...
    def opened(self, connection: Connection) -> None: ...
    def ended(self, connection: Connection) -> None: ...
    def gather(self, connection: Connection) -> None: ...
    def hand_over(self, connection: Connection, data: bytes) -> None: ...
    def read_head(self, octets: bytes) -> Head: ...
    def not_found(self, request: Request) -> bytes: ...
    def problem(self, error: BaseException) -> bytes: ...


class Connection(asyncio.Protocol):
    """A connection that has brought none but our requests so far."""

    __slots__ = (
        "_answers",
        "_blocked",
        "_body",
        "_ended",
        "_leaves_unread",
        "_lost",
        "_no_more",
        "_owner",
        "_paused",
        "_rest",
        "_taken_until",
        "place",
        "transport",
        "until",
    )
    transport: asyncio.Transport

    def __init__(self, owner: Owner) -> None:
        self.until = math.inf  # when it is too late for what is waited for, in the loop's time
        self.place = b""  # of the client, for the front, which counts by it
        self._owner = owner
        self._answers: deque[Answer] = deque()
        self._rest = b""  # what came and cannot be dealt with yet
        self._body: Body | None = None
        self._paused = False  # nothing is read
        self._blocked = False  # the client does not take its answers
        self._no_more = False  # no further request is read
        self._leaves_unread = False  # the client may be sending what nobody will read
        self._ended = False  # the last answer is written
        self._taken_until = math.inf  # when it is too late for the client to have taken that
        self._lost = False

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is of no such class
        self._owner.opened(self)
        self.until = self._owner.wait_until

    def data_received(self, data: bytes) -> None:
        if self._no_more:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        self._read(data)

    def eof_received(self) -> bool:
        if not self._answers or not self.transport.can_write_eof():
            return False  # over TLS no connection is half closed
        self._no_more = True
        self._body, self._rest = None, b""
        self._answers[-1].says = CLOSES
        return True

    def pause_writing(self) -> None:
        self._blocked = True
        if not self._ended:
            self._pause()
            self.until = self._late(self._owner.limits.unread)

    def resume_writing(self) -> None:
        self._blocked = False
        if not self._ended:
            self._wait()
            self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._no_more = True
        self.until = math.inf
        self._forget()

    # What the front calls

    def too_late(self) -> None:
        """End it: what was waited for has not come."""
        unwritten = self.transport.get_write_buffer_size()
        if self._ended and unwritten and self._owner.now < self._taken_until:
            self.until = self._taken_until
        elif self._ended or self._blocked:
            self._owner.cut_off += 1
            self.until = math.inf
            self.transport.abort()
        elif self._body is not None or self._rest:
            self._owner.cut_off += 1
            self._refuse(Rejected("request-timeout", "the request was not complete in time"))
        else:
            self._end()

    def write_gathered(self) -> None:
        """Write the answers that are made by now."""
        answers, owner = self._answers, self._owner
        if self._lost:
            self._forget()
        elif len(answers) == 1 and not (answers[0].says or self._rest or owner.draining):
            octets = answers[0].octets
            if octets is not None:
                self.transport.write(answers.popleft().on_the_wire(octets))
                self._wait()
        elif not (self._ended or self.transport.is_closing()):
            self._flush(more=bool(self._rest or self._body))
            self._go_on()

    def close_if_idle(self) -> None:
        """End it unless a request is under way."""
        if not (self._answers or self._body or self._rest or self._ended):
            self._leaves_unread = True
            self._end()

    def give_up(self) -> None:
        """End it at once, and what it has under way."""
        for answer in self._answers:
            if answer.task is not None:
                answer.task.cancel()
        self.transport.abort()

    # Requests

    def _read(self, data: bytes) -> None:
        while data and not self._no_more:
            data = self._request(data) if self._body is None else self._more(self._body, data)

    def _request(self, data: bytes) -> bytes:
        """Take one request from ``data``, or what there is of it; what is left is returned."""
        owner = self._owner
        if self._blocked or len(self._answers) >= _AHEAD:
            return self._hold(data)
        end = data.find(b"\r\n\r\n") + 4
        head = owner.heads.get(data[:end])
        if head is None:
            return self._unknown(data)
        return self._take(owner.handler, head, data, end)

    def _unknown(self, data: bytes) -> bytes:
        """Take a request whose header was not seen before."""
        owner = self._owner
        handler = owner.handler
        if not data.startswith(owner.prefixes):
            data = data.lstrip(b"\r\n")  # RFC 9112 §2.2: what some put behind a body
            if any(prefix.startswith(data[: len(prefix)]) for prefix in owner.prefixes):
                pass
            elif not owner.hands_over:
                handler = owner.not_found
            elif self._answers:
                return self._hold(data)
            else:
                self._no_more = True
                owner.hand_over(self, data)
                return b""
        end = data.find(b"\r\n\r\n") + 4
        line, most = data.find(b"\r\n"), owner.limits.line
        if line > most or (line < 0 and len(data) > most):
            return self._refuse(Rejected("target-too-long", f"a line has at most {most} octets"))
        if max(end, len(data) if end < 4 else 0) > MOST_LINES * most:
            return self._refuse(Rejected("header-too-large", "send fewer or shorter fields"))
        if end < 4:
            self._rest = data
            return b""
        try:
            head = owner.read_head(data[:end])
        except Rejected as error:
            return self._refuse(error)
        return self._take(handler, head, data, end)

    def _take(self, handler: Handler, head: Head, data: bytes, end: int) -> bytes:
        """Take a request whose header, which ends at ``end``, is this."""
        request = Request(head, self.transport)
        stop = end + head.length
        if head.chunked or len(data) < stop:
            self._body = Body(handler, request, self._owner.limits)
            self.until = self._late(self._owner.limits.read)
            # RFC 9110 §10.1.1: unless the body comes anyway.
            if head.expects and len(data) == end:
                self._answers.append(Answer(_CONTINUE, STAYS))
                self._flush(more=True)
            return data[end:]
        if stop > end:
            request.body = data[end:stop]
        data = data[stop:]
        self._answer(handler, request, head.says, data)
        return data

    def _more(self, body: Body, data: bytes) -> bytes:
        """Take what ``data`` has of the body; what is left of it is returned."""
        try:
            rest = body.take(data)
        except Rejected as error:
            return self._refuse(error)
        if not body.complete:
            return b""
        self._body = None
        if body.too_far:  # where the next request begins is lost: the client repeats it
            self._leaves_unread = True
        says = CLOSES if body.too_far else body.request.head.says
        self._answer(body.handler, body.request, says, rest)
        return rest

    # Answers

    def _answer(self, handler: Handler, request: Request, says: bytes, rest: bytes) -> None:
        """Have the answer made. ``rest``: what came behind the request."""
        owner = self._owner
        made: bytes | asyncio.Future[bytes]
        try:
            answer = handler(request)
            made = answer if type(answer) is bytes else _begin(answer)
        except Exception as error:
            made = owner.problem(error)
        bodiless = request.head.method == b"HEAD"
        if type(made) is bytes:
            if not (says or self._answers or owner.draining or bodiless or request.gathered):
                self.until = owner.wait_until
                self.transport.write(made)
                return
            self._answers.append(Answer(made, says, bodiless))
            if request.gathered and says is STAYS:
                self.until = math.inf
                owner.gather(self)
                return
        else:
            place = Answer(None, says, bodiless)
            place.task = cast(asyncio.Future[bytes], made)
            place.task.add_done_callback(partial(self._made, place))
            self._answers.append(place)
            owner.under_way += 1
        if says is CLOSES:
            self._no_more = True
            self._leaves_unread = self._leaves_unread or bool(rest)
        self._flush(more=bool(rest))

    def _made(self, answer: Answer, task: asyncio.Future[bytes]) -> None:
        """A task has ended."""
        self._owner.under_way -= 1
        answer.task = None
        answer.octets = b""
        if task.cancelled():
            self.transport.abort()
        elif (error := task.exception()) is not None:
            answer.octets = self._owner.problem(error)
        elif type(octets := task.result()) is bytes:
            answer.octets = octets
        else:
            answer.octets = self._owner.problem(TypeError(f"an answer is octets: {octets!r:.50}"))
        if self._lost:
            self._forget()
        else:
            self._owner.gather(self)

    def _flush(self, *, more: bool) -> None:
        """Write the answers whose turn it is. ``more``: the client has asked for more already."""
        answers = self._answers
        while answers and (octets := answers[0].octets) is not None:
            answer = answers.popleft()
            if self._owner.draining and not answers and not more and answer.says is not CLOSES:
                answer.says = CLOSES
                self._leaves_unread = True
            self.transport.write(answer.on_the_wire(octets))
            if answer.says is CLOSES:
                self._end()
                return
        if self._body is None and not self._blocked:
            self._wait()

    def _refuse(self, error: Rejected) -> bytes:
        """Answer that it cannot be, and read nothing more."""
        self._owner.refused += 1
        self._no_more = self._leaves_unread = True
        self._body, self._rest = None, b""
        self._answers.append(Answer(self._owner.problem(error), CLOSES))
        self._flush(more=False)
        return b""

    # The connection

    def _end(self) -> None:
        """Close it, once the client has taken what is written."""
        self._no_more = self._ended = True
        self._body, self._rest = None, b""
        self._taken_until = self._late(self._owner.limits.unread)
        if self._leaves_unread and self.transport.can_write_eof():
            # RFC 9112 §9.6: a close with something unread could cost the client the answer.
            self.transport.write_eof()
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
            self.until = self._late(_LINGER)
        else:
            self.transport.close()
            self.until = self._taken_until

    def _hold(self, data: bytes) -> bytes:
        """Put off what the client asks for until it has taken its answers."""
        self._rest = data
        self._pause()
        return b""

    def _pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def _go_on(self) -> None:
        if self._blocked or self._no_more:
            return
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        data, self._rest = self._rest, b""
        self._read(data)

    def _wait(self) -> None:
        """Begin to wait for the client, if it is its turn."""
        if self._body is not None:
            self.until = self._late(self._owner.limits.read)
        else:
            self.until = math.inf if self._answers else self._owner.wait_until

    def _late(self, seconds: float) -> float:
        return self._owner.now + self._owner.tick + seconds

    def _forget(self) -> None:
        """The connection is gone; it counts until what it asked for is done."""
        if all(answer.octets is not None for answer in self._answers):
            self._owner.ended(self)


def _begin(made: bytes | Awaitable[bytes]) -> bytes | asyncio.Future[bytes]:
    if isinstance(made, Coroutine):
        begun: bytes | asyncio.Task[bytes] = begin(made)
        return begun
    return made if isinstance(made, bytes) else asyncio.ensure_future(made)
