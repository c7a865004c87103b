"""OCSP requests on the wire (RFC 6960 §4.1, RFC 9654), and requests in a URL (A.1).

The reader goes over a request once and keeps slices of it; the form that nearly all requests have
is read at its offsets. Everything here is a pure function.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence, Sized
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from infra.errors import Rejected
from pki import der

MAX_REQUEST: Final = 64 * 1024
"""Octets of a request: room for a signed one with an ML-DSA-87 chain."""
MAX_CERT_IDS: Final = 32
MAX_LISTED: Final = 32
"""Extensions in one place, preferred algorithms, certificates."""
MAX_NONCE: Final = 128
"""RFC 9654 §2.1."""

HASH_OIDS: Final = {
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
"""The hashes that a certificate may be asked for with, by their names in ``hashlib``."""

NONCE: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.2")
_ACCEPTABLE_RESPONSES: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.4")
_PREFERRED_ALGORITHMS: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.8")

HASH_IDENTIFIERS: Final = {
    name: tuple(
        der.sequence(der.object_identifier(oid), *parameters)
        for parameters in ((der.NULL_VALUE,), ())
    )
    for name, oid in HASH_OIDS.items()
}
"""AlgorithmIdentifiers of the hashes: NULL and absent parameters mean the same (RFC 5754 §2)."""


class CertId(NamedTuple):
    """Which certificate is asked for (CertID, RFC 6960 §4.1.1).

    ``issuer``: the octets of hashAlgorithm, issuerNameHash and issuerKeyHash, of any hash, known
    here or not; ``serial``: any INTEGER; ``der``: the whole CertID, as the answer repeats it.
    """

    issuer: bytes
    serial: int
    der: bytes


class PreferredAlgorithm(NamedTuple):
    """PreferredSignatureAlgorithm (RFC 6960 §4.4.7): the AlgorithmIdentifier of a signature and,
    where the client says so, that of the responder's key; both DER."""

    signature: bytes
    key: bytes | None


class RequestSignature(NamedTuple):
    """The signature on a request (RFC 6960 §4.1.2), not checked here.

    ``signed``: the TBSRequest; ``algorithm``: its AlgorithmIdentifier; ``certificates``: DER.
    """

    signed: bytes
    algorithm: bytes
    value: bytes
    certificates: tuple[bytes, ...]


class OcspRequest(NamedTuple):
    """A request as far as its form goes.

    ``cert_ids``: 1 to ``MAX_CERT_IDS``; ``nonce``: 1 to 128 octets; ``preferred_algorithms``: the
    best first; ``requestor_name``: GeneralName.
    """

    cert_ids: tuple[CertId, ...]
    nonce: bytes | None = None
    preferred_algorithms: tuple[PreferredAlgorithm, ...] = ()
    requestor_name: bytes | None = None
    signature: RequestSignature | None = None


def parse_request(data: bytes) -> OcspRequest:
    """Read an OCSPRequest in DER (RFC 6960 §4.1.1).

    Extensions that are not known are passed over unless they are critical (§4.4). Errors, all
    answered with malformedRequest: ``request-too-large``, ``bad-der``, ``bad-version``,
    ``no-cert-id``, ``too-many-cert-ids``, ``too-many-listed``, ``bad-nonce``,
    ``duplicate-extension``, ``unknown-critical-extension``.
    """
    return read_plain_request(data) or read_any_request(data)


def _request_extensions(nonce: bytes) -> bytes:
    value = der.octet_string(der.octet_string(nonce))
    return der.explicit(2, der.sequence(der.sequence(NONCE, value)))


