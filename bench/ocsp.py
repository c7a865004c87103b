"""OCSP over HTTP: our processes against nginx, ``openssl ocsp`` and bare signatures.

The server has one processor and wrk the other; whoever is compared takes turns on the same two.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha1
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench._status_table import ISSUER, simulate
from bench.issue import scratch
from bench.ocsp_sign import ca_certificate, certificate_for, issuer_of
from bench.peers import ab, nginx, openssl_ocsp, wrk
from bench.peers.wrk import Answered, Asking
from infra.http.app import bind_shared
from infra.http.limits import Limits
from ocsp.delegate import ResponderIdType
from ocsp.request import HASH_OIDS, build_cert_id, build_request
from ocsp.responder import Practice
from ocsp.response import subject_public_key
from ocsp.table import TableWriter
from ocsp.worker import DelegateKey, KeyAccess, Setup
from ocsp.workers import Workers
from pki.algorithms import KeyType
from pki.issuer import Issuer
from pki.signer.file import FileKeyStore

SERVER, CLIENT = 0, 1  # processors
_SIGNATURES: Final = 40_000  # about a second, as long as wrk asks
_ASKING: Final = Asking()
_ECDSA: Final = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Scene:
    """A responder with a key in a file, and what to ask it."""

    folder: Path
    issuer: Issuer
    delegate: DelegateKey
    ca_key: ec.EllipticCurvePrivateKey


async def run(quick: bool) -> list[dict[str, Any]]:
    """Answers a second in the best round of each, taken in turns after one to warm up.

    ``ocsp-get``, ``ocsp-post``: kept answers; ``ocsp-get-many``: of 4,000 certificates in turn;
    ``ocsp-nonce``: signed on demand; ``ocsp-connect``: a new connection for each;
    ``ocsp-two-workers``: signed on demand by two processes, on the processor of the client too;
    ``ocsp-p99``: milliseconds at half the most; ``ocsp-10M`` and so on: with so many certificates
    in the table, against 1 million.
    """
    if not (wrk.installed() and ab.installed() and nginx.installed()):
        print(
            "ocsp is left out: it needs wrk, ab and nginx (apt install wrk apache2-utils nginx)",
            file=sys.stderr,
        )
        return []
    rounds = 3 if quick else 8
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(scratch()))
        scene = await make_scene(folder)
        figures = await _speed(scene, rounds)
        figures += await _sizes(scene, rounds, (10,) if quick else (10, 100))
    return figures


async def _speed(scene: Scene, rounds: int) -> list[dict[str, Any]]:
    folder = scene.folder
    serials = [serial for _, serial in simulate(folder / "table", 1_000_000)]
    async with AsyncExitStack() as stack:
        stack.enter_context(_live(folder / "table"))
        one, _ = await stack.enter_async_context(serving(scene, folder / "table", 1))
        two, _ = await stack.enter_async_context(serving(scene, folder / "table", 2))
        static = await stack.enter_async_context(
            nginx.serving(folder / "nginx", "answer", bytes(_answer_size(scene)), SERVER)
        )
        write_questions(scene, serials)
        openssl = _openssl(scene)
        await _ask(one, "GET", folder / "many.get", Asking(seconds=2))  # every answer is kept now
        best = await _best(
            {
                "get": lambda: _ask(one, "GET", folder / "one.get"),
                "many": lambda: _ask(one, "GET", folder / "many.get"),
                "post": lambda: _ask(one, "POST", folder / "one.post"),
                "nonce": lambda: _ask(one, "POST", folder / "nonce.post"),
                "nginx": lambda: _ask(static, "GET", folder / "static.get"),
                "sign": _sign,
                "connect": lambda: _connect(one, folder / "one.der"),
                "openssl": lambda: _connect_openssl(openssl, serials[:100], folder / "one.der"),
                "two": lambda: _ask(two, "POST", folder / "nonce.post"),
            },
            rounds,
        )
        p99 = await _at_half(one, "GET", folder / "one.get", best["get"], rounds)
        nginx_p99 = await _at_half(static, "GET", folder / "static.get", best["nginx"], rounds)
    file, bare = "nginx, a file of the same size", "bare P-256 signatures"
    return [
        line("ocsp-get", best["get"], file, best["nginx"], 0.9),
        line("ocsp-get-many", best["many"], file, best["nginx"], 0.0),
        line("ocsp-post", best["post"], file, best["nginx"], 0.5),
        line("ocsp-nonce", best["nonce"], bare, best["sign"], 0.4),
        line("ocsp-connect", best["connect"], "openssl ocsp", best["openssl"], 2.0),
        line("ocsp-two-workers", best["two"], "one worker", best["nonce"], 1.0),
        line("ocsp-p99", 1e3 * p99, "nginx at half of its most", 1e3 * nginx_p99, 0.0, unit="ms"),
    ]


async def _sizes(scene: Scene, rounds: int, millions: Sequence[int]) -> list[dict[str, Any]]:
    """The same with more certificates in the table: each answer is looked up and signed."""
    folder = scene.folder
    figures = []
    async with AsyncExitStack() as stack:
        asks: dict[str, Callable[[], Awaitable[float]]] = {}
        for size in (1, *millions):
            at = folder / f"{size}M"
            at.mkdir()
            sized = replace(scene, folder=at)
            serials = [serial for _, serial in simulate(at / "table", size * 1_000_000)]
            write_questions(sized, serials)
            stack.enter_context(_live(at / "table"))
            url, _ = await stack.enter_async_context(serving(scene, at / "table", 1))
            asks[f"{size}M"] = lambda url=url, at=at: _ask(  # type: ignore[misc]
                url, "POST", at / "nonce.post"
            )
        best = await _best(asks, rounds)
        for size in millions:
            used = (folder / f"{size}M" / "table").stat().st_blocks * 512
            figures.append(
                line(f"ocsp-{size}M", best[f"{size}M"], "1 million", best["1M"], 0.9)
                | {"table_mb_per_million": round(used / size / 1e6, 1)}
            )
    return figures


async def _best(works: dict[str, Callable[[], Awaitable[float]]], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(works, 0.0)
    for number in range(rounds + 1):
        for name, work in works.items():
            try:
                rate = await work()
            except RuntimeError as error:
                raise RuntimeError(f"{name}: {error}") from error
            if number:
                best[name] = max(best[name], rate)
    return best


async def _ask(url: str, method: str, lines: Path, how: Asking = _ASKING) -> float:
    return (await wrk.ask(url, method, lines, how)).rate


async def _connect(url: str, body: Path) -> float:
    return await ab.rate(url, body, "application/ocsp-request", at_once=8, core=CLIENT)


async def _connect_openssl(
    made: tuple[Path, Path, Path, Path], serials: Sequence[int], body: Path
) -> float:
    # A new one each time: after some ten thousand connections it answers no more.
    async with openssl_ocsp.serving(*made, serials, SERVER) as url:
        return await _connect(url, body)


async def _at_half(url: str, method: str, lines: Path, most: float, rounds: int) -> float:
    """The 99th percentile, in seconds, at half of ``most`` answers a second; of the best round."""
    # Each connection asks every 8 ms, so that half of the most is so many connections.
    connections = max(1, round(most / 2 * 0.008))
    how = Asking(connections=connections, pause=8, seconds=2.0)
    answered: list[Answered] = [await wrk.ask(url, method, lines, how) for _ in range(rounds)]
    return min(one.p99 for one in answered)


async def _sign() -> float:
    """Bare signatures a second on the server's processor."""
    key = ec.generate_private_key(ec.SECP256R1())
    message = bytes(300)
    with _on(SERVER):
        started = perf_counter()
        for _ in range(_SIGNATURES):
            key.sign(message, _ECDSA)
        return _SIGNATURES / (perf_counter() - started)


