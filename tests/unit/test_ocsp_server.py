"""What is kept, for how long, and for whom; what is refused, counted and written down."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from infra.errors import Rejected
from infra.http.front import Head, Request
from ocsp import server as server_module
from ocsp.request import MAX_REQUEST, NONCE, build_request
from ocsp.worker import write_access
from pki import der
from pki.status import Good
from tests.conformance.ocsp_fixtures import LIFETIME, cert_id
from tests.unit.ocsp_server_fixtures import (
    CA,
    HALF,
    HELD,
    NOW,
    OTHER,
    REVOKED,
    SECOND,
    TRY_LATER,
    Said,
    Scene,
    asked,
    make,
    open_scene,
    path,
    request,
)

__all__ = ["open_scene"]


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


async def test_a_mistake_does_not_end_the_refresher(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.get()
    scene.later(HALF)
    slept, refresh, tries = asyncio.sleep, scene.server.refresh, 0

    async def failing() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("a mistake")
        await refresh()

    monkeypatch.setattr(server_module.asyncio, "sleep", lambda seconds: slept(0))
    monkeypatch.setattr(scene.server, "refresh", failing)
    running = asyncio.create_task(scene.server.run())
    async with asyncio.timeout(20):
        while not (scene.server.metrics.refreshed or running.done()):
            await slept(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


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
    other = Request(Head(b"POST", b"/ocsp", head), transport)
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
