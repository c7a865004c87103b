"""Who signs a CA's answers, and whether clients will accept that (RFC 6960 §4.2.2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import assert_never

from infra.errors import Rejected
from ocsp import response
from pki import algorithms, der, oids
from pki.certificate import Certificate, parse_certificate
from pki.issuer import Issuer
from pki.signer.port import Signer


class ResponderIdType(Enum):
    """How an answer names its signer (ResponderID, RFC 6960 §4.2.1)."""

    byName = "name"
    byKey = "key"


@dataclass(frozen=True, slots=True)
class Delegate:
    """Who signs the answers for one CA, with one algorithm.

    ``signer``: the key; ``certificate``: DER, issued to that key by that very CA for OCSP signing
    (RFC 6960 §4.2.2.2), or the CA's own.
    """

    issuer: Issuer
    signer: Signer
    certificate: bytes
    responder_id: ResponderIdType = ResponderIdType.byKey


@dataclass(frozen=True, slots=True)
class Desk:
    """A delegate that clients will accept, and what its answers have in common.

    ``responder_id``, ``certificates``: as in the answer; ``signature_identifiers``,
    ``key_identifiers``: the AlgorithmIdentifiers by which clients may prefer it (§4.4.7).
    """

    signer: Signer
    responder_id: bytes
    certificates: bytes
    not_before: datetime
    not_after: datetime
    signature_identifiers: frozenset[bytes]
    key_identifiers: frozenset[bytes]


def open_desk(delegate: Delegate) -> Desk:
    """Check a delegate. Errors: ``delegate-key``, ``delegate-issuer``, ``delegate-purpose``, those
    of ``parse_certificate``."""
    issuer, signer = delegate.issuer, delegate.signer
    certificate = parse_certificate(delegate.certificate)
    if certificate.public_key_info != signer.public_key_info:
        raise Rejected(
            "delegate-key", f"the responder's certificate for CA {issuer.name} is for another key"
        )
    direct = certificate.der == issuer.certificate
    if not direct:
        _require_issued(issuer, certificate)
        if not _is_for_ocsp_signing(certificate):
            raise Rejected(
                "delegate-purpose",
                f"the responder's certificate for CA {issuer.name} lacks id-kp-OCSPSigning",
            )
    key_identifier = der.one(signer.public_key_info, der.SEQUENCE).raw(der.SEQUENCE)
    return Desk(
        signer,
        _responder_id(delegate.responder_id, certificate),
        # Clients have the CA's own certificate already.
        response.build_certificates(*(() if direct else (certificate.der,))),
        certificate.not_before,
        certificate.not_after,
        _signature_identifiers(signer.algorithm),
        # A client may name the kind of key alone, without its curve.
        frozenset({key_identifier, _without_parameters(key_identifier)}),
    )


def _responder_id(kind: ResponderIdType, certificate: Certificate) -> bytes:
    match kind:
        case ResponderIdType.byName:
            return response.responder_by_name(certificate.subject.der)
        case ResponderIdType.byKey:
            return response.responder_by_key(certificate.public_key_info)
        case _:
            assert_never(kind)


def _signature_identifiers(algorithm: algorithms.SignatureAlgorithm) -> frozenset[bytes]:
    """RFC 4055 §5: absent parameters are taken for NULL, but say too little for RSASSA-PSS."""
    if algorithm.oid == algorithms.RSASSA_PSS:
        return frozenset({algorithm.identifier})
    return frozenset({algorithm.identifier, _without_parameters(algorithm.identifier)})


def _without_parameters(identifier: bytes) -> bytes:
    return der.sequence(der.one(identifier, der.SEQUENCE).raw(der.OBJECT_IDENTIFIER))


def _require_issued(issuer: Issuer, certificate: Certificate) -> None:
    refusal = Rejected(
        "delegate-issuer",
        f"the responder's certificate was not issued by CA {issuer.name} itself",
    )
    if certificate.issuer.der != issuer.subject:
        raise refusal
    try:
        algorithms.verify(
            algorithms.algorithm_of(certificate.algorithm),
            issuer.public_key_info,
            certificate.signature,
            certificate.tbs,
        )
    except Rejected as error:
        raise refusal from error


def _is_for_ocsp_signing(certificate: Certificate) -> bool:
    extension = certificate.extension(oids.EXTENDED_KEY_USAGE)
    if extension is None:
        return False
    purposes = der.one(extension.value, der.SEQUENCE)
    stated = set()
    while purposes:
        stated.add(purposes.object_identifier())
    return oids.OCSP_SIGNING in stated
