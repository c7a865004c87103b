"""Statuses from the CRLs of other CAs: made by ``cryptography``, read into a real table."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from infra.clock import FixedClock
from infra.errors import Failure, Rejected, Unavailable
from infra.http.app import make_app, serve_app
from ocsp import crl_fetch, crl_source
from ocsp.crl_fetch import Patience
from ocsp.crl_reading import read_entries, read_head
from ocsp.crl_source import CrlSource, Pace
from ocsp.source import Horizon
from ocsp.table import TableReader, TableWriter
from pki import der
from pki.issuer import Issuer
from pki.status import Good, RevocationReason, Revoked

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DAY = timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Acme CA")])
ISSUER = Issuer(
    name="crl:acme",
    certificate=b"",
    subject=NAME.public_bytes(),
    public_key_info=KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    key_identifier=b"",
    not_before=NOW - DAY,
    not_after=NOW + 365 * DAY,
    chain=(),
    crl_url="",
    ocsp_url="",
    certificate_url="",
)


def entry(
    serial: int,
    *extensions: x509.ExtensionType,
    at: dt.datetime = NOW - DAY,
    critical: bool = False,
) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
    for extension in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.build()


def crl(
    number: int | None = 1,
    revoked: Iterable[int | x509.RevokedCertificate] = (),
    *extensions: tuple[x509.ExtensionType, bool],
    this_update: dt.datetime = NOW - timedelta(minutes=5),
    next_update: dt.datetime = NOW + DAY,
    key: Any = KEY,
    name: x509.Name = NAME,
) -> bytes:
    builder = x509.CertificateRevocationListBuilder(
        revoked_certificates=[entry(r) if isinstance(r, int) else r for r in revoked]
    )
    builder = builder.issuer_name(name).last_update(this_update).next_update(next_update)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


PACE = Pace(most=0.02, least=0.01, first=0.01, longest=0.02)
HASTY = replace(PACE, patience=Patience(read=0.3))


class House:
    """A table, a source that reads a file, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = FixedClock(NOW)
        self.folder = folder / "acme"
        self.file = folder / "acme.crl"
        self.table = TableWriter.open(folder / "table", room=64 << 20)
        self.reader = self.table.reader(most_lag=timedelta(seconds=60))
        self.source = self.again()

    def again(self, where: str = "", pace: Pace = PACE) -> CrlSource:
        """A source as a new process would make it."""
        source = CrlSource(
            ISSUER, where or str(self.file), self.folder, self.table, self.clock, pace=pace
        )
        self.source = source
        return source

    async def take(self, content: bytes) -> bool:
        self.file.write_bytes(content)
        return await self.look()

    async def look(self) -> bool:
        if self.source.current is None:
            await self.source._resume()
        return await self.source.fetch()

    async def refuses(self, content: bytes, code: str) -> None:
        with pytest.raises(Failure) as refused:
            await self.take(content)
        assert refused.value.code == code

    def revoked(self, serials: Iterable[int] = range(1, 20)) -> list[int]:
        return [n for n in serials if isinstance(self.reader.status(ISSUER.name, n), Revoked)]

    def horizon(self) -> Horizon:
        return self.reader.horizon(ISSUER.name, self.clock.now())

    def close(self) -> None:
        self.reader.close()
        self.table.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with closing(House(tmp_path)) as made:
        yield made


async def test_what_it_lists_is_revoked_and_all_else_is_good(house: House) -> None:
    since = NOW - 9 * DAY
    listed = [
        entry(3, x509.CRLReason(x509.ReasonFlags.key_compromise), x509.InvalidityDate(since)),
        entry(4, x509.CRLReason(x509.ReasonFlags.certificate_hold)),
        entry(1 << 158),
    ]
    assert await house.take(crl(7, listed))
    assert house.reader.status(ISSUER.name, 3) == Revoked(
        NOW - DAY, RevocationReason.keyCompromise, since, 1
    )
    held = house.reader.status(ISSUER.name, 4)
    assert isinstance(held, Revoked) and held.on_hold
    assert isinstance(house.reader.status(ISSUER.name, 1 << 158), Revoked)
    assert house.reader.status(ISSUER.name, 5) == Good()
    # However old, it is told until its nextUpdate, whatever a feed's most_lag is.
    assert house.horizon() == Horizon(NOW - timedelta(minutes=5), NOW + DAY)
    house.clock.at = NOW + timedelta(hours=23)
    assert house.source.lag(house.clock.now()) == timedelta(hours=23, minutes=5).total_seconds()
    assert house.horizon().until == NOW + DAY
    house.clock.at = NOW + DAY
    with pytest.raises(Unavailable):
        house.horizon()
    assert house.source.current is not None
    assert (house.source.current.number, house.source.count) == (7, 3)


