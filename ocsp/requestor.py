"""Who signed a request, and whether to believe it (RFC 6960 §4.1.2).

A requestor proves itself with a certificate that leads to a trust anchor by the certificates in
the request alone; nothing is fetched, and whether one of them is revoked is not asked. Everything
here is a pure function.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Final

from infra.errors import Rejected
from ocsp.request import OcspRequest, RequestSignature
from pki import algorithms, der, oids
from pki.certificate import Certificate, parse_certificate

MAX_CERTIFICATES: Final = 6
"""Certificates in a request: its signer's and five above it."""
MAX_CERTIFICATE: Final = 16 * 1024  # octets; ML-DSA-87 with its signature takes 8,000

_DIGITAL_SIGNATURE: Final = 0
_KEY_CERT_SIGN: Final = 5
_DIRECTORY_NAME: Final = 0xA4
_PROCESSED: Final = frozenset(
    {
        oids.KEY_USAGE,
        oids.EXTENDED_KEY_USAGE,
        oids.BASIC_CONSTRAINTS,
        oids.SUBJECT_ALT_NAME,
        oids.CERTIFICATE_POLICIES,
    }
)


class SignedRequests(Enum):
    """What becomes of the signature on a request.

    ``ignore``: it is not looked at; ``verify``: one that is there must hold; ``require``: it must
    be there and hold.
    """

    ignore = "ignore"
    verify = "verify"
    require = "require"


def read_anchors(anchors: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Trust anchors of requestors: CAs above them, or their own certificates; DER or PEM.
    Errors: those of ``parse_certificate``."""
    return tuple(map(parse_certificate, anchors))


def check_requestor(asked: OcspRequest, anchors: Sequence[Certificate], now: datetime) -> None:
    """See that the request was signed by somebody under one of ``anchors``, at ``now``.

    At most ``MAX_CERTIFICATES`` certificates are read, and no more signatures checked than there
    are certificates and anchors of a fitting name. Errors: ``request-unsigned``, to be answered
    with sigRequired; ``requestor-certificates``, ``requestor-signature``, ``requestor-name``,
    ``requestor-usage``, ``requestor-untrusted`` and those of ``parse_certificate``, with
    unauthorized.
    """
    if asked.signature is None:
        raise Rejected("request-unsigned", "only signed requests are answered here; sign it")
    signer, *others = _certificates(asked.signature)
    name = asked.requestor_name
    if name is not None and name != der.tlv(_DIRECTORY_NAME, signer.subject.der):
        raise Rejected("requestor-name", "requestorName is not the subject of the certificate")
    if not _allows(signer, _DIGITAL_SIGNATURE):
        raise Rejected("requestor-usage", "the key usage of the certificate is not to sign")
    if not _is_by(asked.signature.algorithm, asked.signature.value, signer, asked.signature.signed):
        raise Rejected(
            "requestor-signature", "the request's signature is not by its first certificate"
        )
    if not _leads_to(signer, others, anchors, now):
        raise Rejected(
            "requestor-untrusted",
            "the requestor's certificate leads to no trust anchor here, or not at this time; "
            "send the certificates between them along",
        )


def _certificates(signature: RequestSignature) -> list[Certificate]:
    given = signature.certificates
    if not 1 <= len(given) <= MAX_CERTIFICATES or max(map(len, given)) > MAX_CERTIFICATE:
        raise Rejected(
            "requestor-certificates",
            f"send 1 to {MAX_CERTIFICATES} certificates with a signed request, the signer's first, "
            f"each of at most {MAX_CERTIFICATE} octets",
        )
    return [parse_certificate(one) for one in given]


def _leads_to(
    signer: Certificate,
    others: list[Certificate],
    anchors: Sequence[Certificate],
    now: datetime,
) -> bool:
    """Upwards, each time to the first issuer whose key fits, and never to one twice."""
    current, below = signer, 0
    left = list(others)
    while _is_in_force(current, now):
        if any(current.der == anchor.der for anchor in anchors):
            return True
        if any(_issued(anchor, current, below) and _is_in_force(anchor, now) for anchor in anchors):
            return True
        issuer = next((one for one in left if _issued(one, current, below)), None)
        if issuer is None:
            return False
        left.remove(issuer)
        current, below = issuer, below + 1
    return False


def _issued(issuer: Certificate, subject: Certificate, below: int) -> bool:
    """Whether ``issuer`` may have issued and did (RFC 5280 §6.1.3 (a), §6.1.4 (k) to (n)).

    ``below``: certificates between ``subject`` and the end of the path.
    """
    if issuer.subject.der != subject.issuer.der or not _allows(issuer, _KEY_CERT_SIGN):
        return False
    constraints = issuer.basic_constraints
    if constraints is None or not constraints.ca:
        return False
    if constraints.path_length is not None and constraints.path_length < below:
        return False
    return _is_by(subject.algorithm, subject.signature, issuer, subject.tbs)


def _is_in_force(certificate: Certificate, now: datetime) -> bool:
    """Whether it is valid at ``now``, and nothing in it demands more than is looked at here."""
    return certificate.not_before <= now <= certificate.not_after and all(
        one.oid in _PROCESSED for one in certificate.extensions if one.critical
    )


def _allows(certificate: Certificate, usage: int) -> bool:
    """Whether the key may be used so: without keyUsage, for anything (RFC 5280 §4.2.1.3)."""
    extension = certificate.extension(oids.KEY_USAGE)
    if extension is None:
        return True
    reader = der.Reader(extension.value)
    allowed = reader.named_bits()
    reader.done()
    return usage in allowed


def _is_by(algorithm: bytes, signature: bytes, signer: Certificate, message: bytes) -> bool:
    try:
        algorithms.verify(
            algorithms.algorithm_of(algorithm), signer.public_key_info, signature, message
        )
    except Rejected:
        return False
    return True
