"""Any octets on the responder's port: whatever is answered is HTTP, and its body OCSP or a problem.

The server and its front are the real ones; the transport is one that keeps what is written.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from cryptography.x509 import ocsp as x509_ocsp

from infra.clock import SystemClock
from infra.http.front import Front
from infra.http.limits import Limits
from ocsp.request import build_request
from ocsp.responder import Responder
from ocsp.response import ResponseStatus
from ocsp.server import PREFIXES
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown
from tests.conformance.ocsp_fixtures import LIFETIME, NOW, Ca, Statuses, cert_id, server, signer
from tests.fuzz.test_ocsp_fuzz import INPUTS, OCTETS, changed, resident
from tests.fuzz.wire import answers

CA = Ca("Fuzzed CA")
LIMITS = Limits(line=2000, fields=16, body=100_000)
SERIALS = (1, 2, 0x80, 0x7F01, 1 << 158, 99)
KNOWN: dict[int, CertStatus] = {
    1: Good(),
    0x80: Revoked(NOW, RevocationReason.keyCompromise, None, 1),
    0x7F01: Revoked(NOW, RevocationReason.certificateHold, None, 2),
    1 << 158: Good(),
}
QUESTIONS = [
    build_request([cert_id(CA.issuer, serial, name)], nonce)
    for serial in SERIALS
    for name in ("sha1", "sha256", "sha512")
    for nonce in (None, None, bytes(32))
]
QUESTIONS.append(build_request([cert_id(CA.issuer, serial) for serial in SERIALS], bytes(16)))

ERRORS = {
    bytes((0x30, 3, 0x0A, 1, status.value))
    for status in (ResponseStatus.malformedRequest, ResponseStatus.unauthorized)
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD = re.compile(
    rb"HTTP/1\.1 (200|304|400|404|413|414|415|417|431|505) [A-Za-z -]+\r\n"
    rb"(?:[A-Za-z-]+: [\x20-\x7e]+\r\n)*\r\n"
)
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


class Source(Statuses):
    """A source that keeps no list of who asked."""

    def status(self, issuer: str, serial: int) -> CertStatus:
        return KNOWN.get(serial, Unknown())


class Sometimes:
    """A key whose signatures wait now and then."""

    def __init__(self, random_: random.Random) -> None:
        self._signer = signer("ed25519")
        self._random = random_
        self.uri = self._signer.uri
        self.key_type = self._signer.key_type
        self.algorithm = self._signer.algorithm
        self.public_key_info = self._signer.public_key_info

    async def sign(self, message: bytes) -> bytes:
        if self._random.random() < 0.1:
            await asyncio.sleep(0)
        return await self._signer.sign(message)


def get(asked: bytes, random_: random.Random) -> bytes:
    text = base64.b64encode(asked).decode()
    spelling = int(random_.random() * 4)
    path = (text, quote(text, safe=""), f"{text}/", f"/{quote(text)}")[spelling]
    return b"GET /ocsp/%b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()


def get_again(asked: bytes, random_: random.Random) -> bytes:
    path = base64.b64encode(asked)
    version = b"1.1" if random_.random() < 0.5 else b"1.0"
    return b"GET /ocsp/%b HTTP/%b\r\nHost: a\r\nIf-None-Match: *\r\n\r\n" % (path, version)


def post(asked: bytes, random_: random.Random) -> bytes:
    more = b"Expect: 100-continue\r\n" if random_.random() < 0.1 else b""
    return (
        b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Type: application/ocsp-request\r\n"
        b"%bContent-Length: %d\r\n\r\n%b"
    ) % (more, len(asked), asked)


def post_chunked(asked: bytes, random_: random.Random) -> bytes:
    at = int(random_.random() * len(asked))
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (asked[:at], asked[at:]) if piece
    )
    return (
        b"POST /ocsp/ HTTP/1.1\r\nHost: a\r\nContent-Type: Application/OCSP-Request; x=y\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n"
    ) % chunks


FORMS: list[Callable[[bytes, random.Random], bytes]] = [get, get_again, post, post_chunked]


def spoilt(random_: random.Random) -> bytes:
    """Requests of which mostly one thing is wrong: in the OCSP request, in HTTP, or everything."""
    asked = random_.choice(QUESTIONS)
    kind = int(random_.random() * 8)
    if kind < 3:
        asked = changed(asked, random_)
    data = random_.choice(FORMS)(asked, random_)
    if kind == 7:
        # Behind it stands another, which is right.
        data += post(QUESTIONS[0], random_)
    if kind in (3, 4, 7):
        data = changed(data, random_)
    elif kind == 5:
        at = int(random_.random() * len(data))
        data = data[:at] + random_.choice(PIECES) + data[at:]
    elif kind == 6 and random_.random() < 0.2:
        data = b"".join(random_.choices(OCTETS, k=int(random_.random() * 200)))
    return data


PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b": ", b"\r\n\r\n", b"0\r\n\r\n", b"%", b"%00", b"/", b"?",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Host: b\r\n",
    b"If-None-Match: W/\"\xff\", *\r\n", b"Expect: 100-continue\r\n", b"\x30\x84\xff\xff\xff\xff",
    b"GET /ocsp/ HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /ocsp HTTP/1.1\r\n", b"x" * 2100,
]  # fmt: skip


def responses(said: bytes) -> list[tuple[int, bytes, bytes]]:
    """Status, header and body of each; there is nothing else."""
    found = []
    position = 0
    while position < len(said):
        if said.startswith(CONTINUE, position):
            position += len(CONTINUE)
            continue
        head = HEAD.match(said, position)
        assert head is not None, said[position:]
        status, position = int(head[1]), head.end()
        length = LENGTH.search(head[0])
        assert (length is None) == (status == 304), head[0]
        end = position + (int(length[1]) if length else 0)
        assert end <= len(said), "the body is cut short"
        found.append((status, head[0], said[position:end]))
        position = end
    return found


class Judge:
    """Reads each body that it has not read lately."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        self.seen: Counter[str] = Counter()

    def judge(self, status: int, head: bytes, body: bytes) -> None:
        if status == 304:
            self.seen["304"] += 1
        elif status == 200:
            assert b"\r\nContent-Type: application/ocsp-response\r\n" in head
            if body in ERRORS:
                self.seen[body.hex()] += 1
                return
            self.seen["successful"] += 1
            if body not in self._known:
                said = x509_ocsp.load_der_ocsp_response(body)
                assert said.response_status is x509_ocsp.OCSPResponseStatus.SUCCESSFUL
                for single in said.responses:
                    known = KNOWN.get(single.serial_number, Unknown())
                    told = {Good: "GOOD", Revoked: "REVOKED", Unknown: "UNKNOWN"}[type(known)]
                    assert single.certificate_status.name == told
                self._remember(body)
        else:
            self.seen[str(status)] += 1
            if body not in self._known:
                assert json.loads(body)["status"] == status
                self._remember(body)

    def _remember(self, body: bytes) -> None:
        if len(self._known) > 2000:
            self._known.clear()
        self._known.add(body)