async def test_nothing_is_known_before_the_first(house: House) -> None:
    with pytest.raises(Unavailable) as away:
        await house.look()
    assert away.value.code == "crl-unreachable"
    with pytest.raises(Unavailable) as away:
        house.horizon()
    assert away.value.code == "status-source-empty"


async def test_what_left_the_list_is_good_again(house: House) -> None:
    await house.take(crl(1, [1, 2, 3]))
    counter = house.reader.counter
    assert await house.take(crl(2, [2, 3, 4], next_update=NOW + 2 * DAY))
    assert house.revoked() == [2, 3, 4]
    # Readers hear of two changes only.
    assert house.reader.changed_since(counter)[1] == [
        house.reader.key(ISSUER.name, serial) for serial in (4, 1)
    ]
    assert house.horizon().until == NOW + 2 * DAY
    assert await house.take(crl(3))
    assert house.revoked() == []
    assert (house.folder / "crl.der").exists()
    assert not (house.folder / "next.der").exists()


async def test_the_same_again_is_no_change(house: House) -> None:
    content = crl(1, [1])
    assert await house.take(content)
    counter = house.reader.counter
    assert not await house.look()  # the file is as it was
    assert not await house.take(content)
    assert house.reader.counter == counter


async def test_a_new_process_goes_on_with_what_was_kept(house: House) -> None:
    await house.take(crl(2, [1, 2]))
    house.again()
    house.file.unlink()
    with pytest.raises(Unavailable):
        await house.look()  # and yet it knows what there was
    assert house.revoked() == [1, 2]
    await house.refuses(crl(1, [1]), "crl-went-back")
    assert await house.take(crl(3, [2]))
    assert house.revoked() == [2]


