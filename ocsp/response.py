"""OCSP responses on the wire (RFC 6960 §4.2, RFC 9654).

Finished octets are put side by side, so that a piece which does not change (a responder's name,
its certificates, what stands before a nonce, an error) is made once and used again. Everything
here is a pure function.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from hashlib import sha1
from typing import Final, assert_never

from ocsp.request import MAX_NONCE, NONCE
from pki import der
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

_BASIC: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.1")
_INVALIDITY_DATE: Final = der.object_identifier("2.5.29.24")


class ResponseStatus(IntEnum):
    """OCSPResponseStatus (RFC 6960 §4.2.1); 4 is not used."""

    successful = 0
    malformedRequest = 1
    internalError = 2
    tryLater = 3
    sigRequired = 5
    unauthorized = 6


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


def build_single(
    cert_id: bytes, status: CertStatus, this_update: datetime, next_update: datetime
) -> bytes:
    """SingleResponse (RFC 6960 §4.2.1).

    ``cert_id``: from the request, octet by octet. A hold is revoked with its reason; the reason
    ``unspecified`` is left out (RFC 5280 §5.3.1); a known invalidity date goes along as a CRL
    entry extension (RFC 6960 §4.4.5).
    """
    body = cert_id + _cert_status(status) + _time(this_update)
    body += der.explicit(0, _time(next_update))
    if isinstance(status, Revoked) and status.invalidity_date is not None:
        date = der.octet_string(der.generalized_time(status.invalidity_date))
        body += der.explicit(1, der.sequence(der.sequence(_INVALIDITY_DATE, date)))
    return der.tlv(der.SEQUENCE, body)


def build_response_data(
    responder_id: bytes, produced_at: datetime, singles: Sequence[bytes], nonce: bytes | None
) -> bytes:
    """ResponseData (RFC 6960 §4.2.1): what is to be signed.

    ``responder_id``: of ``responder_by_name`` or ``responder_by_key``; ``singles``: of
    ``build_single``; ``nonce``: the request's, unchanged (RFC 9654 §2.1).
    """
    answers = b"".join(singles)
    extensions = b"" if nonce is None else _NONCE_HEADS[len(nonce)] + nonce
    body = responder_id + _time(produced_at) + _head(der.SEQUENCE, len(answers)) + answers
    return _head(der.SEQUENCE, len(body) + len(extensions)) + body + extensions


def assemble_basic(
    response_data: bytes, algorithm: bytes, signature: bytes, certificates: Sequence[bytes]
) -> bytes:
    """A successful OCSPResponse around a signed ResponseData (RFC 6960 §4.2.1).

    ``algorithm``: AlgorithmIdentifier; ``certificates``: DER, to verify the signature with.
    """
    body = response_data + algorithm + _head(der.BIT_STRING, len(signature) + 1) + b"\x00"
    body += signature + _certificates(tuple(certificates))
    # Four values end where the body does: their heads are put together from the inside out.
    head = _head(der.SEQUENCE, len(body))
    head = _BASIC + _head(der.OCTET_STRING, len(head) + len(body)) + head
    head = _head(der.SEQUENCE, len(head) + len(body)) + head
    head = _SUCCESSFUL + _head(0xA0, len(head) + len(body)) + head
    return _head(der.SEQUENCE, len(head) + len(body)) + head + body


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

# Many answers are made in the same second and for the same length of time.
_time = lru_cache(maxsize=4096)(der.generalized_time)


@lru_cache(maxsize=4096)
def _head(tag: der.Tag, length: int) -> bytes:
    """Identifier and length octets; a responder's answers differ little in length."""
    return der.tlv(tag, bytes(length))[: -length or None]


@lru_cache(maxsize=64)
def _certificates(certificates: tuple[bytes, ...]) -> bytes:
    """The certs field of BasicOCSPResponse, which is the same in all answers of a responder."""
    if not certificates:
        return b""
    return der.explicit(0, der.tlv(der.SEQUENCE, b"".join(certificates)))


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


def _nonce_extensions(nonce: bytes) -> bytes:
    # RFC 9654 §2.1: extnValue holds an OCTET STRING of its own.
    value = der.octet_string(der.octet_string(nonce))
    return der.explicit(1, der.sequence(der.sequence(NONCE, value)))


# By the nonce's length: all that stands before it in responseExtensions.
_NONCE_HEADS: Final = tuple(
    _nonce_extensions(bytes(size))[: -size or None] for size in range(MAX_NONCE + 1)
)
