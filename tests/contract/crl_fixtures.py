"""A CA and a recorder, for tests about CRLs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import NameOID

from infra.errors import Unavailable
from pki.algorithms import KeyType, usual_algorithm
from pki.issuer import Issuer
from pki.signer.file import FileSigner

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)

_KEYS: dict[KeyType, Any] = {}


def private_key(key_type: KeyType) -> Any:
    """One key of each type for the whole run: an RSA key takes its time."""
    if key_type not in _KEYS:
        match key_type:
            case KeyType.P_256:
                _KEYS[key_type] = ec.generate_private_key(ec.SECP256R1())
            case KeyType.P_384:
                _KEYS[key_type] = ec.generate_private_key(ec.SECP384R1())
            case KeyType.RSA_2048:
                _KEYS[key_type] = rsa.generate_private_key(65537, 2048)
            case KeyType.ED25519:
                _KEYS[key_type] = ed25519.Ed25519PrivateKey.generate()
            case KeyType.ML_DSA_44:
                _KEYS[key_type] = mldsa.MLDSA44PrivateKey.generate()
            case _:
                raise NotImplementedError(key_type)
    return _KEYS[key_type]


@dataclass(frozen=True)
class Authority:
    """A root CA: as the product sees it, and its private key."""

    issuer: Issuer
    signer: FileSigner
    key: Any
    certificate: x509.Certificate

    def certify(self, serial: int, now: datetime) -> x509.Certificate:
        """A certificate for somebody, of this serial."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Citizen {serial}")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(private_key(KeyType.P_256).public_key())
            .serial_number(serial)
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(
                x509.AuthorityKeyIdentifier(self.issuer.key_identifier, None, None), False
            )
        )
        return builder.sign(self.key, _hash(self.key))


def _hash(key: Any) -> Any:
    return (
        hashes.SHA256()
        if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey))
        else None
    )


def authority(
    threads: ThreadPoolExecutor,
    key_type: KeyType = KeyType.P_256,
    *,
    now: datetime = NOW,
    not_after: datetime | None = None,
) -> Authority:
    """A root CA of this key type, made by cryptography."""
    key = private_key(key_type)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Test CA {key_type}"),
        ]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    not_before = now - 30 * DAY
    not_after = not_after or now + 3650 * DAY
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(usage, True)
        .add_extension(identifier, False)
        .sign(key, _hash(key))
    )
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    issuer = Issuer(
        name="issuing",
        certificate=certificate.public_bytes(serialization.Encoding.DER),
        subject=name.public_bytes(),
        public_key_info=spki,
        key_identifier=identifier.digest,
        not_before=not_before,
        not_after=not_after,
        chain=(),
        crl_url="http://127.0.0.1:8081/crl/issuing.crl",
        ocsp_url="http://127.0.0.1:8081/ocsp",
        certificate_url="http://127.0.0.1:8081/aia/issuing.cer",
    )
    signer = FileSigner("file:test", key, spki, usual_algorithm(key_type), threads)
    return Authority(issuer, signer, key, certificate)


@dataclass
class Acts:
    """What was recorded, by id; it can be told to refuse."""

    kept: dict[str, tuple[str, bytes, dict[str, str | int]]] = field(default_factory=dict)
    full: bool = False

    async def record(
        self, what: str, object_hash: bytes, detail: Mapping[str, str | int], id: str
    ) -> None:
        if self.full:
            raise Unavailable("storage-full", "the log cannot be written")
        self.kept.setdefault(id, (what, object_hash, dict(detail)))

    def named(self, what: str) -> list[dict[str, str | int]]:
        return [detail for name, _, detail in self.kept.values() if name == what]


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until this holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.001)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
