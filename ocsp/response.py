"""OCSP responses on the wire (RFC 6960 §4.2, RFC 9654).

Finished octets are put side by side, so that a piece which does not change (a responder's name,
its certificates, the times of this second, what stands before a nonce, an error) is made once and
used again. Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from hashlib import sha1
from typing import Final, assert_never

from infra.errors import Rejected
from ocsp.request import MAX_NONCE, NONCE
from pki import der
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

_BASIC: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.1")
_CRL: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.3")
_ARCHIVE_CUTOFF: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.6")
_EXTENDED_REVOKE: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.9")
_INVALIDITY_DATE: Final = der.object_identifier("2.5.29.24")


class ResponseStatus(IntEnum):
    """OCSPResponseStatus (RFC 6960 §4.2.1); 4 is not used."""

    successful = 0
    malformedRequest = 1
    internalError = 2
    tryLater = 3
    sigRequired = 5
    unauthorized = 6


@dataclass(frozen=True, slots=True)
class CrlReference:
    """The CRL on which a revocation is found (CrlID, RFC 6960 §4.4.2), as far as it is known.

    ``url``: where the CRL is; ``number``: its cRLNumber; ``time``: its thisUpdate, with its zone.
    Errors: ``bad-crl-url`` when the URL is not ASCII.
    """

    url: str | None = None
    number: int | None = None
    time: datetime | None = None

    def __post_init__(self) -> None:
        if self.url is not None and not self.url.isascii():
            raise Rejected("bad-crl-url", "write the URL of a CRL in ASCII (RFC 3986)")


def responder_by_name(subject: bytes) -> bytes:
    """ResponderID from the Name in the responder's certificate (RFC 6960 §4.2.1)."""
    return der.explicit(1, subject)


def responder_by_key(public_key_info: bytes) -> bytes:
    """ResponderID from the responder's key: the SHA-1 of its bits (RFC 6960 §4.2.1)."""
    digest = sha1(subject_public_key(public_key_info), usedforsecurity=False).digest()
    return der.explicit(2, der.octet_string(digest))


def subject_public_key(public_key_info: bytes) -> bytes:
    """The octets of the key itself, over which issuerKeyHash and KeyHash go."""
    inside = der.one(public_key_info, der.SEQUENCE)
    inside.raw(der.SEQUENCE)
    key, _ = inside.bit_string()
    inside.done()
    return key


def build_times(this_update: datetime, next_update: datetime) -> bytes:
    """thisUpdate and nextUpdate of a SingleResponse (RFC 6960 §4.2.1)."""
    return der.generalized_time(this_update) + der.explicit(0, der.generalized_time(next_update))


def build_verdict(
    status: CertStatus,
    times: bytes,
    *,
    archive_cutoff: datetime | None = None,
    crl_reference: CrlReference | None = None,
) -> bytes:
    """All of a SingleResponse that stands behind its CertID (RFC 6960 §4.2.1).

    ``times``: of ``build_times``; ``archive_cutoff``: since when revocations are remembered
    (§4.4.4); ``crl_reference``: §4.4.2. A hold is revoked with its reason; the reason
    ``unspecified`` is left out (RFC 5280 §5.3.1); a known invalidity date goes along as a CRL
    entry extension (§4.4.5).
    """
    extensions = b""
    if crl_reference is not None:
        extensions += _extension(_CRL, _crl_id(crl_reference))
    if archive_cutoff is not None:
        extensions += _extension(_ARCHIVE_CUTOFF, der.generalized_time(archive_cutoff))
    if isinstance(status, Revoked) and status.invalidity_date is not None:
        extensions += _extension(_INVALIDITY_DATE, der.generalized_time(status.invalidity_date))
    if extensions:
        extensions = der.explicit(1, der.tlv(der.SEQUENCE, extensions))
    return _cert_status(status) + times + extensions


def build_never_issued(times: bytes) -> bytes:
    """What stands behind the CertID of a certificate that was never issued, when that counts as
    revoked: on hold since 1970, and no word more (RFC 6960 §2.2)."""
    return _NEVER_ISSUED + times


def build_single(cert_id: bytes, verdict: bytes) -> bytes:
    """SingleResponse (RFC 6960 §4.2.1).

    ``cert_id``: from the request, octet by octet; ``verdict``: of ``build_verdict`` or
    ``build_never_issued``.
    """
    return _head(der.SEQUENCE, len(cert_id) + len(verdict)) + cert_id + verdict


def build_opening(responder_id: bytes, produced_at: datetime) -> bytes:
    """What ResponseData opens with: the same for all answers of a responder in a second."""
    return responder_id + der.generalized_time(produced_at)