# DER leaves no choice of lengths: what opens a request follows from the size of the whole, what
# stands before a nonce from the size of what is left, and the heads of Request from its CertID's.
_OPENINGS: Final = {
    len(whole): whole[:-room]
    for room in range(60, 280)
    for whole in (der.sequence(der.sequence(bytes(room))),)
}
_NONCE_HEADS: Final = {
    len(whole): whole[:-size]
    for size in range(1, MAX_NONCE + 1)
    for whole in (_request_extensions(bytes(size)),)
}
_REQUEST_HEADS: Final = tuple(
    bytes((der.SEQUENCE, size + 4, der.SEQUENCE, size + 2, der.SEQUENCE, size))
    for size in range(0x80 - 4)
)
_SHA_1: Final = HASH_IDENTIFIERS["sha1"][0] + b"\x04\x14"
_SHA_256: Final = HASH_IDENTIFIERS["sha256"][0] + b"\x04\x20"


def read_plain_request(data: bytes) -> OcspRequest | None:
    """A request of the form that nearly all have, as ``read_any_request`` reads it; None for any
    other, good or bad.

    The form: one CertID by SHA-1 or SHA-256 with NULL parameters, a serial number that a CA may
    use, and nothing else but perhaps a nonce that is not critical.
    """
    size = len(data)
    opening = _OPENINGS.get(size)
    if opening is None or not data.startswith(opening):
        return None
    begin = len(opening) + 4
    issuer = begin + 2
    if data.startswith(_SHA_1, issuer):
        serial = issuer + 55
        key_head = data[issuer + 33 : issuer + 35] == b"\x04\x14"
    elif data.startswith(_SHA_256, issuer):
        serial = issuer + 83
        key_head = data[issuer + 49 : issuer + 51] == b"\x04\x20"
    else:
        return None
    start = serial + 2
    if not key_head or start >= size or data[serial] != der.INTEGER:
        return None
    length = data[serial + 1]
    stop = start + length
    if not 0 < length <= 21 or stop > size:
        return None
    first = data[start]
    if first == 0:
        serial_fits = length > 1 and data[start + 1] > 0x7F
    else:
        serial_fits = first < 0x80 and length <= 20
    if not serial_fits or not data.startswith(_REQUEST_HEADS[stop - issuer], begin - 4):
        return None
    nonce: bytes | None = None
    if stop < size:
        head = _NONCE_HEADS.get(size - stop)
        if head is None or not data.startswith(head, stop):
            return None
        nonce = data[stop + len(head) :]
    number = int.from_bytes(data[start:stop], "big")
    return OcspRequest((CertId(data[issuer:serial], number, data[begin:stop]),), nonce)


def read_any_request(data: bytes) -> OcspRequest:
    """Read an OCSPRequest of any form. Errors: those of ``parse_request``."""
    size = len(data)
    if size > MAX_REQUEST:
        raise Rejected("request-too-large", f"a request takes at most {MAX_REQUEST} octets")
    position, end = _value(data, 0, size, der.SEQUENCE)
    if end != size:
        raise _bad("there are octets after the request")
    tbs = position
    position, tbs_end = _value(data, tbs, end, der.SEQUENCE)
    signature = _signature(data, tbs, tbs_end, end) if tbs_end < end else None

    requestor_name = None
    lead = data[position : position + 1]
    if lead == b"\xa0":
        raise Rejected("bad-version", "only v1 is known, which DER leaves out (X.690 §11.5)")
    if lead == b"\xa1":
        start, position = _value(data, position, tbs_end, 0xA1)
        inside = der.Reader(data, start, position)
        requestor_name = inside.raw()
        inside.done()

    position, list_end = _value(data, position, tbs_end, der.SEQUENCE)
    cert_ids: list[CertId] = []
    while position < list_end:
        if len(cert_ids) == MAX_CERT_IDS:
            raise Rejected("too-many-cert-ids", f"ask for at most {MAX_CERT_IDS} at once")
        position, request_end = _value(data, position, list_end, der.SEQUENCE)
        cert_id, position = _cert_id(data, position, request_end)
        cert_ids.append(cert_id)
        if position < request_end:
            _extensions(data, position, request_end, 0xA0)
            position = request_end
    if not cert_ids:
        raise Rejected("no-cert-id", "the request asks for no certificate")

    nonce: bytes | None = None
    preferred: tuple[PreferredAlgorithm, ...] = ()
    if list_end < tbs_end:
        nonce, preferred = _extensions(data, list_end, tbs_end, 0xA2)
    return OcspRequest(tuple(cert_ids), nonce, preferred, requestor_name, signature)


