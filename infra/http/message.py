"""A request as the front reads it: what its fields say of the body and of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from httptools import HttpParserError, HttpRequestParser

from infra.errors import Rejected
from infra.http.limits import Limits

HEAD: Final = 4  # a whole header is at most so many times Limits.line long
_CHUNKING: Final = 8  # a chunked body is at most so many times its own length on the wire

FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
KEPT: Final = 1024
"""Octets of a request's fields whose meaning is remembered."""

# What an answer says of its connection, behind its status line.
STAYS: Final = b""
CLOSES: Final = b"\r\nConnection: close"
STAYS_OLD: Final = b"\r\nConnection: keep-alive"  # RFC 9112 §C.2.2: HTTP/1.0 wants to be told


class Request:
    """A request. ``target``: path and query, as they came; ``head``: the whole header, to its empty
    line; ``transport``: the client's, which knows a Unix socket's peer; ``gathered``: set by the
    handler of an answer that took long enough for others to be made in this turn of the loop: they
    go out together."""

    __slots__ = ("body", "gathered", "head", "method", "target", "transport")

    def __init__(
        self, method: bytes, target: bytes, head: bytes, transport: asyncio.Transport
    ) -> None:
        self.method = method
        self.target = target
        self.head = head
        self.body = b""
        self.gathered = False
        self.transport = transport

    def header(self, name: bytes) -> bytes | None:
        """The value of a field, several joined (RFC 9110 §5.3). ``name``: in lower case."""
        found = [value for field, value in _fields(self.head) if field == name]
        return b", ".join(found) if found else None


Handler: TypeAlias = Callable[[Request], bytes | Awaitable[bytes]]
"""Makes the whole answer: status line, fields, body. It says nothing of the connection: the
``Connection`` field is the front's. A coroutine is begun at once (``infra.eager``). What it raises
is answered with a problem document. HEAD gets the answer to GET: its body is left out here."""


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Names in lower case and values of a whole header."""
    parted = [line.partition(b":") for line in head[:-4].split(b"\r\n")[1:]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in parted]


@dataclass(frozen=True, slots=True)
class Framing:
    """What the fields say of the body and the connection. ``says``: what the answer says of the
    connection; ``length``: octets; ``plain``: nothing but the header itself is to be looked at."""

    says: bytes
    length: int
    chunked: bool
    expects: bool
    upgrades: bool
    plain: bool


def framing(block: bytes, limits: Limits) -> Framing:
    """Judge the fields of a request.

    ``block``: from the version to the empty line, both included. Errors: ``bad-http``,
    ``header-too-large``, ``expectation-failed``, ``http-version-not-supported``.
    """
    version = block[:8]
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Rejected("http-version-not-supported", "speak HTTP/1.1")
    fields = _fields(block)
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
    expected = [value.lower() for value in by_name.get(b"expect", ())]
    if expected not in ([], [b"100-continue"]):
        raise Rejected("expectation-failed", "of expectations, only 100-continue is met here")
    options = {
        option.strip(b" \t").lower()
        for value in by_name.get(b"connection", ())
        for option in value.split(b",")
    }
    if b"close" in options:
        says = CLOSES
    elif version == b"HTTP/1.1":
        says = STAYS
    else:
        says = STAYS_OLD if b"keep-alive" in options else CLOSES
    upgrades = b"upgrade" in by_name
    # RFC 9110 §10.1.1: the expectation of an HTTP/1.0 client is ignored.
    expects = bool(expected) and version == b"HTTP/1.1"
    plain = says == STAYS and int(length) == 0 and not codings and not upgrades
    return Framing(says, int(length), bool(codings), expects, upgrades, plain)


class Body:
    """A body that is still coming. ``parser``: llhttp, which has had the header; a chunked body
    gets one of its own, which has had nothing yet: it tells where the body ends, not where what
    follows begins."""

    __slots__ = (
        "_limits",
        "_missing",
        "_octets",
        "_parser",
        "_seen",
        "chunked",
        "complete",
        "handler",
        "request",
        "says",
        "too_far",
    )

    def __init__(
        self,
        handler: Handler,
        request: Request,
        meaning: Framing,
        limits: Limits,
        parser: HttpRequestParser,
        head: bytes,
    ) -> None:
        self.handler = handler
        self.request = request
        self.says = meaning.says
        self.chunked = meaning.chunked
        self.complete = False
        self.too_far = False  # some of what follows is lost in the parser
        self._limits = limits
        self._missing = meaning.length
        self._octets = bytearray()
        self._seen = 0  # octets on the wire
        self._parser = parser
        if meaning.chunked:
            self._parser = HttpRequestParser(self)
            self._parser.feed_data(head)

    def take(self, data: bytes) -> bytes:
        """Take what ``data`` has of it, and return what follows; when it is complete, the request
        has it. Errors: ``bad-http``, ``request-too-large``."""
        if self.chunked:
            rest = self._take_chunks(data)
        else:
            piece, rest = data[: self._missing], data[self._missing :]
            self._parser.feed_data(piece)
            self._octets += piece
            self._missing -= len(piece)
            self.complete = self._missing == 0
        if self.complete:
            self.request.body = bytes(self._octets)
        return rest

    def _take_chunks(self, data: bytes) -> bytes:
        self._seen += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if not self.complete:
                raise not_http() from error
            self.too_far = True
        most = self._limits.body
        if len(self._octets) > most or (
            not self.complete and self._seen > _CHUNKING * most + HEAD * self._limits.line
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
