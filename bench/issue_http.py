"""Issuance by ``digitalid serve`` over HTTP against other CAs: cfssl, openssl ca, django-ca."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.issue import PROFILE, SCRATCH, line, requests, scratch
from bench.peers import cfssl, django, wrk
from bench.peers.openssl import OpensslCa
from bench.peers.process import program, said
from pki.export import encode_pem

PER_ROUND: Final = 8_000  # requests: more than any CA here answers in ``wrk.SECONDS``
DJANGO_ROUND: Final = 300
OPENSSL_ROUND: Final = 10


async def run(quick: bool) -> list[dict[str, Any]]:
    """Certificates a second in the best round of each, taken in turns after one to warm up.

    ``wrk`` asks with 16 connections for ``POST /api/v1/certificates``, each request with a key and
    a name of its own; an answer that is no success ends the benchmark. ``issue-http-lint-0``: our
    service with ``issuance.lint_share`` 0, the key in a file, every certificate compared with its
    profile, durable and logged. ``issue-http-lint-default``: with the default ``lint_share``, for
    which there is no goal. cfssl signs without a database; openssl ca runs once a certificate;
    django-ca works in one process without HTTP.
    """
    if not wrk.installed():
        print("issue_http is left out: there is no wrk here (apt install wrk)", file=sys.stderr)
        return []
    rounds = 3 if quick else 6
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(scratch()))
        await asyncio.to_thread(_prepare, folder, rounds + 1)
        takers = await _takers(stack, folder, rounds + 1)
        best = dict.fromkeys(takers, 0.0)
        for number in range(rounds + 1):
            for name, rate in takers.items():
                measured = await rate(number)
                if number:
                    best[name] = max(best[name], measured)
    ours = best["ours"]
    figures = [line("issue-http-openssl", ours, "openssl ca, a process each", best["openssl"], 10)]
    if "cfssl" in best:
        other = "cfssl serve, no database", best["cfssl"]
        figures.append(line("issue-http-lint-0", ours, *other, 0.6))
        figures.append(line("issue-http-lint-default", best["linted"], *other, 0.0))
    if "django-ca" in best:
        other = "django-ca in process", best["django-ca"]
        figures.append(line("issue-http-django-ca", ours, *other, 2.0))
    return figures


async def _takers(
    stack: AsyncExitStack, folder: Path, rounds: int
) -> dict[str, Callable[[int], Awaitable[float]]]:
    """Everybody who takes turns; what each does in a round, by its number."""
    script = folder / "post.lua"
    ca, key = _peer_ca(folder)
    pems = re.findall(r"-----BEGIN.+?-----END[^\n]+\n", (folder / "pems").read_text(), re.DOTALL)
    ours = await stack.enter_async_context(_serving(folder / "ours", "0.0"))
    linted = await stack.enter_async_context(_serving(folder / "linted", None))
    openssl = OpensslCa.create(folder / "openssl", ca, key)

    def over_http(url: str, kind: str, token: str | None) -> Callable[[int], Awaitable[float]]:
        return lambda number: wrk.rate(url, folder / f"{kind}-{number}", script, token)

    takers = {"ours": over_http(ours[0], "ours", ours[1])}
    if cfssl.installed():
        signing = await stack.enter_async_context(cfssl.serving(folder, ca, key))
        takers["cfssl"] = over_http(signing, "cfssl", None)
    else:
        print("cfssl is left out: it is not here (apt install golang-cfssl)", file=sys.stderr)
    takers["linted"] = over_http(linted[0], "ours", linted[1])
    takers["openssl"] = lambda number: openssl.rate(
        pems[number * OPENSSL_ROUND : (number + 1) * OPENSSL_ROUND]
    )
    python = await django.install(SCRATCH.absolute())
    if python is not None:
        issue = await stack.enter_async_context(
            django.issuing(python, folder / "django", pems[: rounds * DJANGO_ROUND])
        )
        takers["django-ca"] = lambda number: issue(DJANGO_ROUND)
    return takers


def _prepare(folder: Path, rounds: int) -> None:
    """Write wrk's script and a file of bodies a round for each kind of service, and PEM."""
    wrk.write_script(folder / "post.lua")
    parts = [range(number * PER_ROUND, (number + 1) * PER_ROUND) for number in range(rounds)]
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes,
        (folder / "pems").open("w") as first,
    ):
        for number, made in enumerate(processes.map(requests, parts)):
            pems = [encode_pem("CERTIFICATE REQUEST", request).decode() for request in made]
            wrk.write_bodies(
                folder / f"ours-{number}", ({"profile": PROFILE, "csr": pem} for pem in pems)
            )
            wrk.write_bodies(folder / f"cfssl-{number}", map(cfssl.body, pems))
            first.writelines(pems[:DJANGO_ROUND])


@asynccontextmanager
async def _serving(home: Path, lint_share: str | None) -> AsyncIterator[tuple[str, str]]:
    """``digitalid serve`` on a new state folder: the URL that issues, and the token."""
    home.mkdir()
    settings = [
        "keys.store=file",
        "http.app_port=0",
        "http.validation_port=0",
        "http.public_url=http://127.0.0.1:8081",  # in certificates; nobody asks there
        "slapd.run=off",
    ]
    if lint_share is not None:
        settings.append(f"issuance.lint_share={lint_share}")
    flags = [word for setting in settings for word in ("--set", setting)]
    log = home / "serve.log"
    command = (sys.executable, "-m", "cli.main", "--home", str(home), *flags, "serve")
    async with program(*command, log=log) as process:
        listening = await said(process, "application", 60.0, log)
        found = re.search(r"http://[0-9.:]+", listening)
        assert found is not None
        token = (home / "secrets" / "operator.token").read_text().strip()
        yield f"{found[0]}/api/v1/certificates", token


def _peer_ca(folder: Path) -> tuple[Path, Path]:
    """A P-256 CA for the others: certificate and key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Benchmark CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    ca, secret = folder / "ca.pem", folder / "ca-key.pem"
    ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return ca, secret
