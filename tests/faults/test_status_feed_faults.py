"""A status feed that is cut, altered, silenced or not read: nothing is lost, nothing is believed
that was not signed, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.clock import SystemClock
from infra.errors import Rejected, Unavailable
from infra.http.app import make_app, serve_app, serve_unix
from infra.http.limits import Limits
from infra.store.port import Stored
from ocsp.feed_http import STATUSES, StatusFeed
from ocsp.feed_wire import FEED_PATH
from ocsp.follower import Follower, Origin, Timing
from ocsp.table import TableReader
from pki.record import Record
from pki.serial import SerialNumber
from pki.status import RevocationReason, Revoked
from tests.contract.feed_fixtures import ISSUERS, QUICK, Kept, World, running, until, world

REASON = RevocationReason.superseded


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, limits=Limits(unread=0.3, stop=30.0)) as made:
        yield made


Alter = Callable[[bytes], bytes | None]


class Proxy:
    """Passes octets on to the server, until ``alter`` says otherwise: it is given what the server
    sent and returns what the follower gets, None to cut."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.make: Callable[[], Alter] = lambda: lambda data: data
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        alter = self.make()
        upstream: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError):
                answer, upstream = await asyncio.open_connection("127.0.0.1", self.target)
                upstream.write(await reader.readuntil(b"\r\n\r\n"))
                head = await answer.readuntil(b"\r\n\r\n")
                writer.write(head)
                while data := await answer.read(4096):
                    passed = alter(data)
                    if passed is None:
                        break
                    writer.write(passed)
                    await writer.drain()
        finally:
            for each in (writer, upstream):
                if each is not None:
                    each.transport.abort()


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    made = Proxy(port)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(made.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes what was aborted


def cut_after(octets: int) -> Alter:
    left = octets

    def alter(data: bytes) -> bytes | None:
        nonlocal left
        if left <= 0:
            return None
        data = data[:left]
        left -= len(data)
        return data

    return alter


async def test_cut_anywhere_nothing_is_lost_or_doubled(ca: World) -> None:
    await ca.issue(120)
    for serial in range(10, 100, 7):
        await ca.ledger.revoke("issuing", SerialNumber(serial), reason=REASON, by="test")
    await ca.start()
    chance = random.Random(5)
    kept = Kept()
    async with proxy(ca.port) as between:
        between.make = lambda: cut_after(chance.randrange(1, 4000))
        follower = ca.follower(kept, port=between.port)
        async with running(follower) as task:
            await ca.caught_up(follower)
            await ca.issue(15)
            await ca.ledger.revoke("issuing", SerialNumber(1), reason=REASON, by="test")
            await ca.caught_up(follower)
            assert not task.done()
        assert between.connections > 3
    assert kept.known == await ca.statuses()
    # Certificates that did not change meanwhile were written once each, in order.
    assert len(set(kept.written)) == len(kept.written)


async def test_an_altered_octet_costs_a_connection_and_nothing_else(ca: World) -> None:
    await ca.issue(60)
    await ca.start()
    codes = set()
    kept = Kept()
    async with proxy(ca.port) as between:
        count = 0

        def make() -> Alter:
            nonlocal count
            count += 1
            place, seen = 40 + 531 * count, 0

            def alter(data: bytes) -> bytes:
                nonlocal seen
                at, seen = place - seen, seen + len(data)
                if count < 10 and 0 <= at < len(data):
                    return data[:at] + bytes((data[at] ^ 0x40,)) + data[at + 1 :]
                return data

            return alter

        between.make = make
        follower = ca.follower(kept, port=between.port, timing=Timing(silence=0.5, first=0.001))
        async with running(follower) as task:
            while not (follower.applied == 60 and count >= 10):
                if follower.failing is not None:
                    codes.add(follower.failing.code)
                assert not task.done()
                await asyncio.sleep(0.001)
    assert kept.known == await ca.statuses()
    assert "bad-signature" in codes


async def test_a_recorded_feed_played_again_is_refused(ca: World) -> None:
    await ca.issue(5)
    await ca.start()
    recorded = bytearray()
    kept = Kept()
    async with proxy(ca.port) as between:

        def record(data: bytes) -> bytes:
            recorded.extend(data)
            return data

        between.make = lambda: record
        follower = ca.follower(kept, port=between.port)
        async with running(follower):
            await ca.caught_up(follower)
            await ca.ledger.revoke("issuing", SerialNumber(2), reason=REASON, by="test")
            await ca.caught_up(follower)
            played = bytes(recorded)
            between.make = lambda: lambda data: played
            await ca.stop()
            await ca.start()
            await until(
                lambda: follower.failing is not None and follower.failing.code == "feed-gap"
            )
            between.make = lambda: lambda data: data
            await ca.caught_up(follower)
    assert isinstance(kept.known["issuing", 2], Revoked)


async def test_the_server_stops_and_starts_again(ca: World) -> None:
    await ca.issue(12)
    await ca.start()
    kept = Kept()
    follower = ca.follower(kept)
    async with running(follower):
        await ca.caught_up(follower)
        for _ in range(3):
            async with asyncio.timeout(10):  # Limits.stop is 30 s: it does not wait for followers
                await ca.stop()
            await ca.issue(11)
            await ca.ledger.revoke(
                "issuing", SerialNumber(len(kept.known)), reason=REASON, by="test"
            )
            await until(lambda: follower.failing is not None)
            await ca.start()
            await ca.caught_up(follower)
            assert follower.failing is None
    assert kept.known == await ca.statuses()
    assert len(set(kept.written)) == len(kept.written)


async def test_a_follower_that_dies_goes_on_from_what_it_wrote_down(ca: World) -> None:
    await ca.issue(150)
    await ca.start()
    kept = Kept()
    chance = random.Random(7)
    follower = ca.follower(kept)
    while kept.applied < 150:
        follower = ca.follower(kept)  # a new one each time knows no more than what was written
        task = asyncio.create_task(follower.run())
        for _ in range(chance.randrange(60, 160)):
            await asyncio.sleep(0)
            if kept.applied == 150:
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if chance.random() < 0.3:
            await asyncio.sleep(0.01)
    assert kept.known == await ca.statuses()


async def test_silence_is_a_cut(ca: World) -> None:
    await ca.issue(3)
    await ca.start()
    kept = Kept()
    async with proxy(ca.port) as between:
        between.make = lambda: lambda data: b""
        follower = ca.follower(kept, port=between.port, timing=Timing(silence=0.1, first=0.001))
        async with running(follower):
            await until(lambda: follower.failing is not None)
            assert follower.failing is not None
            assert follower.failing.code == "feed-silent"
            await until(lambda: between.connections > 2)


async def test_octets_that_trickle_are_silence(ca: World) -> None:
    """Something comes all the time, but never a whole frame."""
    await ca.issue(3)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.digitalid.status-feed\r\n\r\n"
            b"\x00\x01\x00\x00"
        )
        with suppress(OSError):
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        dripped.set()

    dripped = asyncio.Event()
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    follower = ca.follower(Kept(), port=port, timing=Timing(silence=0.1, first=30.0))
    async with running(follower):
        await until(lambda: follower.failing is not None)
    assert follower.failing is not None
    assert follower.failing.code == "feed-silent"
    server.close()
    await dripped.wait()


