"""Connections that the front hands over, and the sockets it is on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.errors import Rejected
from infra.http.app import Serving, bind_shared, make_app
from infra.http.front import Front, Relay, Request
from infra.http.limits import Limits
from tests.unit.front_fixtures import (
    CLOSING,
    GET,
    HASTY,
    LIMITS,
    LOOPS,
    POST,
    PREFIXES,
    Desk,
    House,
    alone,
    calling,
    event_loop_policy,  # noqa: F401 - a fixture
    open_house,  # noqa: F401 - a fixture
    opened,
    raw,
    respond,
    serving,
    until,
)

pytestmark = LOOPS

# Hand-over


@pytest.mark.parametrize("before", [b"", GET, GET.replace(b"/a", b"/coroutine-really")])
@pytest.mark.parametrize("pieces", [1, 2])
async def test_any_other_request_takes_its_connection_to_the_fallback(
    house: House, before: bytes, pieces: int
) -> None:
    other = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    async with calling(house.port) as caller:
        data = before + other
        caller.writer.write(data[: len(before) + 3] if pieces == 2 else data)
        if pieces == 2:
            await asyncio.sleep(0.01)
            caller.writer.write(data[len(before) + 3 :])
        if before:
            assert (await caller.answer())[0] == 200
        assert (await caller.answer())[2] == b"slow abc"
        assert house.front.connections == house.serving.connections == 1
        assert (await caller.ask(GET))[0] == 404  # it is aiohttp's for good
    await until(lambda: house.serving.connections == 0)


async def test_a_hand_over_waits_for_the_answers_before(house: House) -> None:
    async with calling(house.port) as caller:
        caller.writer.write(GET.replace(b"/a", b"/wait-1") + b"GET /slow HTTP/1.1\r\n")
        future = await house.desk.until_asked(b"wait-1")
        caller.writer.write(b"Host: a\r\n\r\n")
        await asyncio.sleep(0.01)
        future.set_result(respond(b"one"))
        assert (await caller.answer())[2] == b"one"
        assert (await caller.answer())[2] == b"slow "


async def test_garbage_is_the_fallbacks(house: House) -> None:
    said = await raw(house.port, b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
    assert said.startswith(b"HTTP/1.0 400 ")


async def test_without_a_fallback_others_get_404() -> None:
    async with alone(Front(Desk(), PREFIXES, limits=LIMITS)) as port, calling(port) as caller:
        status, _, body = await caller.ask(
            b"PUT /other HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        )
        assert (status, b'"code": "not-found"' in body) == (404, True)
        assert (await caller.ask(GET))[0] == 200
        connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"
        assert (await caller.ask(connect))[0] == 400


# Relay


@contextlib.asynccontextmanager
async def relayed(path: Path, limits: Limits = LIMITS) -> AsyncIterator[tuple[Front, int]]:
    front = Front(Desk(), PREFIXES, limits=limits, fallback=lambda: Relay(path, limits))
    async with alone(front) as port:
        yield front, port


async def test_a_relay_copies_both_ways(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.write(b"the end")
        writer.close()

    path = tmp_path / "other.sock"
    server = await asyncio.start_unix_server(echo, path)
    async with relayed(path) as (front, port):
        async with calling(port) as caller:
            assert (await caller.ask(GET))[0] == 200
            reading = asyncio.create_task(caller.rest())
            sent = b"".join(b"%08d" % place for place in range(200_000))
            for start in range(0, len(sent), 100_000):
                caller.writer.write(sent[start : start + 100_000])
                await caller.writer.drain()
            assert front.connections == 1
            caller.writer.write_eof()
            assert await reading == sent + b"the end"
        await until(lambda: front.connections == 0)
    server.close()


async def test_a_relay_reads_no_faster_than_the_other_side_takes(tmp_path: Path) -> None:
    """And cuts both off when that is not at all."""
    held: list[asyncio.StreamWriter] = []

    async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    path = tmp_path / "other.sock"
    server = await asyncio.start_unix_server(never_reads, path)
    async with relayed(path, HASTY) as (front, port), calling(port) as caller:
        sent = 0
        with contextlib.suppress(OSError):
            async with asyncio.timeout(20):
                while True:
                    caller.writer.write(b"x" * 100_000)
                    sent += 100_000
                    await caller.writer.drain()
        assert sent < 50_000_000
        await until(lambda: front.connections == 0)
    server.close()
    for writer in held:
        writer.transport.abort()


async def test_a_relay_without_a_server_says_503(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with relayed(tmp_path / "nobody.sock") as (front, port):
        said = await raw(port, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 503 ")
        await until(lambda: front.connections == 0)


async def test_a_relay_ends_with_either_side(tmp_path: Path) -> None:
    servers: list[asyncio.StreamWriter] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        servers.append(writer)
        writer.write(b"hello")

    path = tmp_path / "other.sock"
    server = await asyncio.start_unix_server(greet, path)
    async with relayed(path, HASTY) as (front, port):
        async with calling(port) as caller:
            caller.writer.write(b"anything")
            assert await caller.reader.readexactly(5) == b"hello"
            servers[0].close()
            assert await caller.rest() == b""
        async with calling(port) as caller:
            caller.writer.write(b"anything")
            assert await caller.reader.readexactly(5) == b"hello"
        # The server takes no notice, which is given a while and no more.
        await until(lambda: front.connections == 0)
    server.close()
    servers[1].close()


# Sockets


async def test_sockets_share_a_port_with_each_other_and_nobody_else() -> None:
    [[one], [two]] = await bind_shared("127.0.0.1", 0, 2)
    port = one.getsockname()[1]
    assert two.getsockname()[1] == port
    servings = []
    for bound in (one, two):
        one_more = await serving()
        await one_more.adopt(bound)
        servings.append(one_more)
    for _ in range(5):
        assert (await raw(port, CLOSING)).startswith(b"HTTP/1.1 200 ")
    with pytest.raises(Rejected, match="address-in-use"):
        await bind_shared("127.0.0.1", port, 2)
    for each in servings:
        await each.stop()


async def test_a_private_application_adopts_no_public_socket_without_tls() -> None:
    [[bound]] = await bind_shared("0.0.0.0", 0, 1)  # noqa: S104 - that is the point
    private = await Serving.start(make_app({}, private=True))
    with bound, pytest.raises(Rejected, match="tls-required"):
        await private.adopt(bound)
    await private.stop()


async def test_a_unix_socket_has_a_peer(tmp_path: Path) -> None:
    seen: list[int] = []

    def handler(request: Request) -> bytes:
        seen.append(request.transport.get_extra_info("socket").family)
        return respond(b"")

    front = Front(handler, PREFIXES, limits=LIMITS)
    path = str(tmp_path / "front.sock")
    server = await asyncio.get_running_loop().create_unix_server(front.protocol, path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(CLOSING)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    assert seen == [socket.AF_UNIX]
    writer.close()
    server.close()
    await front.drain(1.0)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a "
            f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
        ).split(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


async def test_tls_carries_all_of_it(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    async with opened(tls=server) as house:
        async with calling(house.port, client) as caller:
            assert (await caller.ask(GET))[2] == b"/fast/a"
            assert len((await caller.ask(GET.replace(b"/a", b"/large")))[2]) == 3_000_000
            assert (await caller.ask(CLOSING))[0] == 200
            assert await caller.rest() == b""
        async with calling(house.port, client) as caller:
            assert (await caller.ask(GET))[0] == 200
            assert (await caller.ask(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"))[2] == b"slow "
        async with calling(house.port, client) as caller:
            caller.writer.write(GET + b"GET /fast/\x00")
            assert (await caller.answer())[0] == 200
        async with calling(house.port, client) as caller:
            assert (await caller.ask(POST + b"Content-Length: 9999\r\n\r\n"))[0] == 413
            assert await caller.rest() == b""
        await until(lambda: house.front.connections == 0)
