"""An OCSP server on a real status table, with a clock that stands and a key that may be slow."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ocsp as x509_ocsp

from infra.clock import FixedClock
from infra.errors import Unavailable
from infra.http.front import Head, Request
from ocsp.request import build_request
from ocsp.responder import Responder
from ocsp.server import OcspServer
from ocsp.table import TableReader, TableWriter
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
    made = Request(Head(method.encode(), target.encode(), head), transport)
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


@pytest.fixture(name="scene")
def open_scene(tmp_path: Path) -> Iterator[Scene]:
    made = make(tmp_path)
    with closing(made.reader):
        yield made
    made.writer.close()  # whichever it has now
