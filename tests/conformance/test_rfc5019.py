"""RFC 5019 by clause: what the lightweight profile asks of answers and of their HTTP headers."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import aiohttp
import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography.x509 import ocsp as x509_ocsp

from infra.clock import FixedClock
from infra.errors import Unavailable
from infra.http.front import Front
from ocsp.request import build_request
from ocsp.responder import Responder, ResponderIdType
from ocsp.server import PREFIXES
from pki.status import CertStatus, Good, RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import (
    LIFETIME,
    NOW,
    Ca,
    Statuses,
    cert_id,
    server,
    serving,
    signer,
)
from tests.unit.front_fixtures import alone, calling

CA = Ca("RFC 5019 CA")
# Ed25519 signs the same twice, so that an answer is the same while the clock stands.
DELEGATE = CA.delegate(signer("ed25519"), ResponderIdType.byKey)
ASKED = build_request([cert_id(CA.issuer, 1)])
PATH = base64.b64encode(ASKED).decode()
POST_TYPE = {"Content-Type": "application/ocsp-request"}


def ours(
    status: CertStatus | Exception = Good(),  # noqa: B008 - frozen
    clock: FixedClock | None = None,
) -> Responder:
    statuses = Statuses({(CA.name, 1): status})
    return Responder([DELEGATE], statuses, clock or FixedClock(NOW), LIFETIME)


def header_time(response: aiohttp.ClientResponse, name: str) -> datetime:
    return parsedate_to_datetime(response.headers[name])


async def test_2_2_1_no_response_extensions_without_a_nonce() -> None:
    read = x509_ocsp.load_der_ocsp_response((await ours().answer(ASKED)).body)
    assert len(read.extensions) == 0
    assert len(read.single_extensions) == 0


async def test_2_2_3_byte_for_byte_the_same_answer_by_get_and_post() -> None:
    async with serving(ours()) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/{PATH}") as response:
            by_get = await response.read()
        async with http.post(url, data=ASKED, headers=POST_TYPE) as response:
            assert await response.read() == by_get


async def test_2_2_4_times_are_whole_seconds_and_have_an_end() -> None:
    body = (await ours().answer(ASKED)).body
    read = x509_ocsp.load_der_ocsp_response(body)
    assert read.next_update_utc is not None
    assert read.this_update_utc <= read.produced_at_utc < read.next_update_utc
    whole = asn1_ocsp.OCSPResponse.load(body, strict=True)
    data = whole["response_bytes"]["response"].parsed["tbs_response_data"]
    single = data["responses"][0]
    for time in (data["produced_at"], single["this_update"], single["next_update"]):
        assert len(time.contents) == len(b"20261122120000Z")  # no fractions


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_6_2_caching_headers(method: str) -> None:
    async with serving(ours()) as url, aiohttp.ClientSession() as http:
        if method == "GET":
            response = await http.get(f"{url}/{PATH}")
        else:
            response = await http.post(url, data=ASKED, headers=POST_TYPE)
        async with response:
            body = await response.read()
    read = x509_ocsp.load_der_ocsp_response(body)
    assert header_time(response, "Last-Modified") == read.this_update_utc
    assert header_time(response, "Expires") == read.next_update_utc
    assert response.headers["ETag"] == f'"{hashlib.sha256(body).hexdigest()}"'
    age, *others = response.headers["Cache-Control"].split(", ")
    assert others == ["public", "no-transform", "must-revalidate"]
    assert age.startswith("max-age=")
    until = NOW + timedelta(seconds=int(age.removeprefix("max-age=")))
    assert read.next_update_utc is not None
    assert read.this_update_utc < until < read.next_update_utc
    assert response.headers["Content-Length"] == str(len(body))


async def test_6_2_max_age_shrinks_with_the_delegates_certificate() -> None:
    until = NOW.replace(microsecond=0) + timedelta(seconds=90)
    ending = CA.delegate(signer("p-256"), until=until)
    known = Statuses({(CA.name, 1): Good()})
    responder = Responder([ending], known, FixedClock(NOW), LIFETIME)
    async with (
        serving(responder) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/{PATH}") as response,
    ):
        assert header_time(response, "Expires") == until
        age = int(response.headers["Cache-Control"].split(",")[0].removeprefix("max-age="))
        assert 85 <= age < 90


@pytest.mark.parametrize("form", ["{}", 'W/{}, "other"', '"other", {}', "*"])
async def test_6_not_modified_while_the_client_holds_this_very_answer(form: str) -> None:
    async with serving(ours()) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/{PATH}") as response:
            first = response.headers
        headers = {"If-None-Match": form.format(first["ETag"])}
        async with http.get(f"{url}/{PATH}", headers=headers) as response:
            assert response.status == 304
            assert await response.read() == b""
            for name in ("ETag", "Cache-Control", "Expires", "Last-Modified"):
                assert response.headers[name] == first[name]


async def test_6_a_change_within_the_same_second_is_not_hidden_by_304() -> None:
    statuses = Statuses({(CA.name, 1): Good()})
    responder = Responder([DELEGATE], statuses, FixedClock(NOW), LIFETIME)
    async with serving(responder) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/{PATH}") as response:
            held = response.headers
        statuses.change(CA.name, 1, Revoked(NOW, RevocationReason.keyCompromise, None, 1))
        conditions = {"If-None-Match": held["ETag"], "If-Modified-Since": held["Last-Modified"]}
        for name, value in conditions.items():
            async with http.get(f"{url}/{PATH}", headers={name: value}) as response:
                assert response.status == 200
                read = x509_ocsp.load_der_ocsp_response(await response.read())
                assert read.certificate_status is x509_ocsp.OCSPCertStatus.REVOKED


async def test_6_nobody_keeps_an_answer_with_a_nonce() -> None:
    asked = build_request([cert_id(CA.issuer, 1)], bytes(32))
    path = base64.b64encode(asked).decode()
    async with (
        serving(ours()) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/{path}", headers={"If-None-Match": "*"}) as response,
    ):
        assert response.status == 200
        assert_not_kept(response)


async def test_6_nobody_keeps_an_error() -> None:
    away = ours(Unavailable("store-unavailable", "wait"))
    async with (
        serving(away) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/{PATH}") as response,
    ):
        assert await response.read() == bytes.fromhex("30030a0103")
        assert_not_kept(response)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [(f"/{PATH}", "GET"), ("", "POST"), ("/", "GET, POST")],
    ids=["GET", "POST", "either"],
)
async def test_5_only_get_and_post(path: str, allowed: str) -> None:
    async with serving(ours()) as url, aiohttp.ClientSession() as http:
        for method in ("HEAD", "PUT", "DELETE", "OPTIONS"):
            async with http.request(method, url + path) as response:
                assert response.status == 405
                assert response.headers["Allow"] == allowed


async def test_5_what_is_not_ocsp_is_not_found_where_nothing_else_is_served() -> None:
    front = Front(server(ours()).answer, PREFIXES)
    async with alone(front) as port, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}/ocsp"
        for method in ("HEAD", "PUT", "DELETE", "OPTIONS"):
            async with http.request(method, f"{url}/{PATH}") as response:
                assert response.status == 404
        async with http.get(f"{url}/{PATH}") as response:
            assert response.status == 200


def asking(method: str, url: str, *fields: str) -> bytes:
    """A request for ``ASKED``, its target as ``url`` has it."""
    body = ASKED if method == "POST" else b""
    lines = [f"{method} {url} HTTP/1.1", "Host: va.example", *fields]
    if body:
        lines += ["Content-Type: application/ocsp-request", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_5_a_connection_that_asked_for_something_else_gets_the_same_answers() -> None:
    get, post = asking("GET", f"/ocsp/{PATH}"), asking("POST", "/ocsp")
    async with serving(ours()) as url, calling(port_of(url)) as caller:
        by_front = [await caller.ask(one) for one in (get, post)]
        assert (await caller.ask(asking("GET", "/elsewhere")))[0] == 404
        # From here on it is the application's.
        by_application = [await caller.ask(one) for one in (get, post)]
        for (status, head, body), (_, other_head, other_body) in zip(
            by_front, by_application, strict=True
        ):
            assert status == 200
            assert other_body == body
            for name in (b"Content-Type", b"ETag", b"Cache-Control", b"Last-Modified", b"Expires"):
                assert field(other_head, name) == field(head, name) != b""
        tag = field(by_front[0][1], b"ETag").decode()
        caller.writer.write(asking("GET", f"/ocsp/{PATH}", f"If-None-Match: {tag}"))
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 304 ")
        assert field(head, b"ETag").decode() == tag
        # RFC 9112 §3.2.2: as to a proxy, which a server takes, too.
        assert (await caller.ask(asking("GET", f"{url}/{PATH}")))[2] == by_front[0][2]


@pytest.mark.parametrize("before", ["/ocsp/A", "/elsewhere"], ids=["front", "application"])
async def test_5_a_path_of_any_octets_is_refused(before: str) -> None:
    async with serving(ours()) as url, calling(port_of(url)) as caller:
        await caller.ask(asking("GET", before))
        asked = asking("GET", "/ocsp/?").replace(b"?", b"\xc3\xa9\xff")
        assert (await caller.ask(asked))[0] == 400


def port_of(url: str) -> int:
    return int(url.split(":")[2].partition("/")[0])


def field(head: bytes, name: bytes) -> bytes:
    return head.partition(name + b": ")[2].partition(b"\r\n")[0]


def assert_not_kept(response: aiohttp.ClientResponse) -> None:
    assert response.headers["Cache-Control"] == "no-store"
    assert not {"ETag", "Expires", "Last-Modified"} & response.headers.keys()
