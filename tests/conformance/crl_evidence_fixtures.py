"""CRLs with the extensions that make them count, or not; and forged ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.conformance.test_rfc5280_validation import DAY, DER, NOW, Entity, digest

SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def point(
    url: str | None = None, signer: Entity | None = None, reasons: Any = None
) -> x509.DistributionPoint:
    full = [x509.UniformResourceIdentifier(url)] if url else None
    by = [x509.DirectoryName(signer.certificate.subject)] if signer else None
    return x509.DistributionPoint(full, None, reasons, by)


def pointing(*points: x509.DistributionPoint) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.CRLDistributionPoints(points), False)]


def scope(url: str | None = None, **only: Any) -> tuple[x509.ExtensionType, bool]:
    default: dict[str, Any] = {
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    full = [x509.UniformResourceIdentifier(url)] if url else None
    return x509.IssuingDistributionPoint(full_name=full, **(default | only)), True


def entry(
    of: Entity, *more: tuple[x509.ExtensionType, bool], at: datetime = NOW - 2 * DAY
) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(of.certificate.serial_number)
        .revocation_date(at)
    )
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    return builder.build()


def listing(
    signer: Entity,
    *more: tuple[x509.ExtensionType, bool],
    entries: Sequence[x509.RevokedCertificate] = (),
    number: int = 7,
    this_update: datetime = NOW - DAY,
    lifetime: timedelta = 7 * DAY,
) -> bytes:
    """A CRL by ``signer`` with these extensions."""
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=list(entries))
        .issuer_name(signer.certificate.subject)
        .last_update(this_update)
        .next_update(this_update + lifetime)
        .add_extension(x509.CRLNumber(number), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), False
        )
    )
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer.key, digest(signer.key)).public_bytes(DER)


def resigned(data: bytes, signed: bytes) -> bytes:
    """The CRL ``data`` under the signature value of ``signed``, as a forger would copy it."""
    old, new = (x509.load_der_x509_crl(one).signature for one in (data, signed))
    assert len(old) == len(new)
    return data.replace(old, new)


def with_key(entity: Entity, key: Any) -> Entity:
    """The certificate of ``entity`` with another key written into it."""
    old, new = (one.public_key().public_bytes(DER, SPKI) for one in (entity.key, key))
    assert entity.der.count(old) == 1
    return Entity(key, x509.load_der_x509_certificate(entity.der.replace(old, new)))
