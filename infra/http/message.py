"""A request as the front reads it: what its fields say of the body and of the connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from infra.errors import Rejected
from infra.http.limits import Limits

MOST_LINES: Final = 4  # a whole header is at most so many times Limits.line long
_CHUNKING: Final = 8  # a chunked body is at most so many times its own length on the wire

FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
_UPGRADE: Final = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)

# What an answer says of its connection, behind its status line.
STAYS: Final = b""
CLOSES: Final = b"\r\nConnection: close"
STAYS_OLD: Final = b"\r\nConnection: keep-alive"  # RFC 9112 §C.2.2: HTTP/1.0 wants to be told


class Head:
    """The header of a request, and what it says of the body and the connection.

    ``octets``: all of it, to its empty line; ``target``: path and query, as they came;
    ``condition``: its If-None-Match; ``says``: what the answer says of the connection; ``length``:
    octets of the body; ``expects``: the client waits for 100 Continue.
    """

    __slots__ = (
        "chunked",
        "condition",
        "expects",
        "length",
        "method",
        "octets",
        "says",
        "target",
    )

    def __init__(self, method: bytes, target: bytes, octets: bytes) -> None:
        self.method = method
        self.target = target
        self.octets = octets
        self.condition = self.field(b"if-none-match")
        self.says = STAYS
        self.length = 0
        self.chunked = False
        self.expects = False

    def field(self, name: bytes) -> bytes | None:
        """The value of a field, several joined (RFC 9110 §5.3). ``name``: in lower case."""
        found = [value for field, value in _fields(self.octets) if field == name]
        return b", ".join(found) if found else None


class Request:
    """A request. ``transport``: the client's, which knows a Unix socket's peer; ``gathered``: set
    by the handler of an answer that took long enough for others to be made in this turn of the
    loop: they go out together."""

    __slots__ = ("body", "gathered", "head", "transport")

    def __init__(self, head: Head, transport: asyncio.Transport) -> None:
        self.head = head
        self.body = b""
        self.gathered = False
        self.transport = transport


Handler: TypeAlias = Callable[[Request], bytes | Awaitable[bytes]]
"""Makes the whole answer: status line, fields, body. It says nothing of the connection: the
``Connection`` field is the front's. A coroutine is begun at once (``infra.eager``). What it raises
is answered with a problem document. HEAD gets the answer to GET: its body is left out here."""


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Names in lower case and values of a whole header."""
    parted = [line.partition(b":") for line in head[:-4].split(b"\r\n")[1:]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in parted]


def read_head(octets: bytes, limits: Limits) -> Head:
    """Judge a header. Errors: ``bad-http``, ``header-too-large``, ``expectation-failed``,
    ``http-version-not-supported``, ``request-too-large``."""
    try:
        method, target, version = octets[: octets.find(b"\r\n")].split(b" ")
    except ValueError as error:
        raise not_http() from error
    if version[-8:] not in (b"HTTP/1.1", b"HTTP/1.0"):  # more before it is bad HTTP
        raise Rejected("http-version-not-supported", "speak HTTP/1.1")
    fields = _fields(octets)
    if len(fields) > limits.fields or any(
        len(name) + len(value) + 2 > limits.line for name, value in fields
    ):
        raise Rejected(
            "header-too-large",
            f"a header here has at most {limits.fields} fields of {limits.line} octets",
        )
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        by_name.setdefault(name, []).append(value)
    # RFC 9112 §3.2: exactly one Host in HTTP/1.1, and never more.
    hosts = len(by_name.get(b"host", ()))
    if hosts > 1 or (hosts == 0 and version == b"HTTP/1.1"):
        raise Rejected("bad-http", "a request has one Host field")
    length, chunked = _framing(by_name, version)
    expected = [value.lower() for value in by_name.get(b"expect", ())]
    if expected not in ([], [b"100-continue"]):
        raise Rejected("expectation-failed", "of expectations, only 100-continue is met here")
    try:
        HttpRequestParser(None).feed_data(_plain(octets))
    except (HttpParserError, HttpParserUpgrade) as error:  # the latter: CONNECT
        raise not_http() from error
    if length > limits.body:
        raise too_large(limits.body)
    head = Head(method, target, octets)
    head.length, head.chunked = length, chunked
    head.says = _connection(by_name.get(b"connection", ()), version)
    # RFC 9110 §10.1.1: the expectation of an HTTP/1.0 client is ignored.
    head.expects = bool(expected) and version == b"HTTP/1.1"
    return head