def request_in_path(path: str) -> bytes:
    """The DER that a GET asks with: what follows the responder's URL and its slash.

    That is base64, with or without percent-encoding (RFC 6960 A.1). Clients add slashes: before
    it, where none can belong to it (DER of a SEQUENCE starts with ``M``), and one after it.
    Errors: ``bad-path``, ``request-too-large``.
    """
    if len(path) > 4 * MAX_REQUEST:
        raise Rejected("request-too-large", f"a request takes at most {MAX_REQUEST} octets")
    try:
        text = unquote_to_bytes(path).lstrip(b"/")
        if len(text) % 4 == 1 and text.endswith(b"/"):
            text = text[:-1]
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise Rejected("bad-path", "the path is not the base64 of a request") from error
    if binascii.b2a_base64(data, newline=False) != text:
        raise Rejected("bad-path", "the base64 in the path has too much padding or odd bits")
    return data


def build_request(cert_ids: Sequence[bytes], nonce: bytes | None = None) -> bytes:
    """An OCSPRequest in DER, as a client sends it.

    ``cert_ids``: as ``build_cert_id`` makes them; ``nonce``: 32 octets, as RFC 9654 §2.1 wants
    clients to send, or None.
    """
    parts = [der.sequence(*(der.sequence(cert_id) for cert_id in cert_ids))]
    if nonce is not None:
        parts.append(_request_extensions(nonce))
    return der.sequence(der.sequence(*parts))


def build_cert_id(hash_oid: str, name_hash: bytes, key_hash: bytes, serial: int) -> bytes:
    """CertID in DER, with NULL parameters as deployed responders expect them."""
    return der.sequence(
        der.sequence(der.object_identifier(hash_oid), der.NULL_VALUE),
        der.octet_string(name_hash),
        der.octet_string(key_hash),
        der.integer(serial),
    )


def _value(data: bytes, position: int, end: int, tag: der.Tag) -> tuple[int, int]:
    """Where the content of the value at ``position`` starts and ends; it must have this tag."""
    start = position + 2
    if start <= end and data[position] == tag:
        length = data[position + 1]
        if length < 0x80 and start + length <= end:
            return start, start + length
    found, start, stop = der.Reader(data, position, end).header()
    if found != tag:
        raise _bad(f"tag {tag:#04x} was expected, {found:#04x} found")
    return start, stop


def _cert_id(data: bytes, position: int, end: int) -> tuple[CertId, int]:
    begin = position
    position, stop = _value(data, begin, end, der.SEQUENCE)
    _, name = _value(data, position, stop, der.SEQUENCE)
    if data[position:name] not in _KNOWN_HASHES:
        _check_algorithm(data[position:name])
    _, key = _value(data, name, stop, der.OCTET_STRING)
    _, serial = _value(data, key, stop, der.OCTET_STRING)
    start, serial_end = _value(data, serial, stop, der.INTEGER)
    if serial_end != stop:
        raise _bad("there are octets after the serial number")
    if start == stop or (
        stop - start > 1 and data[start] in (0, 0xFF) and (data[start] ^ data[start + 1]) < 0x80
    ):
        raise _bad("a serial number is empty or takes more octets than it needs")
    number = int.from_bytes(data[start:stop], "big", signed=True)
    return CertId(data[position:serial], number, data[begin:stop]), stop


_KNOWN_HASHES: Final = frozenset(one for both in HASH_IDENTIFIERS.values() for one in both)


def _check_algorithm(identifier: bytes) -> None:
    """A hash that no issuer here can be found by, or odd parameters: legal, but not ours."""
    inside = der.one(identifier, der.SEQUENCE)
    inside.object_identifier()
    if inside:
        inside.raw()
    inside.done()


