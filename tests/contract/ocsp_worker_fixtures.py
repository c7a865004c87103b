"""A status table, a responder's key in a file, and processes that answer from them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.x509 import ocsp as x509_ocsp

from infra.http.app import bind_shared
from infra.http.limits import Limits
from ocsp.delegate import ResponderIdType
from ocsp.request import build_request
from ocsp.responder import Practice
from ocsp.table import TableWriter
from ocsp.worker import DelegateKey, KeyAccess, Setup
from ocsp.workers import Workers
from pki.algorithms import KeyType
from pki.signer.file import FileKeyStore
from pki.status import Good
from tests.conformance.ocsp_fixtures import Ca, cert_id
from tests.unit.front_fixtures import Caller, calling

PASSPHRASE = b"a passphrase of tests"
GOOD = (1, 2, 3)
"""Serial numbers of good certificates."""


@dataclass
class House:
    """``setup``: for each process that starts from now on."""

    folder: Path
    ca: Ca
    keys: FileKeyStore
    writer: TableWriter
    setup: Setup
    ports: list[int] = field(default_factory=list)

    async def delegate(self, label: str) -> DelegateKey:
        """A new key with a new certificate."""
        signer = await self.keys.open(await self.keys.generate(label, KeyType.P_256))
        delegate = self.ca.delegate(signer)
        return DelegateKey(
            delegate.issuer,
            signer.uri,
            signer.algorithm.name,
            delegate.certificate,
            ResponderIdType.byKey,
        )

    def change(self, **settings: Any) -> None:
        self.setup = msgspec.structs.replace(self.setup, **settings)

    @asynccontextmanager
    async def workers(self, count: int = 2) -> AsyncIterator[tuple[Workers, int]]:
        """So many processes at work, and their port; none is left at the end."""
        sockets = await bind_shared("127.0.0.1", 0, count, self.setup.limits)
        port = sockets[0][0].getsockname()[1]
        workers = Workers(sockets, lambda: self.setup)
        await workers.start()
        try:
            yield workers, port
        finally:
            processes = pids(workers)
            await workers.stop(5.0)
            assert not [pid for pid in processes if lives(pid)]

    def get(self, serial: int = 1, nonce: bytes | None = None, *fields: str) -> bytes:
        """The octets of a GET."""
        path = base64.b64encode(self.asked(serial, nonce)).decode()
        lines = [f"GET /ocsp/{path} HTTP/1.1", "Host: va.example", *fields, "", ""]
        return "\r\n".join(lines).encode()

    def post(self, serial: int = 1, nonce: bytes | None = None) -> bytes:
        body = self.asked(serial, nonce)
        return (
            b"POST /ocsp HTTP/1.1\r\nHost: va.example\r\n"
            b"Content-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n%b"
        ) % (len(body), body)

    def asked(self, serial: int, nonce: bytes | None = None) -> bytes:
        return build_request([cert_id(self.ca.issuer, serial)], nonce)


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    """A CA whose table has the certificates of ``GOOD``."""
    ca = Ca("CA of the workers")
    keys = FileKeyStore(folder / "keys", lambda: PASSPHRASE)
    writer = TableWriter.open(folder / "status" / "table")
    writer.issuer(ca.name, complete=True, live=True)
    writer.put_many(ca.name, [(serial, Good()) for serial in GOOD])
    setup = Setup(
        table=str(folder / "status" / "table"),
        most_lag=None,
        relay=None,
        listeners=(),
        limits=Limits(),
        practice=Practice(),
        lifetime=timedelta(hours=1),
        crl_references=False,
        entries=1000,
        access=False,
        level="warning",
        log_format="text",
        keys=KeyAccess(str(folder / "keys"), PASSPHRASE),
        delegates=(),
    )
    made = House(folder, ca, keys, writer, setup)
    made.change(delegates=[await made.delegate("first")])
    try:
        yield made
    finally:
        writer.close()
        await keys.close()


def read(answer: tuple[int, bytes, bytes]) -> x509_ocsp.OCSPResponse:
    """A successful answer to one question."""
    status, head, body = answer
    assert status == 200, head
    said = x509_ocsp.load_der_ocsp_response(body)
    assert said.response_status is x509_ocsp.OCSPResponseStatus.SUCCESSFUL
    return said


def status_in(answer: tuple[int, bytes, bytes]) -> str:
    return read(answer).certificate_status.name


def signer_in(answer: tuple[int, bytes, bytes]) -> x509.Certificate:
    [certificate] = read(answer).certificates
    return certificate


def pids(workers: Workers) -> list[int]:
    """The processes that run, in the order of their places."""
    return [line._process.pid for line in workers._lines if line is not None]


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # gone, perhaps while it was read
        return False
    return state != "Z"


def children(parent: int) -> set[int]:
    """The OCSP processes that a process started and that run."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            starter = (process / "stat").read_text().rpartition(")")[2].split()[1]
            command = (process / "cmdline").read_bytes()  # nothing once it has ended
        except OSError:
            continue
        if int(starter) == parent and b"ocsp.worker" in command:
            found.add(int(process.name))
    return found


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Let others run until this holds."""
    async with asyncio.timeout(60):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


class Probes:
    """Clients that ask all the time: some on connections that they keep while those last, some on
    a new one each time. Whatever goes wrong ends the test; each answer is ``heard``."""

    def __init__(
        self, port: int, asks: Callable[[], bytes], heard: Callable[[bytes], None], *, count: int
    ) -> None:
        self.answers = 0
        self._port = port
        self._asks = asks
        self._heard = heard
        self._stopping = False
        self._tasks = [asyncio.create_task(self._keep()) for _ in range(count)]
        self._tasks += [asyncio.create_task(self._anew()) for _ in range(count)]

    async def more(self, count: int = 20) -> None:
        """Until so many more answers have come, and all is well."""
        goal = self.answers + count
        await until(lambda: self.answers >= goal or any(task.done() for task in self._tasks))
        if any(task.done() for task in self._tasks):
            await self.stop()

    async def stop(self) -> None:
        self._stopping = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def _keep(self) -> None:
        while not self._stopping:
            async with calling(self._port) as caller:
                closes = False
                while not (self._stopping or closes):
                    closes = b"\r\nConnection: close\r\n" in await self._ask(caller)

    async def _anew(self) -> None:
        while not self._stopping:
            async with calling(self._port) as caller:
                await self._ask(caller)

    async def _ask(self, caller: Caller) -> bytes:
        answer = await caller.ask(self._asks())
        status, head, body = answer
        assert status == 200, head
        self._heard(body)
        self.answers += 1
        return head


@asynccontextmanager
async def probing(
    port: int, asks: Callable[[], bytes], heard: Callable[[bytes], None], *, count: int = 3
) -> AsyncIterator[Probes]:
    probes = Probes(port, asks, heard, count=count)
    try:
        yield probes
    except BaseException:
        probes._stopping = True
        for task in probes._tasks:
            task.cancel()
        raise
    await probes.stop()


def is_good(body: bytes) -> None:
    said = x509_ocsp.load_der_ocsp_response(body)
    assert said.response_status is x509_ocsp.OCSPResponseStatus.SUCCESSFUL
    assert said.certificate_status is x509_ocsp.OCSPCertStatus.GOOD
