"""The other names of a subject: GeneralName in DER and as text (RFC 5280 §4.2.1.6)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from infra.errors import Rejected
from pki import der, oids
from pki.names import check_characters, parse_name, parse_rfc4514

MAXIMUM_NAMES: Final = 256
MAXIMUM_SIZE: Final = 32 * 1024  # octets of a whole subjectAltName
MAXIMUM_VALUE: Final = 2048  # characters of one name


class GeneralNameKind(StrEnum):
    """The forms that this CA certifies; the last four are otherName types with a string value."""

    dns = "dns"
    email = "email"
    uri = "uri"
    ip = "ip"
    directory_name = "directoryName"
    upn = "upn"
    smtp_utf8_mailbox = "smtpUTF8Mailbox"
    xmpp_address = "xmppAddr"
    srv_name = "srvName"


_TAGS: Final = {
    GeneralNameKind.email: 0x81,
    GeneralNameKind.dns: 0x82,
    GeneralNameKind.uri: 0x86,
    GeneralNameKind.ip: 0x87,
    GeneralNameKind.directory_name: 0xA4,
}
_KINDS: Final = {tag: kind for kind, tag in _TAGS.items()}
_OTHER_NAME: Final = 0xA0
_OTHER_NAMES: Final = {
    GeneralNameKind.upn: (oids.USER_PRINCIPAL_NAME, der.UTF8_STRING),
    GeneralNameKind.smtp_utf8_mailbox: (oids.SMTP_UTF8_MAILBOX, der.UTF8_STRING),
    GeneralNameKind.xmpp_address: (oids.XMPP_ADDRESS, der.UTF8_STRING),
    GeneralNameKind.srv_name: (oids.SRV_NAME, der.IA5_STRING),
}
_OTHER_KINDS: Final = {oid: (kind, tag) for kind, (oid, tag) in _OTHER_NAMES.items()}

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_URI: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
)
# W3C DID Core §3.1, with the path, query and fragment of §3.2.
_DID: Final = re.compile(
    r"did:[a-z0-9]+:(?:(?:[A-Za-z0-9._-]|%[0-9A-Fa-f]{2})*:)*(?:[A-Za-z0-9._-]|%[0-9A-Fa-f]{2})+"
    r"(?:[/?#].*)?"
)
_HOSTED: Final = re.compile(r"(?:https?|ldaps?|ftp)://(?P<host>[^/?#]*)", re.IGNORECASE)
_MAILBOX: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")


@dataclass(frozen=True, slots=True)
class GeneralName:
    """One name, made by ``general_name`` or read from ``der``.

    ``value``: a DNS name in A-labels, a mailbox, a URI, an IP address as text, a distinguished
    name as RFC 4514 text, or the string of an otherName.
    """

    kind: GeneralNameKind
    value: str
    der: bytes

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def parse_general_name(text: str) -> GeneralName:
    """A name as operators write it: ``dns:www.example``, ``email:a@example``, ``uri:did:…``,
    ``ip:192.0.2.1``, ``directoryName:CN=…``, ``upn:…``. Errors: ``bad-general-name``,
    ``name-too-long``, ``bad-character``."""
    kind, colon, value = text.partition(":")
    found = next((k for k in GeneralNameKind if k.value.lower() == kind.strip().lower()), None)
    if not colon or found is None:
        known = ", ".join(GeneralNameKind)
        raise Rejected("bad-general-name", f"an alternative name is KIND:value, KIND of {known}")
    return general_name(found, value.strip())


def general_name(kind: GeneralNameKind, value: str) -> GeneralName:
    """A name of this kind. Errors: as ``parse_general_name``."""
    if kind is GeneralNameKind.ip:
        try:
            address = ipaddress.ip_address(value)
        except ValueError as error:
            raise _bad(kind, "is an IPv4 or IPv6 address") from error
        return GeneralName(kind, str(address), der.tlv(_TAGS[kind], address.packed))
    if kind is GeneralNameKind.directory_name:
        name = parse_rfc4514(value)
        return GeneralName(kind, name.rfc4514(), der.tlv(_TAGS[kind], name.der))
    _check(kind, value)
    if kind in _OTHER_NAMES:
        oid, tag = _OTHER_NAMES[kind]
        inside = der.explicit(0, der.tlv(tag, value.encode()))
        encoded = der.tlv(_OTHER_NAME, der.object_identifier(oid) + inside)
    else:
        encoded = der.tlv(_TAGS[kind], value.encode("ascii"))
    return GeneralName(kind, value, encoded)


def encode_general_names(names: Iterable[GeneralName]) -> bytes:
    """GeneralNames in DER, the content of a subjectAltName."""
    return der.sequence(*(name.der for name in names))


def parse_general_names(data: bytes) -> tuple[GeneralName, ...]:
    """Read GeneralNames in DER, at most 32 KiB and 256 names.

    Errors: ``bad-der``, ``bad-general-name``, ``name-too-long``, ``bad-character``, ``bad-name``,
    and ``san-not-allowed`` for forms that this CA never certifies.
    """
    if len(data) > MAXIMUM_SIZE:
        raise Rejected("name-too-long", f"alternative names take at most {MAXIMUM_SIZE} octets")
    outer = der.one(data, der.SEQUENCE)
    names = []
    while outer:
        names.append(_parse(outer))
        if len(names) > MAXIMUM_NAMES:
            raise Rejected("name-too-long", f"at most {MAXIMUM_NAMES} alternative names")
    if not names:
        raise Rejected("bad-general-name", "there are no names in subjectAltName")
    return tuple(names)


def _parse(reader: der.Reader) -> GeneralName:
    begin = reader.position
    tag, start, stop = reader.header()
    content = reader.data[start:stop]
    if tag == _OTHER_NAME:
        kind, value = _parse_other_name(content)
    else:
        found = _KINDS.get(tag)
        if found is None:
            raise Rejected("san-not-allowed", f"a name with tag {tag:#04x} is never certified")
        kind = found
        if kind is GeneralNameKind.ip:
            if len(content) not in (4, 16):
                raise _bad(kind, "takes 4 or 16 octets")
            value = str(ipaddress.ip_address(content))
        elif kind is GeneralNameKind.directory_name:
            value = parse_name(content).rfc4514()
        else:
            try:
                value = content.decode("ascii")
            except UnicodeDecodeError as error:
                raise Rejected("bad-character", f"a {kind} name is ASCII") from error
    _check(kind, value)
    return GeneralName(kind, value, reader.data[begin:stop])


def _parse_other_name(content: bytes) -> tuple[GeneralNameKind, str]:
    inside = der.Reader(content)
    oid = inside.object_identifier()
    known = _OTHER_KINDS.get(oid)
    if known is None:
        raise Rejected("san-not-allowed", f"an otherName of type {oid} is never certified")
    kind, tag = known
    wrapped = inside.enter(0xA0)
    inside.done()
    value = wrapped.content(tag)
    wrapped.done()
    try:
        return kind, value.decode()
    except UnicodeDecodeError as error:
        raise Rejected("bad-character", f"a {kind} name is UTF-8") from error


def _check(kind: GeneralNameKind, value: str) -> None:
    """Refuse a value that is not of the form its kind has."""
    if not value or len(value) > MAXIMUM_VALUE:
        raise Rejected("name-too-long", f"a {kind} name takes 1 to {MAXIMUM_VALUE} characters")
    if kind is GeneralNameKind.dns:
        if len(value) > 253 or not _DNS.fullmatch(value):
            raise _bad(kind, "is a DNS name in A-labels, in the preferred syntax of RFC 1034")
    elif kind is GeneralNameKind.email:
        if len(value) > 254 or value.find("@") > 64:
            raise _bad(kind, "is a mailbox of at most 254 characters (RFC 5321)")
        if not _EMAIL.fullmatch(value):
            raise _bad(kind, "is a mailbox local@domain in ASCII")
    elif kind is GeneralNameKind.uri:
        _check_uri(value)
    elif kind in _OTHER_NAMES:
        check_characters(kind, value, _OTHER_NAMES[kind][1])
        if kind is not GeneralNameKind.srv_name and not _MAILBOX.fullmatch(value):
            raise _bad(kind, "is written name@domain")


def _check_uri(value: str) -> None:
    if not _URI.fullmatch(value):
        raise _bad(GeneralNameKind.uri, "is an absolute URI in ASCII (RFC 3986)")
    if value[:4].lower() == "did:":
        if not _DID.fullmatch(value):
            raise _bad(GeneralNameKind.uri, "is did:method:identifier when it is a DID")
    elif value.split(":", 1)[1].startswith("//"):
        hosted = _HOSTED.match(value)
        if hosted is not None and not _is_host(hosted["host"]):
            raise _bad(GeneralNameKind.uri, "names its host by DNS name or address")


def host_of(name: GeneralName) -> str:
    """The DNS name in a name that is a host, a mailbox at one or a URI with one; empty if there is
    none, as in a URI with an address."""
    value = name.value
    if name.kind is GeneralNameKind.dns:
        return value
    if name.kind is GeneralNameKind.email:
        return value.rpartition("@")[2]
    hosted = _HOSTED.match(value) if name.kind is GeneralNameKind.uri else None
    if hosted is None:
        return ""
    host = hosted["host"].rpartition("@")[2].partition(":")[0]
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return "" if host.startswith("[") else host
    return ""


def _is_host(authority: str) -> bool:
    """Whether an authority holds a DNS name or an IP address (RFC 5280 §4.2.1.6)."""
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        literal, _, port = host[1:].partition("]")
        try:
            ipaddress.IPv6Address(literal)
        except ValueError:
            return False
        return port == "" or (port[0] == ":" and port[1:].isdigit())
    name, _, port = host.partition(":")
    return _DNS.fullmatch(name) is not None and (port == "" or port.isdigit())


def _bad(kind: GeneralNameKind, what: str) -> Rejected:
    return Rejected("bad-general-name", f"a {kind} name {what}")


def encode_subtree_base(kind: GeneralNameKind, value: str) -> bytes:
    """The base of a GeneralSubtree (RFC 5280 §4.2.1.10): a domain, a mailbox or host, the host of
    a URI, a network, a distinguished name. Errors: ``bad-general-name``, those of a name."""
    domain = value.removeprefix(".")
    if kind is GeneralNameKind.ip:
        try:
            network = ipaddress.ip_network(value)
        except ValueError as error:
            raise _bad(kind, f"of a constraint is a network: {error}") from error
        return der.tlv(_TAGS[kind], network.network_address.packed + network.netmask.packed)
    if kind is GeneralNameKind.directory_name:
        return der.tlv(_TAGS[kind], parse_rfc4514(value).der)
    if kind is GeneralNameKind.email and "@" in value:
        return general_name(kind, value).der
    if kind not in _TAGS or domain.startswith("*") or not _DNS.fullmatch(domain):
        raise _bad(kind, "of a constraint is a domain, with a dot before it for what lies below")
    if kind is GeneralNameKind.dns and domain != value:
        raise _bad(kind, "of a constraint has no dot before it")
    return der.tlv(_TAGS[kind], value.encode("ascii"))