class Endless:
    """A ledger that always has more."""

    def __init__(self) -> None:
        self.looked_up = 0

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sequence(self) -> int:
        return 1 << 40

    async def changed(self, after: int, *, limit: int) -> list[Record]:
        self.looked_up += 1
        return [
            Record(
                Stored(
                    "x",
                    1,
                    {"ca": "issuing", "serial": f"{n:040x}", "state": "issued", "sequence": n},
                )
            )
            for n in range(after + 1, after + 1 + limit)
        ]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_whoever_does_not_read_is_cut_off(ca: World, kind: str) -> None:
    """On TCP the kernel does that as well; on a Unix socket it would wait for ever."""
    ledger = Endless()
    feed = StatusFeed(ledger, ca.log, ISSUERS, ca.signer)
    app = make_app(STATUSES, private=True, limits=Limits(unread=0.3))
    feed.install(app)
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    path = ca.folder / "socket"
    if kind == "tcp":
        serving = await serve_app(app, "127.0.0.1", 0)
    else:
        serving = await serve_unix(app, path)
    with socket.socket(family) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = int(serving.urls[0].rpartition(":")[2]) if kind == "tcp" else 0
        client.connect(("127.0.0.1", port) if kind == "tcp" else str(path))
        client.sendall(f"GET {FEED_PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: feed.followers == 1)
        await until(lambda: feed.followers == 0)
        # What it could take is what the sockets hold: the rest was never looked up.
        assert ledger.looked_up < 1000
    await serving.stop()


async def test_the_ledger_fails_and_works_again(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await ca.issue(4)
    await ca.start()
    kept = Kept()
    follower = ca.follower(kept)
    changed = ca.ledger.changed

    async def failing(after: int, *, limit: int = 1000) -> list[Record]:
        raise Unavailable("storage-unavailable", "the disk is away")

    async with running(follower):
        await ca.caught_up(follower)
        monkeypatch.setattr(ca.ledger, "changed", failing)
        await until(lambda: follower.failing is not None)
        await until(lambda: getattr(follower.failing, "code", "") == "storage-unavailable")
        monkeypatch.setattr(ca.ledger, "changed", changed)
        await ca.issue()
        await ca.caught_up(follower)
    assert kept.known == await ca.statuses()


async def test_a_full_table_stops_nothing_for_ever(ca: World) -> None:
    class Full(Kept):
        full = True

        def put_many(self, issuer: str, statuses: object, /) -> None:
            if self.full:
                raise Unavailable("storage-full", "there is no room for the table")
            super().put_many(issuer, statuses)  # type: ignore[arg-type]

    await ca.issue(3)
    await ca.start()
    kept = Full()
    follower = ca.follower(kept)
    async with running(follower):
        await until(lambda: follower.failing is not None)
        assert kept.applied == 0
        assert kept.horizons == {}
        kept.full = False
        await ca.caught_up(follower)
    assert kept.known == await ca.statuses()


CHILD = """
import asyncio, json, sys
from pathlib import Path
from infra.clock import SystemClock
from ocsp.follower import Follower, Origin, Timing
from ocsp.table import TableWriter

async def main(url, token, key, path):
    table = TableWriter.open(Path(path), room=1 << 24)
    follower = Follower(Origin(url, token), bytes.fromhex(key), table, SystemClock(),
                        timing=Timing(first=0.01, most=0.05))
    task = asyncio.create_task(follower.run())
    while True:
        print(json.dumps(follower.applied), flush=True)
        await asyncio.sleep(0.002)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_follower_that_is_killed_goes_on_from_its_table(ca: World) -> None:
    await ca.issue(300)
    ca.page = 5
    await ca.start()
    path = ca.folder / "table"
    reached = 0
    for stop_at in (1, 60, 150, 300):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, ca.url, ca.tokens.make("va"),
            ca.signer.public_key_info.hex(), str(path),
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert child.stdout is not None
        async with asyncio.timeout(60):
            while line := await child.stdout.readline():
                last, reached = reached, json.loads(line)
                assert reached >= last  # also over the death of the one before
                if reached >= stop_at:
                    break
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
    reader = TableReader.open(path, most_lag=None)
    for (issuer, serial), status in (await ca.statuses()).items():
        assert reader.status(issuer, serial) == status
    reader.close()


# TLS


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


async def test_only_the_server_that_is_trusted_is_followed(ca: World) -> None:
    await ca.issue(3)
    trusted, key = _certificate(ca.folder, "localhost")
    other, _ = _certificate(ca.folder, "elsewhere")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, key)
    app = make_app(STATUSES, private=True, limits=ca.limits)
    StatusFeed(ca.ledger, ca.log, ISSUERS, ca.signer).install(app)
    serving = await serve_app(app, "localhost", 0, tls=context)
    url = f"https://localhost:{serving.urls[0].rpartition(':')[2]}"
    for ca_file in (None, other):
        kept = Kept()
        follower = Follower(
            Origin(url, "token", ca_file),
            ca.signer.public_key_info,
            kept,
            SystemClock(),
            timing=QUICK,
        )
        async with running(follower):
            await until(lambda: follower.failing is not None)  # noqa: B023
            assert follower.failing is not None
            assert follower.failing.code == "feed-tls"
            assert kept.known == {}
    kept = Kept()
    follower = Follower(
        Origin(url, "token", trusted), ca.signer.public_key_info, kept, SystemClock(), timing=QUICK
    )
    async with running(follower):
        await ca.caught_up(follower)
    assert kept.known == await ca.statuses()
    await serving.stop()


async def test_a_ca_file_that_is_none_is_refused(ca: World) -> None:
    nothing = ca.folder / "none.pem"
    nothing.write_text("no certificate")
    follower = Follower(
        Origin("https://127.0.0.1:1", "token", nothing),
        ca.signer.public_key_info,
        Kept(),
        SystemClock(),
        timing=QUICK,
    )
    async with running(follower):
        await until(lambda: follower.failing is not None)
    assert isinstance(follower.failing, Rejected)
    assert follower.failing.code == "feed-ca-file"


async def test_nobody_there(ca: World) -> None:
    await ca.start()
    await ca.stop()
    follower = ca.follower(Kept())
    async with running(follower):
        await until(lambda: follower.failing is not None)
    assert follower.failing is not None
    assert follower.failing.code == "feed-unreachable"
