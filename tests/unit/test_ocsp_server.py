"""What is kept, for how long, and for whom; what is made anew; what is counted."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.x509 import ocsp as x509_ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.clock import FixedClock
from infra.errors import Rejected, Unavailable
from infra.http.front import Request
from ocsp import server as server_module
from ocsp.request import MAX_REQUEST, NONCE, build_request
from ocsp.responder import Responder
from ocsp.server import OcspServer
from ocsp.table import TableReader, TableWriter
from ocsp.table.layout import RING
from ocsp.worker import write_access
from pki import der
from pki.status import Good, RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import LIFETIME, Ca, cert_id, server, signer

CA = Ca("Server CA")
KEY = signer("ed25519")
OTHER = Ca("Another CA")
NOW = datetime.now(UTC).replace(microsecond=0)
HALF = LIFETIME / 2
SECOND = timedelta(seconds=1)
REVOKED = Revoked(NOW - SECOND, RevocationReason.keyCompromise, None, 1)
HELD = Revoked(NOW - SECOND, RevocationReason.certificateHold, None, 1)
TRY_LATER = bytes.fromhex("30030a0103")


class Token:
    """A key that may be away, or slow: while ``gate`` is closed, its signatures wait."""

    def __init__(self) -> None:
        self.uri = "pkcs11:object=ocsp"
        self.key_type = KEY.key_type
        self.algorithm = KEY.algorithm
        self.public_key_info = KEY.public_key_info
        self.away = False
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def sign(self, message: bytes) -> bytes:
        self.asked += 1
        if not self.gate.is_set():
            await self.gate.wait()
        if self.away:
            raise Unavailable("token-unavailable", "plug it in")
        return await KEY.sign(message)


@dataclass
class Scene:
    writer: TableWriter
    reader: TableReader
    token: Token
    clock: FixedClock
    server: OcspServer

    async def ask(self, request: Request) -> Said:
        said = self.server.answer(request)
        return Said(said if isinstance(said, bytes) else await said)

    async def get(self, serial: int = 1, *fields: str, nonce: bytes | None = None) -> Said:
        return await self.ask(get(serial, *fields, nonce=nonce))

    async def post(self, serial: int = 1, *, nonce: bytes | None = None) -> Said:
        return await self.ask(post(serial, nonce=nonce))

    def begin(self, request: Request) -> asyncio.Future[bytes]:
        """Ask what has to wait."""
        said = self.server.answer(request)
        assert not isinstance(said, bytes)
        return asyncio.ensure_future(said)

    def later(self, time: timedelta) -> None:
        self.clock.at += time


class Said:
    """An HTTP response, read."""

    def __init__(self, octets: bytes) -> None:
        head, _, self.body = octets.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        self.code = int(line.split(" ")[1])
        self.fields = dict(field.split(": ", 1) for field in fields)

    @property
    def ocsp(self) -> x509_ocsp.OCSPResponse:
        return x509_ocsp.load_der_ocsp_response(self.body)

    @property
    def status(self) -> str:
        """``GOOD``, ``REVOKED``, ``UNKNOWN``, or the name of an OCSP error."""
        if self.ocsp.response_status is not x509_ocsp.OCSPResponseStatus.SUCCESSFUL:
            return self.ocsp.response_status.name
        return self.ocsp.certificate_status.name


def asked(serial: int = 1, nonce: bytes | None = None) -> bytes:
    return build_request([cert_id(CA.issuer, serial)], nonce)


def request(method: str, target: str, body: bytes = b"", *fields: str) -> Request:
    lines = [f"{method} {target} HTTP/1.1", "Host: va.example", *fields]
    if method == "POST":
        lines.append("Content-Type: application/ocsp-request")
    head = "\r\n".join([*lines, "", ""]).encode()
    transport: Any = None  # it is for the peer of a Unix socket
    made = Request(method.encode(), target.encode(), head, transport)
    made.body = body
    return made


def path(serial: int = 1, nonce: bytes | None = None) -> str:
    return base64.b64encode(asked(serial, nonce)).decode()


def get(serial: int = 1, *fields: str, nonce: bytes | None = None) -> Request:
    return request("GET", f"/ocsp/{path(serial, nonce)}", b"", *fields)


def post(serial: int = 1, *, nonce: bytes | None = None) -> Request:
    return request("POST", "/ocsp", asked(serial, nonce))


def make(folder: Path, **more: Any) -> Scene:
    """A server of three good certificates, 1 to 3, of a CA that writes its table."""
    writer = TableWriter.open(folder / "table")
    writer.issuer(CA.name, complete=True, live=True)
    for serial in (1, 2, 3):
        writer.put(CA.name, serial, Good())
    reader = writer.reader(most_lag=timedelta(minutes=1))
    clock, token = FixedClock(NOW), Token()
    slow: Any = token
    responder = Responder([CA.delegate(slow)], reader, clock, LIFETIME)
    return Scene(writer, reader, token, clock, server(responder, **more))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = make(tmp_path)
    with closing(made.reader):
        yield made
    made.writer.close()  # whichever it has now


# What is kept


async def test_one_signature_serves_all_who_ask_the_same(scene: Scene) -> None:
    first = await scene.get()
    assert first.status == "GOOD"
    for _ in range(3):
        for said in (await scene.get(), await scene.post()):
            assert (said.code, said.body) == (200, first.body)
    assert scene.token.asked == 1
    metrics = scene.server.measured()
    assert (metrics.hits, metrics.signed, metrics.refreshed, metrics.kept) == (6, 1, 0, 1)
    assert metrics.answers == {"good": 7}


@pytest.mark.parametrize("first", ["GET", "POST"])
async def test_each_spelling_of_a_path_leads_to_the_same_answer(scene: Scene, first: str) -> None:
    body = (await (scene.get() if first == "GET" else scene.post())).body
    text = path()
    spellings = [text, quote(text, safe=""), f"{text}/", f"/{text}", f"%{ord(text[0]):x}{text[1:]}"]
    for _ in range(2):
        for one in spellings:
            assert (await scene.ask(request("GET", f"/ocsp/{one}"))).body == body
    assert scene.token.asked == 1


@pytest.mark.parametrize("name", ["If-None-Match", "if-none-match", "IF-NONE-MATCH"])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"a", {}', '{},"b"', "*"])
async def test_304_for_whoever_has_the_answer(scene: Scene, name: str, form: str) -> None:
    first = await scene.get()
    again = await scene.get(1, f"{name}: {form.format(first.fields['ETag'])}")
    assert (again.code, again.body) == (304, b"")
    for field in ("ETag", "Expires", "Last-Modified", "Cache-Control", "Date"):
        assert again.fields[field] == first.fields[field]
    assert scene.server.metrics.unchanged == 1


@pytest.mark.parametrize(
    "fields",
    [
        ['If-None-Match: "a", W/"b"'],
        ["X-If-None-Match: *"],
        [f"If-Modified-Since: {NOW + LIFETIME:%a, %d %b %Y %H:%M:%S GMT}"],
    ],
)
async def test_200_for_whoever_has_another(scene: Scene, fields: list[str]) -> None:
    await scene.get()
    assert (await scene.get(1, *fields)).status == "GOOD"


async def test_post_knows_no_conditions(scene: Scene) -> None:
    tag = (await scene.post()).fields["ETag"]
    said = await scene.ask(request("POST", "/ocsp", asked(), f"If-None-Match: {tag}"))
    assert said.status == "GOOD"


async def test_what_was_never_issued_is_not_kept(scene: Scene) -> None:
    for _ in range(2):
        said = await scene.get(7)
        assert (said.status, said.fields["Cache-Control"]) == ("UNKNOWN", "no-store")
    assert scene.token.asked == 2
    scene.writer.put(CA.name, 7, Good())
    assert (await scene.get(7)).status == "GOOD"


@pytest.mark.parametrize("nonce", [b"n" * 32, b"n"])
async def test_nobody_else_gets_an_answer_with_a_nonce(scene: Scene, nonce: bytes) -> None:
    for _ in range(2):
        for said in (await scene.get(nonce=nonce), await scene.post(nonce=nonce)):
            assert said.fields["Cache-Control"] == "no-store"
            assert said.ocsp.extensions.get_extension_for_class(x509_ocsp_nonce()).value.nonce
    assert scene.token.asked == 4
    assert scene.server.measured().kept == 0


def x509_ocsp_nonce() -> type:
    from cryptography.x509 import OCSPNonce

    return OCSPNonce


async def test_several_certificates_in_one_answer_are_not_kept(scene: Scene) -> None:
    scene.writer.put(CA.name, 2, HELD)
    body = build_request([cert_id(CA.issuer, serial) for serial in (1, 2, 9)])
    for _ in range(2):
        said = await scene.ask(request("POST", "/ocsp", body))
        assert said.fields["Cache-Control"] == "no-store"
    assert scene.token.asked == 2
    assert scene.server.metrics.answers == {"good": 2, "hold": 2, "unknown": 2}


async def test_requests_with_padding_take_no_room(scene: Scene) -> None:
    def padded(size: int) -> bytes:
        oid = der.object_identifier("1.2.3")
        extensions = der.sequence(der.sequence(oid, der.octet_string(bytes(size))))
        asks = der.sequence(der.sequence(cert_id(CA.issuer, 1)))
        return der.sequence(der.sequence(asks, der.explicit(2, extensions)))

    assert (await scene.ask(request("POST", "/ocsp", padded(100)))).status == "GOOD"
    assert scene.server.measured().kept == 1
    for size in (500, 60_000):
        assert (await scene.ask(request("POST", "/ocsp", padded(size)))).status == "GOOD"
    assert scene.server.measured().kept == 1
    await scene.get()
    assert (await scene.ask(request("GET", f"/ocsp/{'/' * 8000}{path()}"))).status == "GOOD"
    assert max(map(len, scene.server._cache.targets)) < 1000


async def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    scene = make(tmp_path, entries=2)
    with closing(scene.writer), closing(scene.reader):
        for serial in (1, 2, 3, 3, 2):
            assert (await scene.get(serial)).status == "GOOD"
        assert (scene.token.asked, scene.server.measured().kept) == (3, 2)
        await scene.get(1)
        assert (scene.token.asked, scene.server.measured().kept) == (4, 2)


# Time


async def test_what_is_asked_for_is_refreshed_before_it_ages(scene: Scene) -> None:
    first = await scene.get()
    scene.later(HALF - 2 * SECOND)
    await scene.server.refresh()
    assert scene.token.asked == 1
    scene.later(2 * SECOND)
    await scene.server.refresh()
    assert scene.token.asked == 2
    second = await scene.get()
    assert second.ocsp.this_update_utc == NOW + HALF
    assert second.ocsp.next_update_utc == NOW + HALF + LIFETIME
    assert second.fields["ETag"] != first.fields["ETag"]
    metrics = scene.server.measured()
    assert (metrics.hits, metrics.signed, metrics.refreshed) == (1, 1, 1)
    assert sum(metrics.signing) == 1
    assert scene.token.asked == 2


async def test_what_nobody_asks_for_any_more_is_dropped(scene: Scene) -> None:
    await scene.get()
    for kept in (1, 0):
        scene.later(HALF)
        await scene.server.refresh()
        assert scene.server.measured().kept == kept
    assert scene.token.asked == 2


async def test_many_are_refreshed(scene: Scene) -> None:
    serials = range(100, 200)
    for serial in serials:
        scene.writer.put(CA.name, serial, Good())
        await scene.get(serial)
    scene.later(HALF)
    await scene.server.refresh()
    assert scene.server.metrics.refreshed == 100
    for serial in serials:
        assert (await scene.get(serial)).ocsp.this_update_utc == NOW + HALF
    assert scene.token.asked == 200


async def test_without_its_token_it_serves_what_it_has_until_that_ends(scene: Scene) -> None:
    first = await scene.get()
    scene.token.away = True
    scene.later(HALF)
    while scene.clock.at < NOW + LIFETIME - 10 * SECOND:
        await scene.server.refresh()
        assert (await scene.get()).body == first.body
        scene.later(7 * SECOND)
    assert scene.token.asked > 100  # it went on trying
    scene.clock.at = NOW + LIFETIME - SECOND
    assert (await scene.get()).body == TRY_LATER
    await scene.server.refresh()
    assert scene.server.measured().kept == 0
    scene.token.away = False
    assert (await scene.get()).status == "GOOD"
    assert scene.server.metrics.refusals == {"token-unavailable": 1}


async def test_a_refresh_that_fails_once_is_tried_again(scene: Scene) -> None:
    await scene.get()
    scene.token.away = True
    scene.later(HALF)
    await scene.server.refresh()
    scene.token.away = False
    scene.later(6 * SECOND)
    await scene.server.refresh()
    assert (await scene.get()).ocsp.this_update_utc == NOW + HALF + 6 * SECOND
    assert scene.server.metrics.refreshed == 1


async def test_no_answer_outlives_its_next_update(scene: Scene) -> None:
    await scene.get()
    for before in range(5, -3, -1):
        for part in (timedelta(0), SECOND / 2, SECOND - timedelta(microseconds=1)):
            scene.clock.at = NOW + LIFETIME - before * SECOND + part
            for said in (await scene.get(), await scene.post()):
                assert said.ocsp.next_update_utc > scene.clock.at
                age = int(re.findall(r"max-age=(\d+)", said.fields["Cache-Control"])[0])
                fetched = scene.clock.at.replace(microsecond=0)
                assert fetched + age * SECOND < said.ocsp.next_update_utc
                assert said.fields["Date"] == f"{fetched:%a, %d %b %Y %H:%M:%S GMT}"


async def test_the_refresher_runs_until_it_is_cancelled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.get()
    scene.later(HALF)
    slept = asyncio.sleep
    monkeypatch.setattr(server_module.asyncio, "sleep", lambda seconds: slept(0))
    running = asyncio.create_task(scene.server.run())
    while scene.server.metrics.refreshed == 0:
        await slept(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# Changes


async def test_a_change_counts_at_once(scene: Scene) -> None:
    for status, said in ((HELD, "REVOKED"), (Good(), "GOOD"), (REVOKED, "REVOKED")):
        await scene.get()
        scene.writer.put(CA.name, 1, status)
        for answer in (await scene.get(), await scene.post(), await scene.get(nonce=b"n" * 16)):
            assert answer.status == said
    assert scene.server.metrics.answers["hold"] == 4


async def test_a_change_of_one_leaves_the_others_kept(scene: Scene) -> None:
    await scene.get(1)
    await scene.get(2)
    scene.writer.put(CA.name, 1, REVOKED)
    await scene.get(2)
    assert scene.token.asked == 2
    assert scene.server.measured().kept == 1


async def test_more_changes_than_are_told_drop_everything(scene: Scene) -> None:
    await scene.get()
    for number in range(RING + 1):
        scene.writer.put(CA.name, 2, HELD if number % 2 else Good())
    scene.writer.put(CA.name, 1, REVOKED)
    assert (await scene.get()).status == "REVOKED"
    assert scene.server.measured().kept == 1


async def test_a_refresh_does_not_bring_back_what_has_changed(scene: Scene) -> None:
    await scene.get()
    scene.later(HALF)
    scene.token.gate.clear()
    refreshing = asyncio.create_task(scene.server.refresh())
    await waited_for(scene, 2)
    scene.writer.put(CA.name, 1, REVOKED)
    revoked = scene.begin(get())
    scene.token.gate.set()
    await refreshing
    assert Said(await revoked).status == "REVOKED"
    assert (await scene.get()).status == "REVOKED"


async def test_another_table_takes_the_place_of_what_was_kept(scene: Scene, tmp_path: Path) -> None:
    await scene.get()
    scene.writer.close()
    scene.writer = TableWriter.open(tmp_path / "table", anew=True)
    said = await scene.get()
    assert said.body == TRY_LATER
    assert scene.server.measured().kept == 0
    scene.writer.issuer(CA.name, complete=True, live=True)
    scene.writer.put(CA.name, 1, REVOKED)
    scene.later(SECOND)
    assert (await scene.get()).status == "REVOKED"


async def test_nothing_is_said_while_the_source_is_cut_off(scene: Scene) -> None:
    await scene.get()
    scene.writer.issuer(CA.name, complete=True, live=False)
    scene.writer.set_horizon(CA.name, NOW)
    scene.later(timedelta(minutes=1))
    assert (await scene.get()).status == "GOOD"
    assert scene.server.measured().lag == 60.0
    scene.later(SECOND)
    for said in (await scene.get(), await scene.post(), await scene.get(nonce=bytes(32))):
        assert said.body == TRY_LATER
        assert said.fields["Cache-Control"] == "no-store"
    assert scene.server.metrics.refusals == {"status-source-cut-off": 3}
    scene.later(timedelta(minutes=2))
    assert scene.server.measured().lag == 181.0  # an alarm sees that it grows
    scene.writer.set_horizon(CA.name, scene.clock.at)
    assert (await scene.get()).status == "GOOD"
    assert scene.server.measured().lag == 0.0
    assert scene.token.asked == 1


# Slow tokens


async def waited_for(scene: Scene, signatures: int) -> None:
    """Until the token was asked so often."""
    async with asyncio.timeout(20):
        while scene.token.asked < signatures:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)


async def test_one_signature_serves_all_who_ask_while_it_is_made(scene: Scene) -> None:
    scene.token.gate.clear()
    askers = [
        get(1, "If-None-Match: *"),
        get(),
        post(),
        request("GET", f"/ocsp/{quote(path(), safe='')}"),
        get(1, 'If-None-Match: "a"'),
    ]
    waiting = [scene.begin(one) for one in askers]
    other = scene.begin(get(2))
    scene.token.gate.set()
    conditional, *others = [Said(one) for one in await asyncio.gather(*waiting)]
    assert (conditional.code, conditional.body) == (304, b"")
    assert {one.code for one in others} == {200}
    assert len({one.body for one in others}) == 1
    assert others[0].status == "GOOD"
    assert Said(await other).status == "GOOD"
    assert scene.token.asked == 2
    metrics = scene.server.measured()
    assert (metrics.signed, metrics.hits, metrics.answers) == (2, 4, {"good": 6})
    assert scene.server._making == {}


async def test_whoever_goes_away_leaves_the_others_their_answer(scene: Scene) -> None:
    scene.token.gate.clear()
    first, second = scene.begin(get()), scene.begin(post())
    await asyncio.sleep(0)
    first.cancel()
    scene.token.gate.set()
    assert Said(await second).status == "GOOD"
    assert first.cancelled()
    assert scene.token.asked == 1


async def test_an_answer_tells_a_change_that_was_made_while_it_was_signed(scene: Scene) -> None:
    scene.token.gate.clear()
    waiting = [scene.begin(one) for one in (get(), get(nonce=bytes(16)))]
    await waited_for(scene, 2)
    scene.writer.put(CA.name, 1, REVOKED)
    waiting += [scene.begin(post())]  # it knows of the change, and gets the answer of the first
    scene.token.gate.set()
    assert [Said(one).status for one in await asyncio.gather(*waiting)] == ["REVOKED"] * 3
    assert (await scene.get()).status == "REVOKED"
    assert scene.token.asked >= 4  # each of the two was signed twice


async def test_a_change_of_another_certificate_makes_nobody_sign_again(scene: Scene) -> None:
    scene.token.gate.clear()
    waiting = scene.begin(get())
    await waited_for(scene, 1)
    scene.writer.put(CA.name, 2, REVOKED)
    scene.token.gate.set()
    assert Said(await waiting).status == "GOOD"
    assert scene.token.asked == 1


async def test_whoever_is_too_many_is_told_to_come_later_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_UNDER_WAY", 8)
    kept = await scene.get(3)
    scene.token.gate.clear()
    waiting = [scene.begin(get(nonce=bytes((number,)))) for number in range(8)]
    for one in (post(nonce=b"one more"), get(2)):
        said = scene.server.answer(one)
        assert isinstance(said, bytes)
        assert Said(said).body == TRY_LATER
    same = scene.begin(get(nonce=bytes((0,))))
    assert (await scene.get(3)).body == kept.body
    scene.token.gate.set()
    assert {Said(one).status for one in await asyncio.gather(*waiting, same)} == {"GOOD"}
    assert scene.server.metrics.refusals == {"overloaded": 2}
    assert scene.server.metrics.answers == {"good": 11, "tryLater": 2}
    assert (await scene.get(2)).status == "GOOD"


async def test_a_token_that_is_away_while_many_wait(scene: Scene) -> None:
    scene.token.gate.clear()
    waiting = [scene.begin(one) for one in (get(), post(), get(nonce=b"n"))]
    scene.token.away = True
    scene.token.gate.set()
    assert {Said(one).body for one in await asyncio.gather(*waiting)} == {TRY_LATER}
    assert scene.server.metrics.answers == {"tryLater": 3}
    scene.token.away = False
    assert (await scene.get()).status == "GOOD"


# What is refused, counted and written down


async def test_each_refusal_is_counted_by_its_code(scene: Scene) -> None:
    foreign = build_request([cert_id(OTHER.issuer, 1)])
    await scene.ask(request("POST", "/ocsp", foreign))
    await scene.ask(request("POST", "/ocsp", b"garbage"))
    await scene.ask(request("GET", "/ocsp/garbage"))
    nonce = der.sequence(der.sequence(NONCE, der.octet_string(b"bare")))
    asks = der.sequence(der.sequence(cert_id(CA.issuer, 1)))
    bad_nonce = der.sequence(der.sequence(asks, der.explicit(2, nonce)))
    await scene.ask(request("POST", "/ocsp", bad_nonce))
    metrics = scene.server.metrics
    assert metrics.answers == {"unauthorized": 1, "malformedRequest": 3}
    assert sum(metrics.refusals.values()) == 4
    assert {"not-our-issuer", "bad-path"} <= metrics.refusals.keys()
    assert metrics.signed == sum(metrics.signing) == 0


def test_a_body_over_the_limit_is_refused(scene: Scene) -> None:
    with pytest.raises(Rejected, match="request-too-large"):
        scene.server.answer(request("POST", "/ocsp", bytes(MAX_REQUEST + 1)))
    said = scene.server.answer(request("POST", "/ocsp", bytes(MAX_REQUEST)))
    assert isinstance(said, bytes)
    assert Said(said).status == "MALFORMED_REQUEST"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([], "unsupported-media-type"),
        (["Content-Type: text/plain"], "unsupported-media-type"),
        (
            ["Content-Type: application/ocsp-request", "Content-Encoding: gzip"],
            "unsupported-media-type",
        ),
    ],
)
async def test_a_body_of_another_type_is_refused_even_if_its_answer_is_kept(
    scene: Scene, fields: list[str], code: str
) -> None:
    await scene.post()
    head = "\r\n".join(["POST /ocsp HTTP/1.1", "Host: a", *fields, "", ""]).encode()
    transport: Any = None
    other = Request(b"POST", b"/ocsp", head, transport)
    other.body = asked()
    for _ in range(2):
        with pytest.raises(Rejected, match=code):
            scene.server.answer(other)


def test_another_method_is_refused(scene: Scene) -> None:
    with pytest.raises(Rejected, match="method-not-allowed"):
        scene.server.answer(request("PUT", f"/ocsp/{path()}"))


async def test_a_mistake_of_ours_is_told_in_ocsp(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(asked: bytes) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(scene.server._responder, "answer", answer)
    said = await scene.get()
    assert said.status == "INTERNAL_ERROR"
    assert scene.server.metrics.answers == {"internalError": 1}
    assert "ZeroDivisionError" in caplog.text


async def test_the_age_of_the_oldest_answer(scene: Scene) -> None:
    assert scene.server.measured().oldest == 0.0
    await scene.get(1)
    scene.later(10 * SECOND)
    await scene.get(2)
    scene.later(10 * SECOND)
    assert scene.server.measured().oldest == 20.0
    scene.writer.put(CA.name, 1, REVOKED)
    await scene.get(2)
    assert scene.server.measured().oldest == 10.0


async def test_the_access_log_tells_nothing_of_who_asked_and_about_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scene = make(tmp_path, access=write_access)
    with closing(scene.writer), closing(scene.reader):
        scene.writer.put(CA.name, 0x1234567890, HELD)
        await scene.get(0x1234567890, "X-Forwarded-For: 192.0.2.7", "User-Agent: somebody")
        await scene.post(0x1234567890)
        await scene.get(9, nonce=bytes(32))
        await scene.ask(request("GET", "/ocsp/garbage"))
        scene.token.away = True
        await scene.get(1)
    lines = [one.getMessage() for one in caplog.records if one.name == "ocsp.access"]
    assert [line.rpartition(" ")[0] for line in lines] == [
        "GET hold -",
        "POST hold -",
        "GET unknown -",
        "GET malformedRequest bad-path",
        "GET tryLater token-unavailable",
    ]
    assert all(re.fullmatch(r"\d+\.\d{6}", line.rpartition(" ")[2]) for line in lines)
    told = "".join(one.getMessage() for one in caplog.records)
    for secret in ("1234567890", "78187493520", "192.0.2.7", "somebody", path(0x1234567890)[:30]):
        assert secret not in told


# All of it

ACTS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 4), st.sampled_from([Good(), HELD, REVOKED])),
    st.tuples(st.just("get"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("post"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("later"), st.integers(0, 2000), st.none()),
    st.tuples(st.just("refresh"), st.none(), st.none()),
    st.tuples(st.just("away"), st.booleans(), st.none()),
    st.tuples(st.just("gate"), st.booleans(), st.none()),
)


@settings(deadline=None, max_examples=60)
@given(acts=st.lists(ACTS, max_size=40))
def test_whatever_happens_an_answer_is_true_when_it_is_given(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, Any, Any]]
) -> None:
    async def play(scene: Scene) -> None:
        waiting: list[tuple[int, asyncio.Future[bytes]]] = []

        def check(serial: int, octets: bytes) -> None:
            said = Said(octets)
            if said.status == "TRY_LATER":
                return
            known = scene.reader.status(CA.name, serial)
            expected = {Good: "GOOD", Revoked: "REVOKED"}.get(type(known), "UNKNOWN")
            assert said.status == expected
            if isinstance(known, Revoked):
                assert said.ocsp.revocation_reason is not None
                assert (
                    said.ocsp.revocation_reason.name
                    == {
                        RevocationReason.keyCompromise: "key_compromise",
                        RevocationReason.certificateHold: "certificate_hold",
                    }[known.reason]
                )
            assert said.ocsp.next_update_utc > scene.clock.at

        async def let_go() -> None:
            scene.token.gate.set()
            for serial, one in waiting:
                check(serial, await one)
            waiting.clear()

        for act, one, two in acts:
            match act:
                case "put":
                    scene.writer.put(CA.name, one, two)
                case "later":
                    await let_go()
                    scene.later(one * SECOND)
                case "refresh":
                    await let_go()
                    await scene.server.refresh()
                case "away":
                    scene.token.away = one
                case "gate":
                    await let_go()
                    if one:
                        scene.token.gate.clear()
                case _:
                    asks = get if act == "get" else post
                    said = scene.server.answer(asks(one, nonce=b"n" if two else None))
                    if isinstance(said, bytes):
                        check(one, said)
                    else:
                        waiting.append((one, asyncio.ensure_future(said)))
        await let_go()
        assert scene.server._making == {}

    with asyncio.Runner() as runner:
        made = make(tmp_path_factory.mktemp("table"), entries=3)
        with closing(made.writer), closing(made.reader):
            runner.run(play(made))
