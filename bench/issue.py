"""Issuance in process, durable in the ledger, logged and checked, against bare signing."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from cli.compose import running
from conf.load import load
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Application, Authority
from pki.names import parse_rfc4514
from pki.request import assemble_request, build_request_info
from pki.signer import softhsm
from pki.throwaway import Throwaway

IN_FLIGHT: Final = 256
ROUND: Final = 1_000  # certificates: short rounds find the moments in which the machine is quiet
PROFILE: Final = "citizen-authentication"
SCRATCH: Final = Path(".bench")
"""Where benchmarks keep state: beside the work tree, as the system's own may be in memory."""


async def run(quick: bool) -> list[dict[str, Any]]:
    """Certificates a second in the best round of each, taken in turns after one to warm up.

    ``issue-file``: ours with a key in a file, without the share of certificates that pkilint
    sees; ``issue-softhsm``: the same with a key in a token, each signature verified.
    """
    rounds = 4 if quick else 12
    made = requests(range((rounds + 1) * ROUND))
    with_token = softhsm.find_module() is not None
    async with AsyncExitStack() as stack:
        by_file = await stack.enter_async_context(issuing("file"))
        by_token = await stack.enter_async_context(issuing("pkcs11")) if with_token else None
        ours = token = bare = 0.0
        for number in range(rounds + 1):
            chunk = made[number * ROUND : (number + 1) * ROUND]
            rates = (
                await issue_all(by_file, chunk),
                builder_rate(ROUND),
                0.0 if by_token is None else await issue_all(by_token, chunk),
            )
            if number:
                ours, bare, token = map(max, (ours, bare, token), rates)
    figures = [line("issue-file", ours, "bare CertificateBuilder, 8 extensions", bare, 0.4)]
    if with_token:
        figures.append(line("issue-softhsm", token, "issue-file", ours, 0.7))
    else:
        print("issue-softhsm is left out: there is no SoftHSM here", file=sys.stderr)
    return figures


def requests(numbers: Iterable[int]) -> list[bytes]:
    """PKCS#10 requests (DER), each for a key and a name of its own."""
    algorithm = usual_algorithm(KeyType.P_256)
    made = []
    for number in numbers:
        key = Throwaway(ec.generate_private_key(ec.SECP256R1()), KeyType.P_256, algorithm)
        name = parse_rfc4514(f"CN=Citizen {number},C=AQ").der
        info = build_request_info(name, key.public_key_info, ())
        made.append(assemble_request(info, algorithm, key.sign(info)))
    return made


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk of the work tree, removed at the end of its block."""
    SCRATCH.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="run-", dir=SCRATCH.absolute())


@asynccontextmanager
async def issuing(keys: str) -> AsyncIterator[Authority]:
    """The issuing CA of an instance as it serves, new and on its own state; ``keys``: the store
    of its keys."""
    with scratch() as folder:
        settings = load(
            Path(folder), {}, {"keys.store": keys, "issuance.lint_share": "0.0", "slapd.run": "off"}
        ).settings
        async with running(settings, create=True, serving=True) as instance:
            yield instance.hierarchy.authority("issuing")


async def issue_all(authority: Authority, made: Sequence[bytes]) -> float:
    """Certificates a second, ``IN_FLIGHT`` applications at a time."""
    left = iter(made)

    async def applicant() -> None:
        for request in left:
            await authority.issue(Application(PROFILE, request, "bench"))

    started = perf_counter()
    await asyncio.gather(*(applicant() for _ in range(IN_FLIGHT)))
    return len(made) / (perf_counter() - started)


def builder_rate(count: int) -> float:
    """What ``CertificateBuilder`` builds and signs a second with 8 extensions, and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    issuer = x509.Name.from_rfc4514_string("CN=Issuing CA,O=Registry,C=AQ")
    now = datetime.now(UTC)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
        (x509.SubjectKeyIdentifier.from_public_key(subject_key), False),
        (x509.KeyUsage(True, *[False] * 8), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.BasicConstraints(False, None), True),
        (
            x509.CertificatePolicies(
                [x509.PolicyInformation(x509.ObjectIdentifier("2.999.1.1.1"), None)]
            ),
            False,
        ),
        (
            x509.CRLDistributionPoints(
                [
                    x509.DistributionPoint(
                        [x509.UniformResourceIdentifier("http://127.0.0.1:8081/crl/issuing.crl")],
                        None,
                        None,
                        None,
                    )
                ]
            ),
            False,
        ),
        (
            x509.AuthorityInformationAccess(
                [
                    x509.AccessDescription(
                        AuthorityInformationAccessOID.OCSP,
                        x509.UniformResourceIdentifier("http://127.0.0.1:8081/ocsp"),
                    )
                ]
            ),
            False,
        ),
    ]
    started = perf_counter()
    for number in range(count):
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "AQ"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Citizen {number}"),
            ]
        )
        serial = int.from_bytes(secrets.token_bytes(16), "big")
        builder = x509.CertificateBuilder(
            issuer, subject, subject_key, serial, now, now + timedelta(days=365)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return count / (perf_counter() - started)


def line(name: str, ours: float, reference: str, value: float, goal: float) -> dict[str, Any]:
    """One figure."""
    return {
        "name": name,
        "unit": "certificates/s",
        "ours": round(ours, 1),
        "reference": reference,
        "reference_value": round(value, 1),
        "ratio": round(ours / value, 3),
        "goal": goal,
    }
