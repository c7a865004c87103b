"""A full CRL: ours, checked and durable, against cryptography's builder on the same entries."""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crl.encode import (
    assemble,
    authority_key_identifier,
    build_tbs,
    crl_number,
    encode_entry,
    parse_crl,
)
from crl.issuer import COLLECTIONS, CrlIssuer, entry_of
from infra.clock import FixedClock
from infra.store.sqlite import SqliteStore
from pki.algorithms import KeyType, usual_algorithm
from pki.issuer import Issuer
from pki.signer.file import FileSigner
from pki.status import REVOCATION_REASONS, RevocationReason, Revoked

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_FLAGS = {flag.value: flag for flag in x509.ReasonFlags}


class _Source:
    """So many revoked certificates, spread over a year and all reasons."""

    def __init__(self, count: int) -> None:
        seeded = random.Random(5280)
        self.entries = [
            (
                1 << 158 | seeded.getrandbits(158),
                Revoked(
                    NOW - timedelta(seconds=seeded.randrange(365 * 86400)),
                    REVOCATION_REASONS[number % len(REVOCATION_REASONS)],
                    None,
                    number + 1,
                ),
            )
            for number in range(count)
        ]

    async def sequence(self) -> int:
        return len(self.entries)

    async def revoked(self, issuer: str, /) -> AsyncIterator[tuple[int, Revoked]]:
        for entry in self.entries:
            yield entry


class _Unlogged:
    """The log has benchmarks of its own."""

    async def record(
        self, what: str, object_hash: bytes, detail: Mapping[str, str | int], id: str
    ) -> None:
        return


def _builder(
    entries: list[tuple[int, Revoked]], key: ec.EllipticCurvePrivateKey, name: x509.Name
) -> bytes:
    revoked = []
    for serial, status in entries:
        one = x509.RevokedCertificateBuilder(serial, status.at)
        if status.reason is not RevocationReason.unspecified:
            one = one.add_extension(x509.CRLReason(_FLAGS[status.reason.name]), critical=False)
        revoked.append(one.build())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder(
            name, NOW, NOW + timedelta(days=1), revoked_certificates=revoked
        )
        .add_extension(identifier, critical=False)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _issuer(key: ec.EllipticCurvePrivateKey, name: x509.Name) -> Issuer:
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Issuer(
        name="bench",
        certificate=b"",
        subject=name.public_bytes(),
        public_key_info=spki,
        key_identifier=x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest,
        not_before=NOW - timedelta(days=1000),
        not_after=NOW + timedelta(days=1000),
        chain=(),
        crl_url="",
        ocsp_url="",
        certificate_url="",
    )


async def run(quick: bool) -> list[dict[str, Any]]:
    """Time a CRL of 100,000 entries (10,000 when quick).

    ``crl-encode``: entries to signed octets, as the builder does; ``crl-issue``: the same read
    back, compared with the ledger, its signature verified, and durable in the store.
    """
    count = 10_000 if quick else 100_000
    source = _Source(count)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Benchmark CA")])
    issuer = _issuer(key, name)
    algorithm = usual_algorithm(KeyType.P_256)

    started = time.perf_counter()
    theirs = _builder(source.entries, key, name)
    reference = time.perf_counter() - started

    with ThreadPoolExecutor(1) as threads, tempfile.TemporaryDirectory() as folder:
        signer = FileSigner("file:bench", key, issuer.public_key_info, algorithm, threads)

        started = time.perf_counter()
        tbs = build_tbs(
            issuer=issuer.subject,
            algorithm=algorithm.identifier,
            this_update=NOW,
            next_update=NOW + timedelta(days=1),
            entries=[encode_entry(entry_of(*one)) for one in source.entries],
            extensions=(authority_key_identifier(issuer.key_identifier), crl_number(1)),
        )
        encoded = assemble(tbs, algorithm.identifier, await signer.sign(tbs))
        encode = time.perf_counter() - started

        store = await SqliteStore.open(Path(folder) / "state.sqlite", COLLECTIONS)
        crls = CrlIssuer(
            issuer, signer, source, store, FixedClock(NOW), _Unlogged(), lifetime=timedelta(days=1)
        )
        started = time.perf_counter()
        made = await crls.issue()
        issue = time.perf_counter() - started
        await store.close()

    # The same entries, or the figures say nothing.
    assert _body(theirs) == _body(encoded) == _body(made.der)
    return [
        _figure(f"crl-encode-{count}", encode, reference, goal=3.0),
        _figure(f"crl-issue-{count}", issue, reference, goal=1.0),
    ]


def _body(crl: bytes) -> bytes:
    tbs = parse_crl(crl).tbs
    return hashlib.sha256(tbs.der[tbs.entries_start : tbs.entries_end]).digest()


def _figure(name: str, ours: float, reference: float, *, goal: float) -> dict[str, Any]:
    """``ratio`` above 1 means that ours is faster."""
    return {
        "name": name,
        "unit": "s",
        "ours": round(ours, 4),
        "reference": "cryptography CertificateRevocationListBuilder",
        "reference_value": round(reference, 4),
        "ratio": round(reference / ours, 2),
        "goal": goal,
    }