def _extensions(
    data: bytes, position: int, end: int, tag: der.Tag
) -> tuple[bytes | None, tuple[PreferredAlgorithm, ...]]:
    """Nonce and preferred signature algorithms out of the Extensions at ``position``.

    ``tag``: 0xA2 for those of the request; those of a single request (0xA0) know neither.
    """
    start, stop = _value(data, position, end, tag)
    if stop != end:
        raise _bad("there are octets after the extensions")
    position, inner = _value(data, start, stop, der.SEQUENCE)
    if inner != stop or position == stop:
        raise _bad("the extensions are empty or followed by more")
    nonce: bytes | None = None
    preferred: tuple[PreferredAlgorithm, ...] = ()
    seen: set[bytes] = set()
    while position < stop:
        position, extension_end = _value(data, position, stop, der.SEQUENCE)
        _, value = _value(data, position, extension_end, der.OBJECT_IDENTIFIER)
        oid = data[position:value]
        _require_few(seen)
        if oid in seen:
            raise Rejected("duplicate-extension", "an extension stands there twice")
        seen.add(oid)
        critical = data[value : value + 3] == der.TRUE  # FALSE is the default: X.690 §11.5
        start, inner = _value(data, value + 3 * critical, extension_end, der.OCTET_STRING)
        if inner != extension_end:
            raise _bad("there are octets after an extension's value")
        position = extension_end
        if tag == 0xA2 and oid == NONCE:
            nonce = _nonce(data, start, inner)
        elif tag == 0xA2 and oid == _PREFERRED_ALGORITHMS:
            preferred = _preferred_algorithms(data, start, inner)
        elif tag == 0xA2 and oid == _ACCEPTABLE_RESPONSES:
            # Every client is to accept the basic response, the one there is (§4.4.3).
            continue
        elif critical:
            name = der.Reader(oid).object_identifier()
            raise Rejected("unknown-critical-extension", f"extension {name} is not known here")
    return nonce, preferred


def _nonce(data: bytes, start: int, stop: int) -> bytes:
    inner, end = _value(data, start, stop, der.OCTET_STRING)
    if end != stop:
        raise _bad("there are octets after the nonce")
    if not 1 <= end - inner <= MAX_NONCE:
        raise Rejected("bad-nonce", f"a nonce takes 1 to {MAX_NONCE} octets (RFC 9654)")
    return data[inner:end]


def _preferred_algorithms(data: bytes, start: int, stop: int) -> tuple[PreferredAlgorithm, ...]:
    """PreferredSignatureAlgorithms (RFC 6960 §4.4.7)."""
    outer = der.Reader(data, start, stop)
    listed = outer.enter(der.SEQUENCE)
    outer.done()
    algorithms: list[PreferredAlgorithm] = []
    while listed:
        one = listed.enter(der.SEQUENCE)
        signature = one.raw(der.SEQUENCE)
        _require_few(algorithms)
        algorithms.append(PreferredAlgorithm(signature, one.raw(der.SEQUENCE) if one else None))
        one.done()
    return tuple(algorithms)


def _signature(data: bytes, tbs: int, start: int, end: int) -> RequestSignature:
    reader = der.Reader(data, start, end)
    explicit = reader.enter(0xA0)
    reader.done()
    inside = explicit.enter(der.SEQUENCE)
    explicit.done()
    algorithm = inside.raw(der.SEQUENCE)
    value, unused = inside.bit_string()
    certificates: list[bytes] = []
    if inside:
        wrapper = inside.enter(0xA0)
        listed = wrapper.enter(der.SEQUENCE)
        wrapper.done()
        while listed:
            _require_few(certificates)
            certificates.append(listed.raw(der.SEQUENCE))
    inside.done()
    if unused:
        raise _bad("the signature does not fill its octets")
    return RequestSignature(data[tbs:start], algorithm, value, tuple(certificates))


def _require_few(listed: Sized) -> None:
    if len(listed) == MAX_LISTED:
        raise Rejected("too-many-listed", f"a list in a request holds at most {MAX_LISTED}")


def _bad(why: str) -> Rejected:
    return Rejected("bad-der", why)
