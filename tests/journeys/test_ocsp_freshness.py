"""What everybody asks all the time while statuses change: once an act is done, no answer to a
question that was asked after it tells what was before."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp as x509_ocsp

from ocsp.request import HASH_OIDS, build_cert_id, build_request
from ocsp.response import subject_public_key
from tests.contract.ocsp_worker_fixtures import children, lives, until
from tests.journeys.product import Product, require
from tests.unit.front_fixtures import Caller, calling

CONNECTIONS = 6
SHARE = 30
"""Answers that are waited for before and after each act, from all connections together."""


@pytest.fixture(scope="module", params=["file", "pkcs11"])
def product(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    require("openssl", "curl")
    if request.param == "pkcs11":
        require("softhsm2-util")
    product = Product(tmp_path_factory.mktemp("home"), keys=request.param, ocsp={"workers": 2})
    product.start()
    product.cli("ca", "export", "issuing", "--out", "issuing.pem", "--force")
    yield product
    assert product.stop() == 0


@dataclass
class Probe:
    """Clients that ask about one certificate, without a nonce, so that the answer may be a kept
    one: half of them on connections that stay, half on a new one each time."""

    product: Product
    serial: int
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    """When each question was sent, when it was answered, and what."""
    lost: int = 0
    """Questions whose process was killed."""
    may_lose: bool = False
    _stopping: bool = False

    def __post_init__(self) -> None:
        pem = (self.product.home / "issuing.pem").read_bytes()
        ca = x509.load_pem_x509_certificate(pem)
        key = subject_public_key(
            ca.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        name = ca.subject.public_bytes()
        asked = build_request(
            [
                build_cert_id(
                    HASH_OIDS["sha256"],
                    hashlib.sha256(name).digest(),
                    hashlib.sha256(key).digest(),
                    self.serial,
                )
            ]
        )
        path = base64.b64encode(asked).decode()
        self._get = f"GET /ocsp/{path} HTTP/1.1\r\nHost: va.example\r\n\r\n".encode()
        self._post = (
            b"POST /ocsp HTTP/1.1\r\nHost: va.example\r\n"
            b"Content-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n%b"
        ) % (len(asked), asked)

    async def ask(self, number: int) -> None:
        """Ask, in the way of client ``number``, until told to stop."""
        request = self._get if number % 4 < 2 else self._post
        while not self._stopping:
            try:
                async with calling(self.product.validation_port) as caller:
                    stays = True
                    while stays and not self._stopping:
                        stays = await self._one(caller, request) and number % 2 == 0
            except (asyncio.IncompleteReadError, ConnectionError):
                assert self.may_lose
                self.lost += 1

    async def _one(self, caller: Caller, request: bytes) -> bool:
        sent = monotonic()
        code, head, body = await caller.ask(request)
        assert code == 200, head
        said = x509_ocsp.load_der_ocsp_response(body)
        assert said.response_status is x509_ocsp.OCSPResponseStatus.SUCCESSFUL
        assert said.serial_number == self.serial
        status = said.certificate_status.name
        if status == "REVOKED":
            assert said.revocation_reason is not None
            status = said.revocation_reason.name
        self.answers.append((sent, monotonic(), status))
        return b"\r\nConnection: close\r\n" not in head

    async def more(self) -> None:
        """Until so many more were asked, and answered."""
        now = monotonic()
        await until(lambda: self._failed() or len(self.since(now)) >= SHARE)
        if self._failed():
            await asyncio.gather(*self._tasks)

    def since(self, moment: float) -> list[str]:
        """What was answered to questions that were sent after a moment."""
        return self.between(moment, inf)

    def between(self, start: float, end: float) -> list[str]:
        """What was answered before ``end`` to questions that were sent after ``start``."""
        return [status for sent, heard, status in self.answers if start < sent and heard < end]

    def _failed(self) -> bool:
        return any(task.done() for task in self._tasks)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        self._tasks = [asyncio.create_task(self.ask(number)) for number in range(CONNECTIONS)]
        try:
            await self.more()
            yield
            await self.more()
        finally:
            self._stopping = True
            async with asyncio.timeout(60):
                await asyncio.gather(*self._tasks)


@asynccontextmanager
async def probed(product: Product, name: str) -> AsyncIterator[Probe]:
    """A new certificate, and a probe that asks about it."""
    path = await asyncio.to_thread(
        product.issue, name, f"/C=AQ/CN={name}", "citizen-authentication"
    )
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    probe = Probe(product, certificate.serial_number)
    async with probe.asking():
        yield probe


async def change(probe: Probe, act: str, **body: Any) -> float:
    """``cert revoke``, ``hold`` or ``release`` through the API; returns when it was done."""
    product = probe.product
    headers = {"Authorization": f"Bearer {product.operator_token}"}
    url = f"http://127.0.0.1:{product.app_port}/api/v1/certificates/{probe.serial:x}/{act}"
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(url, json=body) as response,
    ):
        done = monotonic()
        assert response.status == 200, await response.text()
    return done


def workers(product: Product) -> set[int]:
    """The processes that answer OCSP."""
    assert product.process is not None
    return children(product.process.pid)


async def test_no_answer_says_good_after_a_revocation(product: Product) -> None:
    async with probed(product, "revoked") as probe:
        assert len(workers(product)) == 2
        done = await change(probe, "revoke", reason="keyCompromise")
        await probe.more()
    assert set(probe.since(done)) == {"key_compromise"}
    assert {status for _, _, status in probe.answers} == {"GOOD", "key_compromise"}


async def test_hold_and_release_count_at_once(product: Product) -> None:
    async with probed(product, "held") as probe:
        for _ in range(3):
            held = await change(probe, "hold")
            await probe.more()
            assert set(probe.between(held, monotonic())) == {"certificate_hold"}
            released = await change(probe, "release")
            await probe.more()
            assert set(probe.between(released, monotonic())) == {"GOOD"}
        held = await change(probe, "hold")
        await probe.more()
        assert set(probe.since(held)) == {"certificate_hold"}


async def test_a_revocation_in_the_middle_of_a_restart(product: Product) -> None:
    async with probed(product, "restarted") as probe:
        before = workers(product)
        assert product.process is not None
        product.process.send_signal(signal.SIGHUP)
        await until(lambda: workers(product) != before)
        done = await change(probe, "revoke", reason="superseded")
        await until(lambda: len(workers(product)) == 2 and not workers(product) & before)
        await probe.more()
        assert set(probe.since(done)) == {"superseded"}
    assert probe.lost == 0


async def test_a_process_that_was_killed_comes_back_with_what_is_true(product: Product) -> None:
    async with probed(product, "killed") as probe:
        done = await change(probe, "revoke", reason="keyCompromise")
        probe.may_lose = True
        for victim in workers(product):
            os.kill(victim, signal.SIGKILL)
            await until(lambda victim=victim: not lives(victim))
            await until(lambda: len(workers(product)) == 2)
        await probe.more()
        assert set(probe.since(done)) == {"key_compromise"}


async def test_a_revocation_while_a_process_is_dead(product: Product) -> None:
    async with probed(product, "dead") as probe:
        probe.may_lose = True
        for victim in workers(product):
            os.kill(victim, signal.SIGKILL)
        done = await change(probe, "revoke", reason="keyCompromise")
        await until(lambda: len(workers(product)) == 2)
        await probe.more()
        assert set(probe.since(done)) == {"key_compromise"}


async def test_one_connection_may_ask_for_anything_in_any_order(product: Product) -> None:
    crl = b"GET /crl/issuing.crl HTTP/1.1\r\nHost: a\r\n\r\n"
    garbage = b"GET /ocsp/MAAA HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"PUT /ocsp/MAAA HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    async with calling(product.validation_port) as caller:
        for asked, code, media_type in (
            (garbage, 200, b"application/ocsp-response"),
            (crl, 200, b"application/pkix-crl"),
            (garbage, 200, b"application/ocsp-response"),
            (head, 405, b"application/problem+json"),
        ):
            answered, header, _ = await caller.ask(asked)
            assert (answered, media_type in header) == (code, True), header