@pytest.mark.parametrize("step", ["half", "before the end", "renamed"])
async def test_what_was_interrupted_is_finished(
    house: House, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.take(crl(1, [1, 2]))

    class Dead(Exception):
        pass

    def die(*args: object) -> None:
        raise Dead

    with monkeypatch.context() as patch:
        if step == "half":
            patch.setattr(crl_source, "_AT_ONCE", 1)
            put_many, calls = house.table.put_many, []

            def put_some(*args: Any) -> None:
                calls.append(args)
                if len(calls) == 2:
                    raise Dead
                put_many(*args)

            patch.setattr(house.table, "put_many", put_some)
        elif step == "before the end":
            patch.setattr(crl_source, "sync_folder", die)
        else:
            patch.setattr(CrlSource, "_stand", die)
        with pytest.raises(Dead):
            await house.take(crl(2, [2, 5, 6]))
    house.again()
    # Meanwhile there is a third one, which 5 has left again.
    assert await house.take(crl(3, [6, 7]))
    assert house.revoked() == [6, 7]


async def test_an_empty_table_is_filled_from_what_was_kept(house: House, tmp_path: Path) -> None:
    await house.take(crl(1, [1, 2]))
    house.reader.close()
    house.table.close()
    house.table = TableWriter.open(tmp_path / "table", room=64 << 20, anew=True)
    house.reader = house.table.reader()
    house.again()
    assert not await house.look()
    assert house.revoked() == [1, 2]


async def test_what_went_back_is_refused_and_changes_nothing(house: House) -> None:
    await house.take(crl(5, [1, 2]))
    before = house.reader.counter
    await house.refuses(crl(4, [1]), "crl-went-back")
    await house.refuses(crl(6, [1], this_update=NOW - DAY), "crl-went-back")
    await house.refuses(crl(None, [1], this_update=NOW), "crl-went-back")
    assert house.revoked() == [1, 2]
    assert house.reader.counter == before


async def test_times(house: House) -> None:
    await house.refuses(crl(1, this_update=NOW + timedelta(seconds=1)), "crl-from-future")
    await house.refuses(crl(1, this_update=NOW - 2 * DAY, next_update=NOW), "crl-expired")
    await house.take(crl(1))
    house.clock.at = NOW + DAY
    with pytest.raises(Rejected) as refused:
        await house.look()  # the file is as it was, and too old now
    assert refused.value.code == "crl-expired"


def distribution_point(**fields: Any) -> tuple[x509.ExtensionType, bool]:
    defaults: dict[str, Any] = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False,
        "only_contains_ca_certs": False, "only_some_reasons": None, "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }  # fmt: skip
    return x509.IssuingDistributionPoint(**(defaults | fields)), True


URI = [x509.UniformResourceIdentifier("http://acme.example/1.crl")]
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")

REFUSED = {
    "of another name": (
        crl(name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Acme")])),
        "crl-issuer",
    ),
    "by another key": (crl(key=OTHER_KEY), "crl-signature"),
    "by a key of another kind": (crl(key=ed25519.Ed25519PrivateKey.generate()), "crl-signature"),
    "delta": (crl(1, [], (x509.DeltaCRLIndicator(1), True)), "crl-delta"),
    "indirect": (crl(1, [], distribution_point(indirect_crl=True)), "crl-indirect"),
    "users only": (
        crl(1, [], distribution_point(only_contains_user_certs=True)),
        "crl-partitioned",
    ),
    "CAs only": (crl(1, [], distribution_point(only_contains_ca_certs=True)), "crl-partitioned"),
    "a shard": (crl(1, [], distribution_point(full_name=URI)), "crl-partitioned"),
    "some reasons": (
        crl(
            1,
            [],
            distribution_point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),
        ),
        "crl-partitioned",
    ),
    "critical": (crl(1, [], (UNKNOWN, True)), "crl-critical-extension"),
    "critical entry": (crl(1, [1, entry(2, UNKNOWN, critical=True)]), "crl-critical-extension"),
    "entry of another CA": (
        crl(1, [1, entry(2, x509.CertificateIssuer([x509.DirectoryName(NAME)]), critical=True)]),
        "crl-indirect",
    ),
    "removed": (
        crl(1, [entry(2, x509.CRLReason(x509.ReasonFlags.remove_from_crl))]),
        "bad-crl",
    ),
    "cut short": (crl(1, [1])[:-1], "bad-crl"),
    "one octet more": (crl(1, [1]) + b"\0", "bad-crl"),
    "empty": (b"", "bad-crl"),
    "no CRL": (b"<html>maintenance</html>", "bad-crl"),
    "PEM of something else": (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "bad-crl"),
    "PEM without an end": (b"-----BEGIN X509 CRL-----\nAAAA\n", "bad-crl"),
    "PEM that is none": (b"-----BEGIN X509 CRL-----\nA*A=\n-----END X509 CRL-----\n", "bad-crl"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused_leaves_what_there_was(house: House, what: str) -> None:
    content, code = REFUSED[what]
    await house.take(crl(1, [9], this_update=NOW - timedelta(hours=1)))
    counter = house.reader.counter
    await house.refuses(content, code)
    assert house.reader.counter == counter
    assert house.revoked() == [9]
    assert await house.take(crl(2, [1]))


async def test_one_flipped_bit_is_another_signature(house: House) -> None:
    content = bytearray(crl(1, [1]))
    content[content.index(b"\x02\x01\x01\x17") + 2] = 2  # the serial number of the entry
    await house.refuses(bytes(content), "crl-signature")


async def test_pem_with_text_before_it_and_a_crl_without_number(house: House) -> None:
    pem = x509.load_der_x509_crl(crl(None, [1, 2])).public_bytes(Encoding.PEM)
    assert await house.take(b"Certificate Revocation List (CRL):\n  Version 2\n" + pem)
    assert house.revoked() == [1, 2]
    assert await house.take(crl(None, [2], this_update=NOW))
    assert house.revoked() == [2]


def test_serial_numbers() -> None:
    """All that a responder may be asked about is found, and what none can have passed over."""
    wide = [1, (1 << 159) - 1, 1 << 159, (1 << 160) - 1]
    none = [0, -1, 1 << 160, 1 << 170]
    since = der.time(NOW - DAY)
    entries = b"".join(der.sequence(der.integer(serial), since) for serial in wide + none)
    head = replace(read_head(crl()), entries=(0, len(entries)))
    assert [serial for serial, _ in read_entries(entries, head)] == wide


async def test_too_large(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl_fetch, "MAX_CRL", 1000)
    await house.refuses(crl(1, range(1, 100)), "crl-too-large")
    monkeypatch.undo()
    assert await house.take(crl(1, range(1, 100)))


async def test_a_pipe_is_no_file(house: House) -> None:
    import os

    os.mkfifo(house.file)
    with pytest.raises(Rejected) as refused:
        await house.look()
    assert refused.value.code == "crl-unreachable"


async def test_thousands_and_some_of_them_leave(house: House) -> None:
    assert await house.take(crl(1, range(1, 3001)))
    assert len(house.revoked(range(1, 3001))) == 3000
    assert await house.take(crl(2, range(1001, 3501)))
    assert house.revoked(range(1, 4000)) == list(range(1001, 3501))


# Over HTTP


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(0.005)


class Server:
    """A web server of a CA: ``content`` under an entity tag."""

    def __init__(self) -> None:
        self.content = b""
        self.tag = '"1"'
        self.status = 200
        self.asked: list[str | None] = []
        self.hang = asyncio.Event()
        self.hang.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.headers.get("If-None-Match"))
        assert request.headers["Accept-Encoding"] == "identity"
        await self.hang.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        if self.asked[-1] == self.tag:
            return web.Response(status=304)
        return web.Response(body=self.content, headers={"ETag": self.tag})

    async def moved(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/acme.crl")


@asynccontextmanager
async def serving(server: Server) -> Any:
    app = make_app({}, private=False)
    app.add_routes([web.get("/acme.crl", server.answer), web.get("/old.crl", server.moved)])
    serving = await serve_app(app, "127.0.0.1", 0)
    try:
        yield serving.urls[0]
    finally:
        await serving.stop()


async def test_over_http_only_when_it_has_changed(house: House) -> None:
    server = Server()
    async with serving(server) as url:
        server.content = crl(1, [1])
        house.again(f"{url}/old.crl")
        assert await house.look()
        assert not await house.look()
        server.content, server.tag = crl(2, [2]), '"2"'
        assert await house.look()
        assert server.asked == [None, '"1"', '"1"']
        assert house.revoked() == [2]


async def test_a_server_that_fails_is_asked_again(house: House) -> None:
    server = Server()
    async with serving(server) as url:
        server.status = 500
        running = asyncio.create_task(house.again(f"{url}/acme.crl").run())
        await until(lambda: len(server.asked) > 2)
        assert house.source.failing is not None
        assert house.source.failing.code == "crl-unreachable"
        server.status, server.content = 200, crl(1, [1])
        await until(lambda: house.source.current is not None)
        server.content, server.tag = crl(2, [1, 2]), '"2"'
        await until(lambda: house.source.count == 2)
        assert house.revoked() == [1, 2]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert house.source.failing is None


async def test_a_mistake_of_ours_does_not_end_it(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def trip(*_: object) -> None:
        raise ZeroDivisionError

    house.file.write_bytes(crl(1, [1]))
    monkeypatch.setattr("ocsp.crl_source.bring", trip)
    running = asyncio.create_task(house.source.run())
    await until(lambda: house.source.failing is not None)
    assert house.source.failing is not None
    assert house.source.failing.code == "crl-not-understood"
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text
    monkeypatch.undo()
    await until(lambda: house.source.failing is None)
    assert house.revoked() == [1]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_says_nothing_or_too_much(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    async with serving(server) as url:
        server.content = crl(1, range(1, 100))
        house.again(f"{url}/acme.crl", HASTY)
        server.hang.clear()
        with pytest.raises(Unavailable) as away:
            await house.look()
        assert away.value.code == "crl-unreachable"
        server.hang.set()
        house.again(f"{url}/acme.crl")
        monkeypatch.setattr(crl_fetch, "MAX_CRL", 1000)
        with pytest.raises(Rejected) as refused:
            await house.look()
        assert refused.value.code == "crl-too-large"
        house.again(f"{url}/nothing")
        with pytest.raises(Unavailable):
            await house.look()
    house.again(f"{url}/acme.crl")
    with pytest.raises(Unavailable):
        await house.look()
    house.again("http://[nonsense")
    with pytest.raises(Rejected):
        await house.look()


async def test_cancelled_in_the_middle_it_can_begin_again(house: House) -> None:
    """A thread that is at work on the file is waited for."""
    house.file.write_bytes(crl(1, range(1, 2000)))
    for ticks in range(0, 40, 3):
        running = asyncio.create_task(house.again().run())
        for _ in range(ticks):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
    assert not await house.look() or house.source.count == 1999
    assert len(house.revoked(range(1, 2000))) == 1999


def test_the_pace() -> None:
    source = CrlSource(ISSUER, "x", Path("x"), object(), FixedClock(NOW))  # type: ignore[arg-type]
    for left, pause in ((DAY, 3600.0), (timedelta(minutes=10), 300.0), (timedelta(0), 1.0)):
        source.current = replace(read_head(crl()), next_update=NOW + left)
        assert source._pause() == pause


def test_a_reader_waits_for_no_feed_when_it_was_told_until_when(house: House) -> None:
    house.table.issuer("feed", complete=True)
    house.table.set_horizon("feed", NOW - timedelta(minutes=2))
    reader: TableReader = house.reader
    with pytest.raises(Unavailable):
        reader.horizon("feed", NOW)
    house.table.set_horizon("feed", NOW - timedelta(minutes=2), NOW + timedelta(seconds=1))
    assert reader.horizon("feed", NOW).until == NOW + timedelta(seconds=1)
