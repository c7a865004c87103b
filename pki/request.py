"""Certification requests: PKCS#10 as RFC 2986 defines it, in DER or in PEM (RFC 7468 §7)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Never

from infra.errors import Rejected
from pki import der
from pki.algorithms import KeyType, SignatureAlgorithm, algorithm_of, key_type_of, verify
from pki.der import Reader
from pki.weak_keys import NO_BLOCKLIST, KeyBlocklist, check_key

MAXIMUM_SIZE: Final = 64 * 1024  # octets; an ML-DSA-87 request with a page of names takes 9 KiB

EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"  # RFC 2985 §5.4.2
_EXTENSION_REQUESTS: Final = frozenset(
    {
        EXTENSION_REQUEST,
        "1.3.6.1.4.1.311.2.1.14",  # szOID_CERT_EXTENSIONS: the same content, Microsoft's name
    }
)
# Attributes that tell something about the requester and ask for nothing in the certificate.
_IGNORED_ATTRIBUTES: Final = frozenset(
    {
        "1.2.840.113549.1.9.2",  # unstructuredName, RFC 2985 §5.4.3
        "1.2.840.113549.1.9.7",  # challengePassword, RFC 2985 §5.4.1
        "1.3.6.1.4.1.311.13.2.2",  # Microsoft: name of the cryptographic provider
        "1.3.6.1.4.1.311.13.2.3",  # Microsoft: version of the operating system
        "1.3.6.1.4.1.311.21.20",  # Microsoft: client information
    }
)
_ATTRIBUTES: Final = 0xA0  # [0] IMPLICIT SET OF Attribute
_VERSION_1: Final = der.integer(0)
_PEM_BLOCK: Final = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,64})-----\s(?P<body>[^-]*)-----END (?P=label)-----"
)
_PEM_LABELS: Final = frozenset({b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST"})


@dataclass(frozen=True, slots=True)
class RequestedExtension:
    """An extension that the requester asks for; ``value``: the DER inside its extnValue."""

    oid: str
    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request whose signature proves that the requester holds the private key.

    ``der``: the whole CertificationRequest; ``subject``: the Name and ``public_key_info``: the
    SubjectPublicKeyInfo, both in DER; ``extensions``: as asked for, no OID twice.
    """

    der: bytes
    subject: bytes
    public_key_info: bytes
    key_type: KeyType
    extensions: tuple[RequestedExtension, ...]


def parse_request(data: bytes, *, blocklist: KeyBlocklist = NO_BLOCKLIST) -> CertificateRequest:
    """Read a request and check its key and its proof of possession.

    ``data``: DER, or text that holds one PEM block of a request, at most 64 KiB. Attributes that
    ask for nothing (a challenge password) are ignored, others that are unknown refused. Errors:
    ``request-too-large``, ``bad-request``, ``unknown-attribute``, ``bad-request-signature``,
    ``key-type``, ``unknown-algorithm``, and those of ``weak_keys.check_key``. RFC 2986 §4.
    """
    if len(data) > MAXIMUM_SIZE:
        raise Rejected(
            "request-too-large",
            f"the request has {len(data)} octets; a request takes at most {MAXIMUM_SIZE}",
        )
    request = data if _is_der(data) else _unarmour(data)
    try:
        return _parse(request, blocklist)
    except Rejected as rejected:
        if rejected.code != "bad-der":
            raise
        raise Rejected(
            "bad-request", f"this is not a certification request in DER: {rejected.detail}"
        ) from rejected


def build_request_info(
    subject: bytes, public_key_info: bytes, extensions: Iterable[RequestedExtension]
) -> bytes:
    """The octets of a CertificationRequestInfo, which the requester signs (RFC 2986 §4.1).

    ``subject``: Name in DER; ``public_key_info``: SubjectPublicKeyInfo in DER.
    """
    requested = b"".join(
        der.sequence(
            der.object_identifier(extension.oid),
            der.TRUE if extension.critical else b"",
            der.octet_string(extension.value),
        )
        for extension in extensions
    )
    attribute = (
        der.sequence(der.object_identifier(EXTENSION_REQUEST), der.set_of(der.sequence(requested)))
        if requested
        else b""
    )
    return der.sequence(_VERSION_1, subject, public_key_info, der.tlv(_ATTRIBUTES, attribute))


