"""A responder elsewhere gets the certificate of its key from the CA, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from infra.clock import FixedClock, SystemClock
from infra.errors import Rejected, Unavailable
from infra.http.app import Serving, make_app, serve_app
from infra.http.auth import Scope, TokenFolder, authenticate
from infra.store.sqlite import SqliteStore
from ocsp.feed_http import FOLLOWER_MAY, responder_route
from ocsp.feed_wire import RESPONDER_PATH
from ocsp.follower import Origin, enrol
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Checks
from pki.export import encode_pem
from pki.hierarchy import COLLECTIONS, DEVELOPMENT, Hierarchy, Urls
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.lint import Linter
from pki.log.log import COLLECTIONS as LOG
from pki.log.log import Log
from pki.names import parse_rfc4514
from pki.preparation import PrepareHere
from pki.profile import load_profiles
from pki.record import CERTIFICATES
from pki.request import assemble_request, build_request_info
from pki.serial import SerialNumber
from pki.signer.file import FileKeyStore
from pki.status import RevocationReason
from pki.throwaway import Throwaway

ROOT = Path(__file__).parents[2]
OPERATOR = "the-operator-s-token-that-is-long-enough"
LIFETIME = timedelta(days=30)
RENEW_BEFORE = LIFETIME / 3


@cache
def key(number: int) -> Throwaway:
    """The key of a responder; each number has its own."""
    private = ec.generate_private_key(ec.SECP256R1())
    return Throwaway(private, KeyType.P_256, usual_algorithm(KeyType.P_256))


def request(number: int = 0, subject: str = "CN=anything") -> bytes:
    """A request by the key of this number, signed anew each time."""
    info = build_request_info(parse_rfc4514(subject).der, key(number).public_key_info, ())
    return assemble_request(info, key(number).algorithm, key(number).sign(info))


@dataclass
class House:
    """A CA and its private port."""

    hierarchy: Hierarchy
    ledger: Ledger
    clock: FixedClock
    serving: Serving
    origin: Origin

    def issuer(self, name: str = "issuing") -> Issuer:
        issuer = self.hierarchy.authority(name).issuer
        assert issuer is not None
        return issuer


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    clock = FixedClock(SystemClock().now())
    store = await SqliteStore.open(folder / "state.sqlite", (CERTIFICATES, *LOG, *COLLECTIONS))
    log = await Log.open(store, origin="log.example/ca", clock=clock)
    ledger = await Ledger.open(store, log, clock, intent_key=bytes(32))
    keys, linter = FileKeyStore(folder / "keys", lambda: b"passphrase"), Linter()
    hierarchy = Hierarchy(
        store,
        keys,
        ledger,
        log,
        linter,
        load_profiles(ROOT / "conf" / "profiles"),
        urls=lambda name: Urls(*(f"http://127.0.0.1/{kind}/{name}" for kind in "abc")),
        prepare=PrepareHere(),
        checks=Checks(),
    )
    for plan in DEVELOPMENT:
        await hierarchy.create(plan)
    tokens = TokenFolder(folder / "followers")
    app = make_app(
        {"not-authenticated": 401, "not-allowed": 403, "no-such-authority": 404},
        private=True,
        middlewares=[authenticate(OPERATOR, scopes=[Scope("follower", tokens, FOLLOWER_MAY)])],
    )
    app.add_routes([responder_route(hierarchy, LIFETIME)])
    token = tokens.make("va-south")
    serving = await serve_app(app, "127.0.0.1", 0)
    try:
        yield House(hierarchy, ledger, clock, serving, Origin(serving.urls[0], token))
    finally:
        await serving.stop()
        await linter.close()
        await keys.close()
        await store.close()


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def test_a_certificate_for_the_follower_s_key(ca: House) -> None:
    asked = request()
    certificate = await enrol(ca.origin, ca.issuer(), asked)
    own = await ca.hierarchy.responder_key("issuing", lifetime=LIFETIME)
    assert certificate.subject.rfc4514().startswith("CN=DigitalID Development Issuing CA OCSP")
    assert certificate.public_key_info != own.signer.public_key_info
    record = await ca.ledger.record("issuing", SerialNumber(certificate.serial))
    assert (record.profile, record.by) == ("ocsp-responder", "follower:va-south")
    assert (await ca.hierarchy.feed_key()).public_key_info != own.signer.public_key_info


async def test_asking_again_gives_the_same_until_it_is_old(ca: House) -> None:
    first = await enrol(ca.origin, ca.issuer(), request())
    again = await asyncio.gather(*(enrol(ca.origin, ca.issuer(), request()) for _ in range(5)))
    assert {certificate.der for certificate in again} == {first.der}
    ca.clock.at = first.not_after - RENEW_BEFORE + timedelta(hours=1)
    renewed = await enrol(ca.origin, ca.issuer(), request())
    assert renewed.not_after > first.not_after
    assert (await enrol(ca.origin, ca.issuer(), request())).der == renewed.der
    assert (await enrol(ca.origin, ca.issuer(), request(1))).der != renewed.der


async def test_every_ca_certifies_responders(ca: House) -> None:
    for place, name in enumerate(("root", "issuing")):
        certificate = await enrol(ca.origin, ca.issuer(name), request(10 + place))
        assert certificate.issuer.der == ca.issuer(name).subject


async def test_near_the_end_of_its_ca_a_certificate_is_as_long_as_it_can_be(ca: House) -> None:
    """No endless row of certificates that are all too short."""
    issuer = ca.issuer()
    ca.clock.at = issuer.not_after - RENEW_BEFORE / 2
    certificate = await enrol(ca.origin, issuer, request())
    assert certificate.not_after == issuer.not_after
    assert (await enrol(ca.origin, issuer, request())).der == certificate.der
    own = await ca.hierarchy.responder_key("issuing", lifetime=LIFETIME)
    assert own.not_after == issuer.not_after


async def test_a_revoked_responder_does_not_get_another_for_its_key(ca: House) -> None:
    certificate = await enrol(ca.origin, ca.issuer(), request())
    await ca.ledger.revoke(
        "issuing",
        SerialNumber(certificate.serial),
        reason=RevocationReason.superseded,
        by="test",
    )
    with pytest.raises(Rejected) as refused:
        await enrol(ca.origin, ca.issuer(), request())
    assert refused.value.code == "responder-revoked"
    assert (await enrol(ca.origin, ca.issuer(), request(1))).serial != certificate.serial


async def test_the_same_key_asks_in_the_same_way(ca: House) -> None:
    await enrol(ca.origin, ca.issuer(), request())
    with pytest.raises(Rejected) as refused:
        await enrol(ca.origin, ca.issuer(), request(0, "CN=Something else,C=AQ"))
    assert refused.value.code == "request-id-reused"


async def test_a_key_that_is_certified_for_another_ca_is_refused(ca: House) -> None:
    await enrol(ca.origin, ca.issuer("root"), request())
    with pytest.raises(Rejected) as refused:
        await enrol(ca.origin, ca.issuer("issuing"), request())
    assert refused.value.code == "key-reused"


async def test_who_may_not_ask(ca: House) -> None:
    for token in ("wrong" * 10, "x"):
        with pytest.raises(Rejected) as refused:
            await enrol(Origin(ca.origin.url, token), ca.issuer(), request())
        assert refused.value.code == "not-authenticated"
    stranger = replace(ca.issuer(), name="no/such")
    with pytest.raises(Rejected) as refused:
        await enrol(ca.origin, stranger, request())
    assert refused.value.code == "no-such-authority"


async def test_a_body_that_is_none(ca: House) -> None:
    headers = {"Authorization": f"Bearer {ca.origin.token}"}
    path = RESPONDER_PATH.format(ca="issuing")
    bodies = {
        b"": "bad-body",
        b"[]": "bad-body",
        b'{"csr": 3}': "bad-body",
        b'{"csr": "\xff"}': "bad-body",
        b'{"csr": "x", "y": 1}': "bad-body",
        b'{"csr": "x"}': "bad-request",
        b'{"csr": "' + b"x" * 200_000 + b'"}': "request-too-large",
    }
    async with aiohttp.ClientSession(ca.origin.url, headers=headers) as session:
        for body, code in bodies.items():
            async with session.post(path, data=body) as response:
                assert (await response.json(content_type=None))["code"] == code


async def test_what_comes_back_is_checked(tmp_path: Path) -> None:
    """A server that hands out another certificate than was asked for."""
    answers: list[web.Response] = []

    async def cheat(asked: web.Request) -> web.Response:
        return answers.pop()

    async with house(tmp_path) as ca:
        other = await enrol(ca.origin, ca.issuer(), request(1))
        root = ca.issuer("root").certificate
        app = make_app({}, private=True)
        app.add_routes([web.post(RESPONDER_PATH, cheat)])
        serving = await serve_app(app, "127.0.0.1", 0)
        origin = Origin(serving.urls[0], "token")
        answers += [
            web.json_response({"certificate": encode_pem("CERTIFICATE", wrong).decode()})
            for wrong in (other.der, root, b"none")
        ]
        answers.append(web.json_response({"certificate": "no PEM"}))
        answers.append(web.json_response(["no object"]))
        answers.append(web.Response(body=b"no JSON"))
        while answers:
            with pytest.raises(Rejected) as refused:
                await enrol(origin, ca.issuer(), request())
            assert refused.value.code == "feed-bad-certificate"
        answers.append(web.Response(body=b"x" * 200_000))
        with pytest.raises(Rejected) as refused:
            await enrol(origin, ca.issuer(), request())
        assert refused.value.code == "feed-too-large"
        answers.append(web.Response(status=503, body=b"no problem document"))
        with pytest.raises(Unavailable) as away:
            await enrol(origin, ca.issuer(), request())
        assert away.value.code == "feed-refused"
        await serving.stop()
        with pytest.raises(Unavailable) as away:
            await enrol(origin, ca.issuer(), request())
        assert away.value.code == "feed-unreachable"