def build_response_data(
    opening: bytes, singles: Sequence[bytes], nonce: bytes | None, *, extended_revoke: bool = False
) -> bytes:
    """ResponseData (RFC 6960 §4.2.1): what is to be signed.

    ``opening``: of ``build_opening``; ``singles``: of ``build_single``; ``nonce``: the request's,
    unchanged (RFC 9654 §2.1); ``extended_revoke``: whether to say that revoked may mean never
    issued (§4.4.8).
    """
    answers = singles[0] if len(singles) == 1 else b"".join(singles)
    if extended_revoke:
        said = b"" if nonce is None else _extension(NONCE, der.octet_string(nonce))
        said += _extension(_EXTENDED_REVOKE, der.NULL_VALUE)
        extensions = der.explicit(1, der.tlv(der.SEQUENCE, said))
    else:
        extensions = b"" if nonce is None else _NONCE_HEADS[len(nonce)] + nonce
    head, middle = _data_heads(len(opening), len(answers), len(extensions))
    return b"".join((head, opening, middle, answers, extensions))


def assemble_basic(
    response_data: bytes, algorithm: bytes, signature: bytes, certificates: bytes
) -> bytes:
    """A successful OCSPResponse around a signed ResponseData (RFC 6960 §4.2.1).

    ``algorithm``: AlgorithmIdentifier; ``certificates``: of ``build_certificates``.
    """
    head, middle = _basic_heads(
        len(response_data), len(algorithm), len(signature), len(certificates)
    )
    return b"".join((head, response_data, algorithm, middle, signature, certificates))


def build_certificates(*certificates: bytes) -> bytes:
    """The certs field of BasicOCSPResponse; empty for none. ``certificates``: DER, to verify the
    signature with."""
    return der.explicit(0, der.sequence(*certificates)) if certificates else b""


def error_response(status: ResponseStatus) -> bytes:
    """An OCSPResponse without an answer; it is not signed (RFC 6960 §2.3)."""
    return _ERRORS[status]


_SUCCESSFUL: Final = der.enumerated(ResponseStatus.successful)
_ERRORS: Final[dict[ResponseStatus, bytes]] = {
    status: der.sequence(der.enumerated(status))
    for status in ResponseStatus
    if status is not ResponseStatus.successful
}
_GOOD: Final = der.implicit(0, b"")
_UNKNOWN: Final = der.implicit(2, b"")
_NEVER_ISSUED: Final = der.explicit(
    1,
    der.tlv(der.GENERALIZED_TIME, b"19700101000000Z")
    + der.explicit(0, der.enumerated(RevocationReason.certificateHold)),
)


# A responder's answers differ little in their lengths, so that heads are found, not made.
@lru_cache(maxsize=4096)
def _head(tag: der.Tag, length: int) -> bytes:
    """Identifier and length octets."""
    return der.tlv(tag, bytes(length))[: -length or None]


@lru_cache(maxsize=4096)
def _data_heads(opening: int, answers: int, extensions: int) -> tuple[bytes, bytes]:
    """Of ResponseData and of its responses, by the lengths of its parts."""
    middle = _head(der.SEQUENCE, answers)
    return _head(der.SEQUENCE, opening + len(middle) + answers + extensions), middle


@lru_cache(maxsize=4096)
def _basic_heads(
    response_data: int, algorithm: int, signature: int, certificates: int
) -> tuple[bytes, bytes]:
    """Before ResponseData, and between algorithm and signature, by the lengths of the parts."""
    middle = _head(der.BIT_STRING, signature + 1) + b"\x00"
    size = response_data + algorithm + len(middle) + signature + certificates
    # Five values end where the answer does: their heads are put together from the inside out.
    head = _head(der.SEQUENCE, size)
    head = _BASIC + _head(der.OCTET_STRING, len(head) + size) + head
    head = _head(der.SEQUENCE, len(head) + size) + head
    head = _SUCCESSFUL + _head(0xA0, len(head) + size) + head
    return _head(der.SEQUENCE, len(head) + size) + head, middle


def _cert_status(status: CertStatus) -> bytes:
    match status:
        case Good():
            return _GOOD
        case Unknown():
            return _UNKNOWN
        case Revoked():
            body = der.generalized_time(status.at)
            if status.reason is not RevocationReason.unspecified:
                body += der.explicit(0, der.enumerated(status.reason))
            return der.explicit(1, body)  # [1] IMPLICIT RevokedInfo: its tag covers the SEQUENCE
        case _:
            assert_never(status)


def _crl_id(reference: CrlReference) -> bytes:
    parts = []
    if reference.url is not None:
        parts.append(der.explicit(0, der.ia5_string(reference.url)))
    if reference.number is not None:
        parts.append(der.explicit(1, der.integer(reference.number)))
    if reference.time is not None:
        parts.append(der.explicit(2, der.generalized_time(reference.time)))
    return der.sequence(*parts)


def _extension(oid: bytes, value: bytes) -> bytes:
    return der.sequence(oid, der.octet_string(value))


def _nonce_extensions(nonce: bytes) -> bytes:
    # RFC 9654 §2.1: extnValue holds an OCTET STRING of its own.
    return der.explicit(1, der.sequence(_extension(NONCE, der.octet_string(nonce))))


# By the nonce's length: all that stands before it in responseExtensions.
_NONCE_HEADS: Final = tuple(
    _nonce_extensions(bytes(size))[: -size or None] for size in range(MAX_NONCE + 1)
)
