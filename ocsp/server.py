"""OCSP over HTTP (RFC 6960 appendix A, RFC 5019 §5 and §6, RFC 9654).

A request comes from ``infra.http.front`` and its whole response goes back there. An answer that is
kept and fresh costs two look-ups; whether it is still true is seen from one number in the status
table, so a change counts for every worker at the moment in which it was made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import islice
from time import perf_counter
from typing import Final, Protocol

from aiohttp import web
from multidict import CIMultiDict

from infra.clock import Clock
from infra.eager import begin
from infra.errors import Rejected, Unavailable
from infra.http.front import Head, Request
from infra.http.limits import read_body
from ocsp.cache import AnswerCache, Kept, http_date
from ocsp.metrics import OcspMetrics
from ocsp.request import MAX_REQUEST, request_in_path
from ocsp.responder import Answer, Responder
from ocsp.response import ResponseStatus, error_response
from ocsp.source import StatusSource

PATH: Final = b"/ocsp"
PREFIXES: Final = (b"GET /ocsp/", b"POST /ocsp ", b"POST /ocsp/ ")
"""What request lines begin with that are for ``OcspServer.answer``."""

MOST_UNDER_WAY: Final = 1024
"""Signatures that a token may owe at a time; whoever comes beyond is told to try later."""
_LONGEST_KEPT: Final = 512
"""Octets of a request whose answer is kept: room for one certificate by any hash, and some more."""
_REFRESHED_AT_ONCE: Final = 16
_TRY_AGAIN: Final = 5.0  # seconds after an answer could not be refreshed
_SUCCESSFUL: Final = ResponseStatus.successful
_REQUEST_TYPE: Final = b"application/ocsp-request"
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nServer: DigitalID\r\nX-Content-Type-Options: nosniff\r\n"
    b"Content-Type: application/ocsp-response\r\nCache-Control: no-store\r\n"
    b"Date: %b\r\nContent-Length: %d\r\n\r\n"
)

_log = logging.getLogger(__name__)


class Statuses(StatusSource, Protocol):
    """The status table, as whoever keeps answers needs it (``ocsp.table.TableReader``)."""

    @property
    def counter(self) -> int:
        """How many changes of status it has seen."""

    def changed_since(self, counter: int, /) -> tuple[int, Sequence[int] | None]:
        """The counter now, and the keys that changed; None when that is not known any more."""

    def key(self, issuer: str, serial: int, /) -> int: ...


class Access(Protocol):
    """Where a line goes for each answer: nothing of who asked, nor of what was asked."""

    def __call__(self, method: str, status: str, code: str, seconds: float, /) -> None: ...


class OcspServer:
    """Answers with HTTP responses, keeping those that others may have too.

    ``issuers``: the CAs that are answered for; ``entries``: answers kept at most; ``access``: gets
    a line for each answer, if given.
    """

    def __init__(
        self,
        responder: Responder,
        statuses: Statuses,
        clock: Clock,
        *,
        issuers: Collection[str],
        entries: int,
        access: Access | None = None,
    ) -> None:
        self.metrics = OcspMetrics()
        self._responder = responder
        self._statuses = statuses
        self._clock = clock
        self.issuers = set(issuers)
        self._cache = AnswerCache(entries)
        self._access = access
        self._counter = statuses.counter
        self._making: dict[bytes, asyncio.Task[Kept | Answer]] = {}
        self._good_head: Head | None = None  # of the last POST: many are the same
        self._second = 0
        self._cut_off: frozenset[str] = frozenset()
        self._began = clock.now()
        self._known: dict[str, datetime] = {}  # by CA, for the metrics

    def answer(self, request: Request) -> bytes | Awaitable[bytes]:
        """The HTTP response. Errors: ``method-not-allowed``, ``unsupported-media-type``,
        ``request-too-large``; whatever is wrong with the OCSP request itself is an OCSP error
        (RFC 6960 A.2)."""
        started = perf_counter()
        head = request.head
        method = head.method
        if method == b"GET":
            kept = self._cache.targets.get(head.target)
        elif method == b"POST":
            kept = self._cache.requests.get(request.body)
            if head is not self._good_head:
                _require_ocsp(head)
                self._good_head = head
        else:
            raise Rejected("method-not-allowed", "OCSP is asked by GET or POST (RFC 6960 A.1)")
        now = self._clock.timestamp()
        if kept is not None and self._is_current(kept, now):
            return self._again(request, kept, int(now), started)
        if method == b"POST":
            if len(request.body) > MAX_REQUEST:
                raise Rejected(
                    "request-too-large", f"a request here has at most {MAX_REQUEST} octets"
                )
            return self._new(request, request.body, started, now)
        try:
            asked = request_in_path(head.target[len(PATH) + 1 :].decode("latin-1"))
        except Rejected as error:
            malformed = ResponseStatus.malformedRequest
            refused = Answer(error_response(malformed), malformed, error.code, None)
            return self._once(request, refused, started, now)
        kept = self._cache.requests.get(asked)
        if kept is not None and self._is_current(kept, now):
            self._cache.alias(head.target, kept)
            return self._again(request, kept, int(now), started)
        return self._new(request, asked, started, now)

    async def run(self) -> None:
        """Refresh what is asked for before it ages; until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            try:
                await self.refresh()
            except Exception:
                _log.exception("refreshing OCSP answers met a mistake in this program")

    async def refresh(self) -> None:
        """Make those answers anew whose time for that has come."""
        due = self._cache.due(self._clock.timestamp())
        while batch := list(islice(due, _REFRESHED_AT_ONCE)):
            await asyncio.gather(*(self._refresh(kept) for kept in batch))

    def measured(self) -> OcspMetrics:
        """The metrics with how things stand now."""
        now = self._clock.now()
        metrics = self.metrics
        metrics.kept = len(self._cache)
        oldest = self._cache.oldest()
        metrics.oldest = 0.0 if oldest is None else now.timestamp() - oldest
        lags = [0.0]
        for issuer in self.issuers:
            with suppress(Unavailable):  # cut off: it is further behind each time
                horizon = self._statuses.horizon(issuer, now)
                self._known[issuer] = horizon.known_at
                if horizon.until is not None:
                    continue  # it holds until then, however old it is
            lags.append((now - self._known.get(issuer, self._began)).total_seconds())
        metrics.lag = max(lags)
        return metrics

    def _is_current(self, kept: Kept, now: float) -> bool:
        if self._statuses.counter != self._counter:
            self._catch_up()
        if int(now) != self._second:
            self._look_at_source(int(now))
        return now < kept.end and not kept.dropped and kept.issuer not in self._cut_off

    def _catch_up(self) -> None:
        """Drop what is not true any more."""
        self._counter, keys = self._statuses.changed_since(self._counter)
        if keys is None:
            self._cache.clear()
        else:
            for key in keys:
                self._cache.forget(key)

    def _look_at_source(self, second: int) -> None:
        """Once a second: while the source is cut off, nothing kept may be handed out."""
        self._second = second
        now = self._clock.now()
        cut_off = set()
        for issuer in self.issuers:
            try:
                self._statuses.horizon(issuer, now)
            except Unavailable:
                cut_off.add(issuer)
        self._cut_off = frozenset(cut_off)

    def _again(self, request: Request, kept: Kept, second: int, started: float) -> bytes:
        kept.asked = True
        metrics = self.metrics
        metrics.hits += 1
        counts, status = metrics.answers, kept.status
        counts[status] = counts.get(status, 0) + 1
        head = request.head
        if self._access is not None:
            self._access(head.method.decode(), kept.status, "", perf_counter() - started)
        condition = head.condition
        # If-Modified-Since is passed over: it counts in whole seconds, and a status may change
        # twice in one (RFC 9110 §8.8.2.2).
        if (
            condition is not None
            and head.method == b"GET"
            and (kept.tag in condition or condition == b"*")
        ):
            metrics.unchanged += 1
            return kept.unchanged(second)
        return kept.response(second)

    def _new(
        self, request: Request, asked: bytes, started: float, now: float
    ) -> bytes | Awaitable[bytes]:
        """A response with an answer that has to be made."""
        making = self._making.get(asked)
        if making is None:
            if len(self._making) >= MOST_UNDER_WAY:
                later = ResponseStatus.tryLater
                overloaded = Answer(error_response(later), later, "overloaded", None)
                return self._once(request, overloaded, started, now)
            if self._statuses.counter != self._counter:
                self._catch_up()
            counter = self._counter
            answer = self._begin(asked)
            if isinstance(answer, Answer):
                request.gathered = True
                made = self._finish(asked, answer, started)
                return self._first(request, made, started, now)
            task = asyncio.get_running_loop().create_task(self._make(asked, answer, counter))
            making = self._making[asked] = task
        # Else somebody has just asked the same, and a token is slow.
        return self._made(request, making, started)

    async def _made(
        self, request: Request, making: asyncio.Task[Kept | Answer], started: float
    ) -> bytes:
        return self._first(request, await asyncio.shield(making), started, self._clock.timestamp())

    async def _make(
        self, asked: bytes, pending: asyncio.Task[Answer], counter: int
    ) -> Kept | Answer:
        started = perf_counter()
        try:
            return self._finish(asked, await self._true(asked, pending, counter), started)
        finally:
            # At once, so that nobody joins who may know of a change that it does not tell.
            self._making.pop(asked, None)

    def _finish(self, asked: bytes, answer: Answer, started: float) -> Kept | Answer:
        """Count a new answer that is true now, and keep it if others may have it."""
        if answer.status is _SUCCESSFUL:
            self.metrics.signed += 1
            self.metrics.sign(perf_counter() - started)
        if answer.freshness is None or (kept := self._keep(asked, answer)) is None:
            return answer
        self.metrics.hits -= 1  # it was made for one of those who get it
        return kept

    def _first(self, request: Request, made: Kept | Answer, started: float, now: float) -> bytes:
        """The response with an answer that was just made, to one of those who waited for it."""
        if isinstance(made, Answer):
            return self._once(request, made, started, now)
        if request.head.method == b"GET":
            self._cache.alias(request.head.target, made)
        return self._again(request, made, int(now), started)

    def _begin(self, asked: bytes) -> Answer | asyncio.Task[Answer]:
        try:
            return begin(self._responder.answer(asked))
        except Exception:
            return _mistake()

    async def _true(
        self, asked: bytes, pending: Answer | asyncio.Task[Answer], counter: int
    ) -> Answer:
        """An answer that was still true when its signature was finished. ``counter``: as it was
        before the status was looked up for ``pending``."""
        while isinstance(pending, asyncio.Task):
            try:
                answer = await pending
            except Exception:
                return _mistake()
            if not self._has_changed(answer, counter):
                return answer
            counter = self._statuses.counter
            pending = self._begin(asked)
        return pending

    def _has_changed(self, answer: Answer, counter: int) -> bool:
        """Whether anything that it tells may have changed since."""
        if self._statuses.counter == counter:
            return False
        _, changed = self._statuses.changed_since(counter)
        about = {self._statuses.key(*one) for one in answer.about}
        return changed is None or not about.isdisjoint(changed)

    def _keep(self, asked: bytes, answer: Answer) -> Kept | None:
        """Keep an answer that is true now, if others may have it."""
        freshness = answer.freshness
        if freshness is None or len(answer.about) != 1 or len(asked) > _LONGEST_KEPT:
            return None
        about = answer.about[0]
        key, status = self._statuses.key(*about), answer.statuses[0]
        kept = Kept(asked, answer.body, freshness, about[0], key, status, self._clock.timestamp())
        if kept.end <= kept.made:
            return None
        self._cache.keep(kept)
        return kept

    async def _refresh(self, kept: Kept) -> None:
        counter = self._statuses.counter
        try:
            answer = await self._true(kept.request, self._begin(kept.request), counter)
            renewed = not kept.dropped and self._keep(kept.request, answer) is not None
        except Unavailable:  # the table was replaced by one that knows nothing of the CA yet
            renewed = False
        if renewed:
            self.metrics.refreshed += 1
        else:
            self._cache.again(kept, self._clock.timestamp() + _TRY_AGAIN)

    def _once(self, request: Request, answer: Answer, started: float, now: float) -> bytes:
        """A response for nobody else: to a nonce, to several questions, or an error."""
        metrics = self.metrics
        if answer.status is _SUCCESSFUL:
            metrics.answer(*answer.statuses)
        else:
            metrics.refuse(answer.status.name, answer.code)
        if self._access is not None:
            status = answer.statuses[0] if answer.statuses else answer.status.name
            seconds = perf_counter() - started
            self._access(request.head.method.decode(), status, answer.code, seconds)
        body = answer.body
        return _head(int(now), len(body)) + body