def _plain(head: bytes) -> bytes:
    # RFC 9110 §7.8: an upgrade may be ignored, which llhttp would not do.
    return _UPGRADE.sub(b"", head) if b"pgrade" in head.lower() else head


def _framing(by_name: dict[bytes, list[bytes]], version: bytes) -> tuple[int, bool]:
    """How long the body is, and whether it comes in chunks."""
    lengths, codings = by_name.get(b"content-length", []), by_name.get(b"transfer-encoding", [])
    length = lengths[0] if lengths else b"0"
    if len(lengths) > 1 or len(length) > 18 or not length.isdigit():
        raise Rejected("bad-http", "Content-Length is one decimal number")
    # RFC 9112 §6.1: other codings we do not know; §6.3: both fields together are an attack;
    # HTTP/1.0 has no chunks.
    if codings and (
        lengths or version == b"HTTP/1.0" or [coding.lower() for coding in codings] != [b"chunked"]
    ):
        raise Rejected("bad-http", "Transfer-Encoding is chunked, without Content-Length")
    return int(length), bool(codings)


def _connection(values: Iterable[bytes], version: bytes) -> bytes:
    """What the answer says of the connection (RFC 9112 §9.3)."""
    options = {option.strip(b" \t").lower() for value in values for option in value.split(b",")}
    if b"close" in options:
        return CLOSES
    if version == b"HTTP/1.1":
        return STAYS
    return STAYS_OLD if b"keep-alive" in options else CLOSES


class Body:
    """A body that is still coming. llhttp tells where a chunked one ends, not where what follows
    begins."""

    __slots__ = (
        "_limits",
        "_missing",
        "_octets",
        "_parser",
        "_seen",
        "complete",
        "handler",
        "request",
        "too_far",
    )

    def __init__(self, handler: Handler, request: Request, limits: Limits) -> None:
        self.handler = handler
        self.request = request
        self.complete = False
        self.too_far = False  # some of what follows is lost in the parser
        self._limits = limits
        self._missing = request.head.length
        self._octets = bytearray()
        self._seen = 0  # octets on the wire
        self._parser: HttpRequestParser | None = None
        if request.head.chunked:
            self._parser = HttpRequestParser(self)
            self._parser.feed_data(_plain(request.head.octets))

    def take(self, data: bytes) -> bytes:
        """Take what ``data`` has of it, and return what follows; when it is complete, the request
        has it. Errors: ``bad-http``, ``request-too-large``."""
        if self._parser is not None:
            rest = self._take_chunks(self._parser, data)
        else:
            piece, rest = data[: self._missing], data[self._missing :]
            self._octets += piece
            self._missing -= len(piece)
            self.complete = self._missing == 0
        if self.complete:
            self.request.body = bytes(self._octets)
        return rest

    def _take_chunks(self, parser: HttpRequestParser, data: bytes) -> bytes:
        self._seen += len(data)
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.complete:
                raise not_http() from error
            self.too_far = True
        most = self._limits.body
        if len(self._octets) > most or (
            not self.complete and self._seen > _CHUNKING * most + MOST_LINES * self._limits.line
        ):
            raise too_large(most)
        return b""

    # What llhttp calls

    def on_message_begin(self) -> None:
        self.too_far = self.complete

    def on_body(self, octets: bytes) -> None:
        if not self.complete:
            self._octets += octets

    def on_message_complete(self) -> None:
        self.complete = True


class Answer:
    """The place of an answer among those of its connection. ``octets``: once it is made;
    ``says``: what it says of the connection; ``bodiless``: it answers HEAD."""

    __slots__ = ("bodiless", "octets", "says", "task")

    def __init__(self, octets: bytes | None, says: bytes, bodiless: bool = False) -> None:
        self.octets = octets
        self.says = says
        self.bodiless = bodiless
        self.task: asyncio.Future[bytes] | None = None

    def on_the_wire(self, octets: bytes) -> bytes:
        if self.bodiless:
            octets = octets.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        if self.says:
            status, _, rest = octets.partition(b"\r\n")
            octets = status + self.says + b"\r\n" + rest
        return octets


def not_http() -> Rejected:
    return Rejected("bad-http", "this is not a request as RFC 9112 has it")


def too_large(most: int) -> Rejected:
    return Rejected("request-too-large", f"a request here has at most {most} octets")
