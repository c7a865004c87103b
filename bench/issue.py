"""Issuance, durable in the ledger and checked: in process and over HTTP, against bare signing and
other CAs in the same run."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from collections.abc import Callable
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
from pki.authority import Application
from pki.names import parse_rfc4514
from pki.request import assemble_request, build_request_info
from pki.throwaway import Throwaway

IN_FLIGHT: Final = 256
PROFILE: Final = "citizen-authentication"


async def run(quick: bool) -> list[dict[str, Any]]:
    """Certificates a second."""
    count = 2_000 if quick else 10_000
    made = requests(count)
    bare = builder_rate(count)
    by_file = await in_process(made, "file")
    by_token = await in_process(made, "pkcs11")
    return [
        line("issue-file", by_file, "bare CertificateBuilder, 8 extensions", bare, 0.4),
        line("issue-softhsm", by_token, "issue-file", by_file, 0.7),
    ]


def requests(count: int) -> list[bytes]:
    """PKCS#10 requests (DER), each for a key and a name of its own."""
    algorithm = usual_algorithm(KeyType.P_256)
    made = []
    for number in range(count):
        key = Throwaway(ec.generate_private_key(ec.SECP256R1()), KeyType.P_256, algorithm)
        name = parse_rfc4514(f"CN=Citizen {number},C=AQ").der
        info = build_request_info(name, key.public_key_info, ())
        made.append(assemble_request(info, algorithm, key.sign(info)))
    return made


async def in_process(made: list[bytes], keys: str) -> float:
    """Certificates a second, ``IN_FLIGHT`` applications at a time."""
    with tempfile.TemporaryDirectory(prefix="digitalid-bench-") as folder:
        settings = load(Path(folder), {}, {"keys.store": keys, "issuance.lint_share": "0.0"}).settings
        async with running(settings, create=True, serving=True) as instance:
            authority = instance.hierarchy.authority("issuing")
            left = iter(made)

            async def applicant() -> None:
                for request in left:
                    await authority.issue(Application(PROFILE, request, "bench"))

            for request in made[: IN_FLIGHT // 4]:
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