@lru_cache(maxsize=64)
def _head(second: int, length: int) -> bytes:
    """What stands before an answer that nobody may keep; those of a second have few lengths."""
    return _HEAD % (http_date(second), length)


def _mistake() -> Answer:
    """Not the front's: what that says of a mistake of ours is no OCSP response."""
    _log.exception("an OCSP request met a mistake in this program")
    status = ResponseStatus.internalError
    return Answer(error_response(status), status, "internal-error", None)


def _require_ocsp(head: Head) -> None:
    given = head.field(b"content-type")
    if given != _REQUEST_TYPE and (
        given is None or given.partition(b";")[0].strip().lower() != _REQUEST_TYPE
    ):
        raise Rejected(
            "unsupported-media-type", "a request by POST is application/ocsp-request (RFC 6960 A.1)"
        )
    if head.field(b"content-encoding") is not None:
        raise Rejected("unsupported-media-type", "an OCSP request is not compressed")


def routes(server: OcspServer) -> list[web.RouteDef]:
    """The same for connections that are aiohttp's, because of what they asked for first."""

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None  # noqa: S101 - the client was there a moment ago
        fields = b"".join(b"%b: %b\r\n" % field for field in request.raw_headers)
        # Whatever octets came, and also where the client gave a whole URL.
        target = str(request.rel_url).encode("utf-8", "surrogateescape")
        head = Head(request.method.encode(), target, b"\r\n" + fields + b"\r\n")
        asked = Request(head, request.transport)
        if request.method == "POST":
            asked.body = await read_body(request, MAX_REQUEST)
        said = server.answer(asked)
        octets = said if isinstance(said, bytes) else await said
        opening, _, body = octets.partition(b"\r\n\r\n")
        status, *lines = opening.decode("latin-1").split("\r\n")
        headers: CIMultiDict[str] = CIMultiDict()
        for field in lines:
            name, _, value = field.partition(": ")
            headers.add(name, value)
        headers.pop("Content-Length", None)
        return web.Response(status=int(status.split(" ")[1]), headers=headers, body=body)

    return [
        web.get(f"{PATH.decode()}/{{request:.*}}", answer, allow_head=False),
        web.post(PATH.decode(), answer),
        web.post(f"{PATH.decode()}/", answer),
    ]
