"""Signing through the port against the bare libraries beneath it, P-256 on one machine."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Mechanism

from pki.algorithms import KeyType
from pki.signer import softhsm
from pki.signer.file import FileKeyStore
from pki.signer.pkcs11 import Pkcs11KeyStore
from pki.signer.token import Token
from pki.signer.uri import Pkcs11Uri, parse

CALLERS: Final = 64
MESSAGE: Final = bytes(800)  # about what the to-be-signed part of a certificate takes
PIN: Final = b"bench-1234"
Sign = Callable[[bytes], Awaitable[bytes]]


def nothing() -> None:
    """No other work for the event loop."""


def otherwise_busy(seconds: float) -> Callable[[], None]:
    """Work that takes the event loop this long, counted in steps: the GIL can be taken from it."""
    steps = 1_000_000
    started = perf_counter()
    for _ in range(steps):
        pass
    steps = int(steps * seconds / (perf_counter() - started))

    def work() -> None:
        for _ in range(steps):
            pass

    return work


def bare(sign: Callable[[], Any], count: int) -> float:
    """Calls a second, one after the other."""
    started = perf_counter()
    for _ in range(count):
        sign()
    return count / (perf_counter() - started)


async def in_flight(sign: Sign, work: Callable[[], None], count: int) -> float:
    """Signatures a second with 64 callers that each do ``work`` after every signature."""

    async def caller() -> None:
        for _ in range(count // CALLERS):
            await sign(MESSAGE)
            work()

    started = perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count // CALLERS * CALLERS / (perf_counter() - started)


def figure(name: str, ours: float, reference: str, value: float, goal: float) -> dict[str, Any]:
    """One line of the report."""
    return {
        "name": name,
        "unit": "signatures/s",
        "ours": round(ours),
        "reference": reference,
        "reference_value": round(value),
        "ratio": round(ours / value, 3),
        "goal": goal,
    }


async def run(quick: bool) -> list[dict[str, Any]]:
    """Each figure is the best of several rounds in which ours and the reference take turns."""
    count, rounds = (2_000, 2) if quick else (10_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        figures = await file_key(Path(folder), count, rounds)
        module = softhsm.find_module()
        if module is not None:
            figures += await token_key(module, Path(folder) / "softhsm", count, rounds)
    return figures


async def file_key(folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """A key in memory against cryptography itself."""
    store = FileKeyStore(folder / "keys", lambda: b"passphrase")
    signer = await store.open(await store.generate("bench", KeyType.P_256))
    key = ec.generate_private_key(ec.SECP256R1())
    scheme = ec.ECDSA(hashes.SHA256())
    ours = reference = 0.0
    for _ in range(rounds):
        ours = max(ours, await in_flight(signer.sign, nothing, count))
        reference = max(reference, bare(lambda: key.sign(MESSAGE, scheme), count))
    await store.close()
    return [figure("sign: file key", ours, "bare cryptography", reference, 0.8)]


async def token_key(module: Path, folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """A key on SoftHSM against python-pkcs11 on one thread, idle and with a busy event loop."""
    softhsm.init_token(module, folder, "bench", b"bench-so-1234", PIN)
    environment = softhsm.environment(folder)
    store = Pkcs11KeyStore(module, Pkcs11Uri(token="bench"), lambda: PIN, environment=environment)
    signer = await store.open(await store.generate("bench", KeyType.P_256))
    name = parse(signer.uri)
    assert isinstance(name, Pkcs11Uri)
    os.environ.update(environment)
    token = Token(str(module), Pkcs11Uri(token="bench"), PIN)
    (key,) = token.session.get_objects(token.open_key(name, None).template)
    sign = token.signing(token.session, token.open_key(name, None))

    async def on_the_loop(message: bytes) -> bytes:
        return sign(signer.algorithm.prepare(message))

    digest = signer.algorithm.prepare(MESSAGE)
    work = otherwise_busy(0.00018)  # some 70 % of the loop's time
    idle = reference = busy = inline = 0.0
    for _ in range(rounds):
        idle = max(idle, await in_flight(signer.sign, nothing, count))
        once = bare(lambda: key.sign(digest, mechanism=Mechanism.ECDSA), count)
        reference = max(reference, once)
        busy = max(busy, await in_flight(signer.sign, work, count))
        inline = max(inline, await in_flight(on_the_loop, work, count))
    await store.close()
    token.close()
    return [
        figure("sign: SoftHSM, 64 in flight", idle, "bare python-pkcs11 loop", reference, 0.7),
        figure("sign: SoftHSM beside a busy loop", busy, "signing on the loop", inline, 1.0),
    ]