def pieces(data: bytes, random_: random.Random) -> list[bytes]:
    """One or two."""
    at = int(random_.random() * len(data)) if random_.random() < 0.3 else 0
    return [piece for piece in (data[:at], data[at:]) if piece]


def test_any_octets_are_answered_in_http_and_ocsp_and_leave_no_trace() -> None:
    """``DIGITALID_FUZZ_INPUTS``: so many connections."""
    seed = int(os.environ.get("DIGITALID_FUZZ_SEED", random.randrange(1 << 32)))
    random_ = random.Random(seed)
    print(f"seed {seed}")
    judge = Judge()

    async def fuzz() -> None:
        slow: Any = Sometimes(random_)
        answering = server(
            Responder([CA.delegate(slow)], Source({}), SystemClock(), LIFETIME), entries=100
        )
        front = Front(answering.answer, PREFIXES, limits=LIMITS)
        warm = resident()
        for number in range(INPUTS):
            data = spoilt(random_)
            try:
                for answer in responses(await answers(front, pieces(data, random_))):
                    judge.judge(*answer)
            except Exception as error:
                raise AssertionError(f"seed {seed}, input {number}: {data!r}") from error
            if number % 256 == 0:
                await asyncio.sleep(0)
            if number == INPUTS // 4:
                warm = resident()
        grown = resident() - warm
        print(f"{INPUTS} connections, {dict(judge.seen)}, {grown / 1e6:+.1f} MB")
        assert grown < 8 << 20
        assert answering.measured().kept <= 100
        await front.drain(0.0)

    asyncio.run(fuzz())
    wanted = {"304", "successful", "400", "404", "415", *(error.hex() for error in ERRORS)}
    assert wanted <= judge.seen.keys()
