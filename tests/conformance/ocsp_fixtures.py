"""A CA, its OCSP delegates and a responder, as the OCSP tests need them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.clock import Clock, FixedClock
from infra.http.app import make_app, serve_app
from infra.http.front import Front
from ocsp.request import HASH_OIDS, build_cert_id
from ocsp.responder import CrlReferences, Delegate, Practice, Responder, ResponderIdType
from ocsp.response import subject_public_key
from ocsp.server import PREFIXES, Access, OcspServer, routes
from ocsp.source import Horizon
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.issuer import Issuer
from pki.signer.file import FileSigner
from pki.status import CertStatus, Unknown

NOW = datetime.now(UTC)
LIFETIME = timedelta(hours=1)
PLAIN = Practice()

ALGORITHMS: dict[str, Callable[[], tuple[Any, str]]] = {
    "p-256": lambda: (ec.generate_private_key(ec.SECP256R1()), "ecdsa-with-sha256"),
    "p-384": lambda: (ec.generate_private_key(ec.SECP384R1()), "ecdsa-with-sha384"),
    "p-521": lambda: (ec.generate_private_key(ec.SECP521R1()), "ecdsa-with-sha512"),
    "rsa": lambda: (rsa.generate_private_key(65537, 2048), "sha256-with-rsa"),
    "rsa-pss": lambda: (rsa.generate_private_key(65537, 2048), "rsa-pss-sha256"),
    "ed25519": lambda: (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
    "ml-dsa-44": lambda: (mldsa.MLDSA44PrivateKey.generate(), "ml-dsa-44"),
    "ml-dsa-65": lambda: (mldsa.MLDSA65PrivateKey.generate(), "ml-dsa-65"),
    "ml-dsa-87": lambda: (mldsa.MLDSA87PrivateKey.generate(), "ml-dsa-87"),
}
"""A fresh private key and the algorithm that it signs with."""


def public_key_info(key: Any) -> bytes:
    info: bytes = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return info


_THREADS = ThreadPoolExecutor(2, "ocsp-tests")


def file_signer(key: Any, algorithm: str) -> FileSigner:
    """A private key as the file key store opens it, without the file."""
    chosen = SIGNATURE_ALGORITHMS[algorithm]
    return FileSigner("file:ocsp", key, public_key_info(key), chosen, _THREADS)


def signer(name: str) -> FileSigner:
    """A fresh signer of ``ALGORITHMS``."""
    return file_signer(*ALGORITHMS[name]())


class Statuses:
    """A status source that knows what it is told; an exception in place of a status is raised.

    ``known_at`` and ``until``: the horizon, by default that all is known as it is now.
    """

    def __init__(
        self,
        known: Mapping[tuple[str, int], CertStatus | Exception],
        *,
        known_at: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self.known = dict(known)
        self.known_at = known_at
        self.until = until
        self.asked: list[tuple[str, int]] = []
        self.changes: list[int] = []

    def change(self, issuer: str, serial: int, status: CertStatus | Exception) -> None:
        """Tell another status from now on."""
        self.known[(issuer, serial)] = status
        self.changes.append(self.key(issuer, serial))

    @property
    def counter(self) -> int:
        return len(self.changes)

    def changed_since(self, counter: int) -> tuple[int, Sequence[int] | None]:
        return self.counter, self.changes[counter:]

    def key(self, issuer: str, serial: int) -> int:
        return hash((issuer, serial))

    def horizon(self, issuer: str, now: datetime) -> Horizon:
        return Horizon(self.known_at or now, self.until)

    def status(self, issuer: str, serial: int) -> CertStatus:
        self.asked.append((issuer, serial))
        found = self.known.get((issuer, serial), Unknown())
        if isinstance(found, Exception):
            raise found
        return found


@dataclass
class Ca:
    """A self-signed CA with a P-256 key that issues whatever it is asked to."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = (
            self._builder(self.key.public_key(), self.name, NOW + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def issuer(self) -> Issuer:
        info = public_key_info(self.key)
        return Issuer(
            name=self.name,
            certificate=self.der,
            subject=self.certificate.subject.public_bytes(),
            public_key_info=info,
            key_identifier=x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()).digest,
            not_before=self.certificate.not_valid_before_utc,
            not_after=self.certificate.not_valid_after_utc,
            chain=(),
            crl_url="http://127.0.0.1/crl/test.crl",
            ocsp_url="http://127.0.0.1/ocsp",
            certificate_url="http://127.0.0.1/aia/test.cer",
        )

    def _builder(self, public_key: Any, name: str, until: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
        )

    def issue(self, name: str, public_key: Any = None) -> x509.Certificate:
        """An end-entity certificate."""
        key = public_key or ec.generate_private_key(ec.SECP256R1()).public_key()
        return self._builder(key, name, NOW + timedelta(days=30)).sign(self.key, hashes.SHA256())

    def delegate(
        self,
        signer: FileSigner,
        responder_id: ResponderIdType = ResponderIdType.byKey,
        *,
        until: datetime | None = None,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.OCSP_SIGNING,
    ) -> Delegate:
        """``signer`` with a responder certificate of this CA."""
        public_key = serialization.load_der_public_key(signer.public_key_info)
        certificate = (
            self._builder(public_key, f"{self.name} OCSP", until or NOW + timedelta(days=30))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(_key_usage(digital_signature=True), True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), False)
            .add_extension(x509.OCSPNoCheck(), False)
            .sign(self.key, hashes.SHA256())
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        return Delegate(self.issuer, signer, der, responder_id)


def responder(
    delegates: Iterable[Delegate],
    statuses: Statuses,
    clock: Clock | None = None,
    practice: Practice = PLAIN,
    crl_references: CrlReferences | None = None,
) -> Responder:
    """A responder whose clock stands at ``NOW`` unless told otherwise."""
    clock = clock or FixedClock(NOW)
    return Responder(delegates, statuses, clock, LIFETIME, practice, crl_references)


def server(responder: Responder, *, entries: int = 100, access: Access | None = None) -> OcspServer:
    """Keeps the answers of ``responder``."""
    source: Any = responder._source
    issuers = list(responder._cas)
    return OcspServer(
        responder, source, responder._clock, issuers=issuers, entries=entries, access=access
    )


@asynccontextmanager
async def serving(responder: Responder, *, access: Access | None = None) -> AsyncIterator[str]:
    """The URL of ``responder`` on a free port of this machine, as the product serves it: what its
    front leaves goes to an aiohttp application."""
    answering = server(responder, access=access)
    app = make_app({}, private=False)
    app.add_routes(routes(answering))
    front = Front(answering.answer, PREFIXES)
    served = await serve_app(app, "127.0.0.1", 0, front=front)
    try:
        yield f"{served.urls[0]}/ocsp"
    finally:
        await served.stop()
        assert front.connections == front.under_way == 0


async def run(*command: str | Path) -> str:
    """What a command prints, on either stream; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def write_pem(path: Path, certificate: x509.Certificate) -> Path:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def cert_id(issuer: Issuer, serial: int, hash_name: str = "sha1") -> bytes:
    """CertID as a client makes it."""
    key = subject_public_key(issuer.public_key_info)
    return build_cert_id(
        HASH_OIDS[hash_name],
        hashlib.new(hash_name, issuer.subject).digest(),
        hashlib.new(hash_name, key).digest(),
        serial,
    )


def _key_usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})