@contextmanager
def _on(*processors: int) -> Iterator[None]:
    """Run here, and start processes, on these alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _live(table: Path) -> Iterator[None]:
    writer = TableWriter.open(table)
    try:
        writer.issuer(ISSUER, complete=True, live=True)
        yield
    finally:
        writer.close()


@asynccontextmanager
async def serving(
    scene: Scene, table: Path, processes: int, lifetime: timedelta = timedelta(hours=1)
) -> AsyncIterator[tuple[str, Workers]]:
    """So many processes of ours, and their URL; one stays on the server's processor, two take
    both. ``lifetime``: of an answer."""
    sockets = await bind_shared("127.0.0.1", 0, processes)
    setup = Setup(
        table=str(table),
        most_lag=None,
        relay=None,
        listeners=(),
        limits=Limits(connections=20_000),
        practice=Practice(),
        lifetime=lifetime,
        crl_references=False,
        entries=100_000,
        access=False,
        level="warning",
        log_format="text",
        keys=KeyAccess(str(scene.folder / "keys"), b"a benchmark"),
        delegates=[scene.delegate],
    )
    workers = Workers(sockets, lambda: setup)
    with _on(SERVER) if processes == 1 else _on(SERVER, CLIENT):
        await workers.start()
    try:
        yield f"http://127.0.0.1:{sockets[0][0].getsockname()[1]}/ocsp", workers
    finally:
        await workers.stop(1.0)


async def make_scene(folder: Path) -> Scene:
    """A new key, CA and responder's certificate."""
    keys = FileKeyStore(folder / "keys", lambda: b"a benchmark")
    signer = await keys.open(await keys.generate("ocsp", KeyType.P_256))
    public = serialization.load_der_public_key(signer.public_key_info)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = ca_certificate(ca_key)
    issuer = replace(issuer_of(ca), name=ISSUER)
    responder = certificate_for("OCSP responder", public, ca_key)
    delegate = DelegateKey(
        issuer,
        signer.uri,
        signer.algorithm.name,
        responder.public_bytes(serialization.Encoding.DER),
        ResponderIdType.byKey,
    )
    await keys.close()
    return Scene(folder, issuer, delegate, ca_key)


