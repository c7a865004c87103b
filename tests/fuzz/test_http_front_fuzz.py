"""Any octets at the front: it answers what is a request, refuses the rest, and is ready again."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable
from itertools import pairwise

from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from infra.http.app import Serving, make_app, serve_app
from infra.http.front import Front, Request
from infra.http.limits import Limits, read_body
from infra.http.message import read_head
from tests.fuzz.octets import SECONDS, for_as_long_as_asked, mutated
from tests.fuzz.wire import answers

LIMITS = Limits(line=200, fields=8, body=64, wait=0.1, read=0.05, unread=0.2, stop=1.0)
PREFIXES = (b"GET /fast/", b"HEAD /fast/", b"POST /fast")

REQUESTS = [
    b"GET /fast/a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /fast/later HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /fast/later HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /fast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /fast/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"GET /fast/b HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
]
PIECES = [
    *REQUESTS,
    b"GET /fast/\xff HTTP/1.1\r\n",
    b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /fast HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: upgrade\r\n",
    b"Connection: close\r\n",
    b"X: \x00\r\n",
    b": no name\r\n",
    b" folded\r\n",
    b"\r\n",
    b"\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffff\r\n",
    b"\x16\x03\x01",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"UPGRADE: h2c\r\nCONNECTION: UPGRADE\r\n\r\n",
]
CHUNKED = REQUESTS[4]


spoilt = st.sampled_from(REQUESTS).flatmap(mutated)
# What is behind a chunked request is read by the parser of its body.
behind = (st.sampled_from(PIECES) | spoilt).map(CHUNKED.__add__)
octets = st.lists(
    st.sampled_from(PIECES) | st.binary(max_size=40) | spoilt | behind, max_size=8
).map(b"".join)
ANSWERS = re.compile(
    rb"(?:HTTP/1\.1 100 Continue\r\n\r\n"
    rb"|HTTP/1\.1 (?:200|400|404|408|413|414|417|431|505) [^\r\n]+\r\n"
    rb"(?:[^\r\n]+\r\n)*\r\n[^\r\n]*)*"
)


short = settings(
    max_examples=300,
    deadline=None,
    derandomize=not SECONDS,
    suppress_health_check=[HealthCheck.too_slow],
)


def respond(request: Request) -> bytes | Awaitable[bytes]:
    assert request.head.method in (b"GET", b"HEAD", b"POST")
    assert len(request.body) <= LIMITS.body
    assert len(request.head.target) <= LIMITS.line
    request.head.field(b"host")
    return later() if request.head.target.endswith(b"later") else OK


async def later() -> bytes:
    await asyncio.sleep(0)
    return OK


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def talk(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], bytes]:
    """What the handler sees, and what is answered, when the octets come like this."""
    seen: list[tuple[bytes, bytes, bytes]] = []

    def handler(request: Request) -> bytes | Awaitable[bytes]:
        seen.append((request.head.method, request.head.target, request.body))
        return respond(request)

    front = Front(handler, PREFIXES, limits=LIMITS)
    said = await answers(front, pieces)
    await front.drain(0)
    return seen, said


def test_octets_in_any_pieces_are_the_same_requests() -> None:
    with asyncio.Runner() as runner:

        @short
        @given(octets, st.lists(st.integers(0, 400), max_size=6))
        def check(data: bytes, cuts: list[int]) -> None:
            seen, said = runner.run(talk([data] if data else []))
            assert ANSWERS.fullmatch(said), said
            ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
            pieces = [data[a:b] for a, b in pairwise(ends)]
            seen_in_pieces, said = runner.run(talk(pieces))
            assert ANSWERS.fullmatch(said), said
            if b"chunked" in data.lower():  # a request behind a chunked one in a piece is dropped
                shorter = min(len(seen), len(seen_in_pieces))
                assert seen[:shorter] == seen_in_pieces[:shorter]
            else:
                assert seen == seen_in_pieces

        for_as_long_as_asked(check)


def test_a_header_is_judged_or_rejected() -> None:
    @short
    @given(
        (octets | st.sampled_from(REQUESTS) | spoilt).map(
            lambda data: data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        )
        | st.binary(max_size=300)
    )
    def check(data: bytes) -> None:
        with contextlib.suppress(Rejected):
            judged = read_head(data, LIMITS)
            assert 0 <= judged.length <= LIMITS.body
            assert data.startswith(b"%b %b HTTP/1." % (judged.method, judged.target))
        assert verdict(shouted(data)) == verdict(data)

    for_as_long_as_asked(check)


def shouted(data: bytes) -> bytes:
    """The same header in capitals: no field that is looked at here cares."""
    start, crlf, fields = data.partition(b"\r\n")
    return start + crlf + fields.upper()


def verdict(data: bytes) -> str | tuple[int, bool, bytes, bool]:
    try:
        head = read_head(data, LIMITS)
    except Rejected as rejected:
        return rejected.code
    return head.length, head.chunked, head.says, head.expects


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await read_body(request))


async def start() -> tuple[Front, Serving]:
    front = Front(respond, PREFIXES, limits=LIMITS)
    app = make_app({}, private=False, limits=LIMITS)
    app.router.add_route("*", "/{any:.*}", echo)
    return front, await serve_app(app, "127.0.0.1", 0, front=front)


async def say(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """What the server answers before it closes; it does so for lack of a request in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray()
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(data)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(5):
            while piece := await reader.read(65536):
                said += piece
    writer.close()
    return bytes(said)


def test_octets_do_not_stop_the_server_and_its_fallback() -> None:
    alive = REQUESTS[0].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with asyncio.Runner() as runner:
        front, serving = runner.run(start())
        port = int(serving.urls[0].rpartition(":")[2])

        async def many(inputs: list[tuple[bytes, bool]]) -> list[bytes]:
            return await asyncio.gather(*(say(port, one, half_close=half) for one, half in inputs))

        @settings(short, max_examples=20)
        @given(st.lists(st.tuples(octets, st.booleans()), min_size=5, max_size=30))
        def check(inputs: list[tuple[bytes, bool]]) -> None:
            for said in runner.run(many(inputs)):
                assert said == b"" or said.startswith(b"HTTP/1.")
                assert b" 500 " not in said
                assert b"Traceback" not in said and b"aiohttp" not in said
            assert runner.run(say(port, alive)).endswith(b"\r\n\r\nok")
            runner.run(none_left())
            assert front.under_way == 0

        async def none_left() -> None:
            async with asyncio.timeout(5):
                while front.connections:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.002)

        for_as_long_as_asked(check)
        runner.run(serving.stop())