def assemble_request(info: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """The CertificationRequest in DER of signed ``info`` (RFC 2986 §4.2)."""
    return der.sequence(info, algorithm.identifier, der.bit_string(signature))


def _is_der(data: bytes) -> bool:
    """Whether this is no text: text may start with "0", the octet of a SEQUENCE, but then goes on
    in ASCII, and a PEM block takes more than the 129 octets of a value of short length."""
    return data[:1] == b"0" and (data[1:2] >= b"\x80" or len(data) < 130)


def _unarmour(text: bytes) -> bytes:
    """The content of the one PEM block; anything outside it is explanatory text (RFC 7468 §2)."""
    blocks = list(_PEM_BLOCK.finditer(text))
    if any(block["label"].endswith(b"PRIVATE KEY") for block in blocks):
        _refuse("the file holds a private key; keep it, and send the request alone")
    if len(blocks) != 1 or blocks[0]["label"] not in _PEM_LABELS:
        _refuse("neither DER nor text with one PEM block of the label CERTIFICATE REQUEST")
    try:
        return binascii.a2b_base64(b"".join(blocks[0]["body"].split()), strict_mode=True)
    except binascii.Error as error:
        raise Rejected("bad-request", "the PEM block does not hold base64") from error


def _parse(request: bytes, blocklist: KeyBlocklist) -> CertificateRequest:
    outer = der.one(request, der.SEQUENCE)
    info = outer.raw(der.SEQUENCE)
    algorithm = algorithm_of(outer.raw(der.SEQUENCE))
    signature, unused = outer.bit_string()
    outer.done()
    if unused:
        _refuse("the signature is not a whole number of octets")

    inside = der.one(info, der.SEQUENCE)
    if inside.raw(der.INTEGER) != _VERSION_1:
        _refuse("the version is not 0, the only one of PKCS#10")
    subject = inside.raw(der.SEQUENCE)
    public_key_info = inside.raw(der.SEQUENCE)
    extensions = _parse_attributes(inside.enter(_ATTRIBUTES))
    inside.done()

    key_type = key_type_of(public_key_info)
    check_key(public_key_info, key_type, blocklist)  # first: it bounds what verifying costs
    try:
        verify(algorithm, public_key_info, signature, info)
    except Rejected as rejected:
        if rejected.code != "bad-signature":
            raise
        raise Rejected(
            "bad-request-signature",
            "the request was not signed by the private key that belongs to its public key",
        ) from rejected
    return CertificateRequest(request, subject, public_key_info, key_type, extensions)


def _parse_attributes(attributes: Reader) -> tuple[RequestedExtension, ...]:
    extensions: tuple[RequestedExtension, ...] | None = None
    while attributes:
        attribute = attributes.enter(der.SEQUENCE)
        kind = attribute.object_identifier()
        values = attribute.enter(der.SET)
        attribute.done()
        if kind in _EXTENSION_REQUESTS:
            if extensions is not None:
                _refuse("there is more than one extension request")
            extensions = _parse_extensions(values.enter(der.SEQUENCE))
            values.done()
        elif kind not in _IGNORED_ATTRIBUTES:
            raise Rejected(
                "unknown-attribute",
                f"the request carries the attribute {kind}, which this CA does not know",
            )
    return extensions or ()


def _parse_extensions(sequence: Reader) -> tuple[RequestedExtension, ...]:
    extensions: list[RequestedExtension] = []
    seen: set[str] = set()
    while sequence:
        extension = sequence.enter(der.SEQUENCE)
        oid = extension.object_identifier()
        critical = extension.peek() == der.BOOLEAN
        if critical and not extension.boolean():
            _refuse("an extension writes out the default of critical (X.690 §11.5)")
        value = extension.content(der.OCTET_STRING)
        extension.done()
        if oid in seen:
            _refuse(f"the extension {oid} is asked for twice")
        seen.add(oid)
        content = Reader(value)
        content.header()
        content.done()
        extensions.append(RequestedExtension(oid, critical, value))
    return tuple(extensions)


def _refuse(why: str) -> Never:
    raise Rejected("bad-request", why)