def write_questions(scene: Scene, serials: Sequence[int]) -> None:
    """Write down what is asked, as wrk reads it."""
    name = sha1(scene.issuer.subject, usedforsecurity=False).digest()
    key = sha1(subject_public_key(scene.issuer.public_key_info), usedforsecurity=False).digest()
    cert_ids = [build_cert_id(HASH_OIDS["sha1"], name, key, serial) for serial in serials]
    plain = [build_request([cert_id]) for cert_id in cert_ids]
    nonces = [build_request([cert_id], os.urandom(32)) for cert_id in cert_ids]
    paths = [f"/ocsp/{quote(base64.b64encode(one).decode(), safe='')}" for one in plain]
    wrk.write_targets(scene.folder / "one.get", paths[:1])
    wrk.write_targets(scene.folder / "many.get", paths)
    wrk.write_targets(scene.folder / "static.get", ["/answer"])
    wrk.write_octets(scene.folder / "one.post", plain[:1])
    wrk.write_octets(scene.folder / "nonce.post", nonces)
    (scene.folder / "one.der").write_bytes(plain[0])


def _answer_size(scene: Scene) -> int:
    """About what an answer with the responder's certificate takes."""
    return 330 + len(scene.delegate.certificate)


def _openssl(scene: Scene) -> tuple[Path, Path, Path, Path]:
    """What ``openssl ocsp`` serves with: our CA, a responder's certificate and key."""
    folder = scene.folder / "openssl"
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    ca, certificate, secret = folder / "ca.pem", folder / "ocsp.pem", folder / "ocsp.key"
    pem = serialization.Encoding.PEM
    ca.write_bytes(x509.load_der_x509_certificate(scene.issuer.certificate).public_bytes(pem))
    signed = certificate_for("openssl ocsp", key.public_key(), scene.ca_key)
    certificate.write_bytes(signed.public_bytes(pem))
    secret.write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return folder, ca, certificate, secret


def line(
    name: str, ours: float, reference: str, value: float, goal: float, *, unit: str = "answers/s"
) -> dict[str, Any]:
    """One figure."""
    return {
        "name": name,
        "unit": unit,
        "ours": round(ours, 3 if unit == "ms" else 1),
        "reference": reference,
        "reference_value": round(value, 3 if unit == "ms" else 1),
        "ratio": round(ours / value, 3),
        "goal": goal,
    }
