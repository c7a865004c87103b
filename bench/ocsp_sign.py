"""OCSP in process: live-signed answers and the codec, against what cryptography does bare."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from time import perf_counter
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.clock import SystemClock
from ocsp.request import HASH_OIDS, build_cert_id, build_request, parse_request
from ocsp.responder import Delegate, Responder
from ocsp.response import ResponseStatus, subject_public_key
from ocsp.source import Horizon
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.issuer import Issuer
from pki.signer.file import FileSigner
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

ROUND: Final = 500  # requests: short rounds find the moments in which the machine is quiet
ECDSA: Final = ec.ECDSA(hashes.SHA256())


class MemorySource:
    """The status of every certificate in a dictionary, right at any time."""

    def __init__(self, statuses: dict[int, CertStatus]) -> None:
        self._statuses = statuses

    def horizon(self, issuer: str, now: datetime) -> Horizon:
        return Horizon(now)

    def status(self, issuer: str, serial: int) -> CertStatus:
        return self._statuses.get(serial, Unknown())


@dataclass(frozen=True, slots=True)
class Scene:
    """A responder, its key in the clear, and requests with nonces for certificates it knows."""

    responder: Responder
    key: ec.EllipticCurvePrivateKey
    ca: x509.Certificate
    certificate: x509.Certificate
    requests: list[bytes]
    serials: list[int]


async def run(quick: bool) -> list[dict[str, Any]]:
    """Answers a second with a nonce and the responder's certificate; requests parsed a second."""
    scene = _scene()
    rates = await _best(
        {
            "answer": lambda: _answer(scene),
            "sign": lambda: _sign(scene),
            "build": lambda: _build(scene),
            "parse": lambda: _parse(scene),
            "load": lambda: _load(scene),
        },
        20 if quick else 100,
    )
    live = rates["answer"]
    return [
        _line("ocsp-live", "answers/s", live, "bare P-256 signatures", rates["sign"], 0.6),
        _line("ocsp-live-builder", "answers/s", live, "OCSPResponseBuilder", rates["build"], 2.0),
        _line("ocsp-parse", "requests/s", rates["parse"], "cryptography", rates["load"], 1.0),
    ]


async def _best(works: dict[str, Callable[[], Awaitable[None]]], rounds: int) -> dict[str, float]:
    """Requests a second in the best round of each, taken in turns."""
    best = dict.fromkeys(works, 0.0)
    for _ in range(rounds):
        for name, work in works.items():
            start = perf_counter()
            await work()
            best[name] = max(best[name], ROUND / (perf_counter() - start))
    return best


async def _answer(scene: Scene) -> None:
    for request in scene.requests:
        answer = await scene.responder.answer(request)
        if answer.status is not ResponseStatus.successful:
            raise RuntimeError(f"the responder said {answer.status.name}: {answer.code}")


async def _sign(scene: Scene) -> None:
    message = bytes(300)  # about what a ResponseData with one answer takes
    for _ in scene.requests:
        scene.key.sign(message, ECDSA)


async def _parse(scene: Scene) -> None:
    for request in scene.requests:
        parse_request(request)


async def _load(scene: Scene) -> None:
    """What a responder needs of a request, read with cryptography."""
    for request in scene.requests:
        loaded = x509_ocsp.load_der_ocsp_request(request)
        nonce = loaded.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        if not (loaded.issuer_name_hash and loaded.issuer_key_hash and nonce):
            raise RuntimeError("cryptography read less than there is")
        loaded.serial_number  # noqa: B018 - read on demand


async def _build(scene: Scene) -> None:
    """The same answers, made with cryptography alone and without reading the requests."""
    now = datetime.now(UTC).replace(microsecond=0)
    name = sha1(scene.ca.subject.public_bytes(), usedforsecurity=False).digest()
    key = sha1(subject_public_key(_public_key_info(scene.ca)), usedforsecurity=False).digest()
    for serial in scene.serials:
        response = (
            x509_ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                name,
                key,
                serial,
                hashes.SHA1(),  # noqa: S303 - CertID, as most clients send it
                x509_ocsp.OCSPCertStatus.GOOD,
                now,
                now + timedelta(hours=1),
                None,
                None,
            )
            .responder_id(x509_ocsp.OCSPResponderEncoding.HASH, scene.certificate)
            .certificates([scene.certificate])
            .add_extension(x509.OCSPNonce(bytes(32)), False)
            .sign(scene.key, hashes.SHA256())
        )
        response.public_bytes(serialization.Encoding.DER)


def _scene() -> Scene:
    source = random.Random(6960)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = ca_certificate(ca_key)
    certificate = certificate_for("OCSP responder", key.public_key(), ca_key)
    issuer = issuer_of(ca)
    signer = FileSigner(
        "file:ocsp",
        key,
        _public_key_info(certificate),
        SIGNATURE_ALGORITHMS["ecdsa-with-sha256"],
        ThreadPoolExecutor(1),
    )
    serials = [source.getrandbits(159) | 1 for _ in range(ROUND)]
    revoked = Revoked(datetime(2026, 1, 1, tzinfo=UTC), RevocationReason.keyCompromise, None, 1)
    statuses: dict[int, CertStatus] = {
        serial: revoked if source.random() < 0.05 else Good() for serial in serials
    }
    name_hash = sha1(issuer.subject, usedforsecurity=False).digest()
    key_hash = sha1(subject_public_key(issuer.public_key_info), usedforsecurity=False).digest()
    return Scene(
        Responder(
            [Delegate(issuer, signer, certificate.public_bytes(serialization.Encoding.DER))],
            MemorySource(statuses),
            SystemClock(),
            timedelta(hours=1),
        ),
        key,
        ca,
        certificate,
        [
            build_request(
                [build_cert_id(HASH_OIDS["sha1"], name_hash, key_hash, serial)],
                source.randbytes(32),
            )
            for serial in serials
        ],
        serials,
    )


def ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A CA as far as a responder looks at it."""
    return certificate_for("CA", key.public_key(), key)


def issuer_of(ca: x509.Certificate) -> Issuer:
    """What a responder has to know of this CA."""
    return Issuer(
        name="issuing",
        certificate=ca.public_bytes(serialization.Encoding.DER),
        subject=ca.subject.public_bytes(),
        public_key_info=_public_key_info(ca),
        key_identifier=x509.SubjectKeyIdentifier.from_public_key(_p256(ca)).digest,
        not_before=ca.not_valid_before_utc,
        not_after=ca.not_valid_after_utc,
        chain=(),
        crl_url="http://127.0.0.1/crl/issuing.crl",
        ocsp_url="http://127.0.0.1/ocsp",
        certificate_url="http://127.0.0.1/aia/issuing.cer",
    )


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def certificate_for(
    name: str, key: ec.EllipticCurvePublicKey, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """A responder's certificate for ``key``, by a CA of the name ``CA``."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
        )
        .add_extension(x509.OCSPNoCheck(), False)
        .sign(ca_key, hashes.SHA256())
    )


def _public_key_info(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _line(
    name: str, unit: str, ours: float, reference: str, value: float, goal: float
) -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "ours": round(ours, 1),
        "reference": reference,
        "reference_value": round(value, 1),
        "ratio": round(ours / value, 3),
        "goal": goal,
    }
