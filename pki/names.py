"""Distinguished names: DER, and text as people write it (RFC 5280 §4.1.2.4, X.520, RFC 4514)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from infra.errors import Rejected
from pki import der, oids

MAXIMUM_SIZE: Final = 8192  # octets; a Name with every attribute below at usual lengths takes 2 KiB
MAXIMUM_ATTRIBUTES: Final = 64


@dataclass(frozen=True, slots=True)
class AttributeType:
    """What X.520 and RFC 5280 appendix A.1 say of an attribute.

    ``short``: as RFC 4514 and people write it; ``maximum``: characters at most; ``tag``: the
    string type that this CA writes; ``tags``: those that a certificate may hold.
    """

    oid: str
    short: str
    maximum: int
    tag: der.Tag
    tags: frozenset[der.Tag]


def _directory(oid: str, short: str, maximum: int) -> AttributeType:
    """A DirectoryString, of which RFC 5280 §4.1.2.4 leaves two forms."""
    allowed = frozenset({der.UTF8_STRING, der.PRINTABLE_STRING})
    return AttributeType(oid, short, maximum, der.UTF8_STRING, allowed)


def _only(oid: str, short: str, maximum: int, tag: der.Tag) -> AttributeType:
    return AttributeType(oid, short, maximum, tag, frozenset({tag}))


_UB_NAME: Final = 32768
ATTRIBUTE_TYPES: Final = {
    attribute.oid: attribute
    for attribute in (
        _only(oids.COUNTRY_NAME, "C", 2, der.PRINTABLE_STRING),
        _directory(oids.STATE_OR_PROVINCE_NAME, "ST", 128),
        _directory(oids.LOCALITY_NAME, "L", 128),
        _directory(oids.STREET_ADDRESS, "STREET", 128),
        _directory(oids.POSTAL_CODE, "postalCode", 40),
        _directory(oids.ORGANIZATION_NAME, "O", 64),
        _directory(oids.ORGANIZATIONAL_UNIT_NAME, "OU", 64),
        _directory(oids.ORGANIZATION_IDENTIFIER, "organizationIdentifier", 256),
        _directory(oids.BUSINESS_CATEGORY, "businessCategory", 128),
        _directory(oids.TITLE, "title", 64),
        _directory(oids.COMMON_NAME, "CN", 64),
        _directory(oids.GIVEN_NAME, "givenName", _UB_NAME),
        _directory(oids.SURNAME, "surname", _UB_NAME),
        _directory(oids.INITIALS, "initials", _UB_NAME),
        _directory(oids.GENERATION_QUALIFIER, "generationQualifier", _UB_NAME),
        _directory(oids.PSEUDONYM, "pseudonym", 128),
        _only(oids.SERIAL_NUMBER, "serialNumber", 64, der.PRINTABLE_STRING),
        _only(oids.DN_QUALIFIER, "dnQualifier", 64, der.PRINTABLE_STRING),
        _directory(oids.USER_ID, "UID", 256),
        _only(oids.DOMAIN_COMPONENT, "DC", 63, der.IA5_STRING),
        _only(oids.EMAIL_ADDRESS, "emailAddress", 255, der.IA5_STRING),
    )
}
BY_SHORT_NAME: Final = {kind.short.lower(): kind for kind in ATTRIBUTE_TYPES.values()} | {
    "sn": ATTRIBUTE_TYPES[oids.SURNAME],
    "gn": ATTRIBUTE_TYPES[oids.GIVEN_NAME],
    "e": ATTRIBUTE_TYPES[oids.EMAIL_ADDRESS],
}

_TELETEX_STRING: Final = 0x14
_ENCODINGS: Final = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    0x12: "ascii",  # NumericString
    0x1A: "ascii",  # VisibleString
    0x1E: "utf-16-be",  # BMPString
    0x1C: "utf-32-be",  # UniversalString
    _TELETEX_STRING: "latin-1",  # T.61 in name, Latin-1 in what was made with it
}
PRINTABLE: Final = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*")
# Control characters, line and paragraph separators, marks that turn the direction of the text or
# cannot be seen, code points that are no characters.
_BAD_CHARACTERS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\ufff9-\uffff]"
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its type in dotted form, its value, and the tag of its string type."""

    type: str
    value: str
    tag: der.Tag = der.UTF8_STRING

    @property
    def short(self) -> str:
        """Its type as people write it."""
        kind = ATTRIBUTE_TYPES.get(self.type)
        return self.type if kind is None else kind.short


@dataclass(frozen=True, slots=True)
class Name:
    """A distinguished name, from the root of the tree down: ``der`` and what it says."""

    der: bytes
    rdns: tuple[tuple[Attribute, ...], ...]

    def __str__(self) -> str:
        return self.rfc4514()

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """All attributes in their order."""
        return tuple(attribute for rdn in self.rdns for attribute in rdn)

    def first(self, oid: str) -> str | None:
        """The value of the first attribute of this type."""
        for rdn in self.rdns:
            for attribute in rdn:
                if attribute.type == oid:
                    return attribute.value
        return None

    def rfc4514(self) -> str:
        """The name as text, its last RDN first (RFC 4514 §2)."""
        return ",".join("+".join(map(_text, rdn)) for rdn in reversed(self.rdns))


def attribute(short: str, value: str) -> Attribute:
    """An attribute by its short or dotted type, in the string type that this CA writes.

    Errors: ``bad-name``, ``name-too-long``, ``bad-character``.
    """
    kind = BY_SHORT_NAME.get(short.lower()) or ATTRIBUTE_TYPES.get(short)
    if kind is None:
        raise Rejected("bad-name", f"{short[:40]!r} is no attribute type that this CA knows")
    if not value:
        raise Rejected("bad-name", f"{kind.short} is empty")
    if len(value) > kind.maximum:
        raise Rejected(
            "name-too-long", f"{kind.short} takes at most {kind.maximum} characters (X.520)"
        )
    check_characters(kind.short, value, kind.tag)
    return Attribute(kind.oid, value, kind.tag)


def check_characters(short: str, value: str, tag: der.Tag) -> None:
    """Refuse what the string type cannot hold and what no name should. Errors:
    ``bad-character``."""
    if tag == der.PRINTABLE_STRING:
        if not PRINTABLE.fullmatch(value):
            raise Rejected(
                "bad-character",
                f"{short} is a PrintableString: letters, digits, space and '()+,-./:=? only",
            )
    elif _BAD_CHARACTERS.search(value) or (tag == der.IA5_STRING and not value.isascii()):
        raise Rejected("bad-character", f"{short} holds a character that is not allowed there")


@lru_cache(maxsize=1024)
def parse_name(data: bytes) -> Name:
    """Read a Name in DER, at most 8 KiB and 64 attributes; any DirectoryString form is read.

    Errors: ``bad-der``, ``bad-name``, ``name-too-long``, ``bad-character``.
    """
    if len(data) > MAXIMUM_SIZE:
        raise Rejected("name-too-long", f"a name takes at most {MAXIMUM_SIZE} octets")
    outer = der.one(data, der.SEQUENCE)
    rdns: list[tuple[Attribute, ...]] = []
    count = 0
    while outer:
        rdn = _read_rdn(outer.enter(der.SET))
        rdns.append(rdn)
        count += len(rdn)
        if count > MAXIMUM_ATTRIBUTES:
            raise Rejected("name-too-long", f"a name takes at most {MAXIMUM_ATTRIBUTES} attributes")
    return Name(data, tuple(rdns))


def _read_rdn(reader: der.Reader) -> tuple[Attribute, ...]:
    begin = reader.position
    attributes = [_read_attribute(reader)]
    if not reader:
        return (attributes[0],)
    encoded = [reader.data[begin : reader.position]]
    while reader:
        begin = reader.position
        attributes.append(_read_attribute(reader))
        encoded.append(reader.data[begin : reader.position])
    if any(one >= two for one, two in pairwise(encoded)):  # X.690 §11.6
        raise Rejected("bad-der", "the attributes of an RDN are not in order")
    return tuple(attributes)


def _read_attribute(rdn: der.Reader) -> Attribute:
    pair = rdn.enter(der.SEQUENCE)
    oid = pair.object_identifier()
    tag, start, stop = pair.header()
    pair.done()
    encoding = _ENCODINGS.get(tag)
    if encoding is None:
        raise Rejected("bad-name", f"attribute {oid} is no string")
    if start == stop:
        raise Rejected("bad-name", f"attribute {oid} is empty")
    try:
        value = pair.data[start:stop].decode(encoding)
    except UnicodeDecodeError as error:
        raise Rejected("bad-character", f"attribute {oid} is not written in {encoding}") from error
    if tag == der.PRINTABLE_STRING:
        bad = not PRINTABLE.fullmatch(value)
    else:
        bad = _BAD_CHARACTERS.search(value) is not None
    if bad:
        raise Rejected("bad-character", f"attribute {oid} holds a character that is not allowed")
    return Attribute(oid, value, tag)


def _encode_attribute(type: str, value: str, tag: der.Tag) -> bytes:
    try:
        content = value.encode(_ENCODINGS[tag])
    except UnicodeEncodeError as error:
        raise Rejected("bad-character", f"attribute {type} cannot hold its value") from error
    return der.sequence(der.object_identifier(type), der.tlv(tag, content))


def encode_rdns(rdns: Iterable[Sequence[Attribute]]) -> Name:
    """A Name of these RDNs, from the root of the tree down."""
    sorted_rdns = []
    encoded = []
    for rdn in rdns:
        pairs = sorted((_encode_attribute(a.type, a.value, a.tag), a) for a in rdn)
        encoded.append(der.tlv(der.SET, b"".join(pair for pair, _ in pairs)))
        sorted_rdns.append(tuple(a for _, a in pairs))
    return Name(der.tlv(der.SEQUENCE, b"".join(encoded)), tuple(sorted_rdns))


def encode_name(attributes: Iterable[Attribute]) -> Name:
    """A Name with one attribute an RDN, from the root of the tree down."""
    return encode_rdns((attribute,) for attribute in attributes)


EMPTY_NAME: Final = Name(b"\x30\x00", ())

_SPECIAL: Final = frozenset('"+,;<>\\')
_PAIR: Final = re.compile(r"\\(?:([ \"#+,;<=>\\])|([0-9a-fA-F]{2}))")
_TYPE: Final = re.compile(r" *([A-Za-z][A-Za-z0-9-]*|[0-2](?:\.(?:0|[1-9][0-9]*))+) *= *")


def _text(attribute: Attribute) -> str:
    kind = ATTRIBUTE_TYPES.get(attribute.type)
    if kind is None:
        value = der.tlv(attribute.tag, attribute.value.encode(_ENCODINGS[attribute.tag]))
        return f"{attribute.type}=#{value.hex()}"  # RFC 4514 §2.4: a type without a short name
    text = "".join("\\" + c if c in _SPECIAL else c for c in attribute.value)
    if text[0] in " #":
        text = "\\" + text
    if text[-1] == " " and len(attribute.value) > 1:
        text = text[:-1] + "\\ "
    return f"{kind.short}={text}"


def parse_rfc4514(text: str) -> Name:
    """A name from text, ``CN=Alice Example,O=Registry,C=AQ``.

    Text that starts with the country and does not end with it is read the other way round, from
    the root of the tree down, as operators and openssl write it: ``C=AQ,O=Registry,CN=Alice
    Example``. Values get the string types that this CA writes. Errors: ``bad-name``,
    ``name-too-long``, ``bad-character``.
    """
    if len(text) > MAXIMUM_SIZE:
        raise Rejected("name-too-long", f"a name takes at most {MAXIMUM_SIZE} characters")
    rdns: list[list[Attribute]] = [[]]
    position, end = 0, len(text)
    if not text.strip(" "):
        return EMPTY_NAME
    while True:
        match = _TYPE.match(text, position)
        if match is None:
            raise Rejected("bad-name", "a name is written TYPE=value,TYPE=value")
        value, position = _read_value(text, match.end())
        if value.startswith("#") and text[match.end()] == "#":
            rdns[-1].append(_from_hex(match[1], value[1:]))
        else:
            rdns[-1].append(attribute(match[1], value))
        if sum(map(len, rdns)) > MAXIMUM_ATTRIBUTES:
            raise Rejected("name-too-long", f"a name takes at most {MAXIMUM_ATTRIBUTES} attributes")
        if position == end:
            break
        if text[position] == ",":
            rdns.append([])
        position += 1
    root_first = _is_country(rdns[0]) and not _is_country(rdns[-1])
    return encode_rdns(rdns if root_first else reversed(rdns))


def _is_country(rdn: Sequence[Attribute]) -> bool:
    return any(attribute.type == oids.COUNTRY_NAME for attribute in rdn)


def _read_value(text: str, position: int) -> tuple[str, int]:
    """The value that starts at ``position``, without its escapes, and where it ends."""
    out = bytearray()
    solid = 0  # as far as spaces at the end were escaped
    while position < len(text) and text[position] not in ",+":
        character = text[position]
        if character == "\\":
            pair = _PAIR.match(text, position)
            if pair is None:
                raise Rejected("bad-name", "a backslash stands before nothing that it can escape")
            out += pair[1].encode() if pair[1] else bytes.fromhex(pair[2])
            position = pair.end()
            solid = len(out)
            continue
        if character in '";<>':
            raise Rejected("bad-name", f"{character!r} needs a backslash before it")
        try:
            out += character.encode()
        except UnicodeEncodeError as error:
            raise Rejected("bad-character", "the name holds half a character") from error
        if character != " ":
            solid = len(out)
        position += 1
    try:
        return bytes(out[:solid]).decode(), position
    except UnicodeDecodeError as error:
        raise Rejected("bad-character", "escaped octets are not UTF-8") from error


def _from_hex(type: str, digits: str) -> Attribute:
    kind = BY_SHORT_NAME.get(type.lower())
    try:
        reader = der.Reader(bytes.fromhex(digits))
        oid = der.object_identifier(kind.oid if kind else type)
        found = _read_attribute(der.Reader(der.sequence(oid, reader.raw(), reader.rest())))
    except (ValueError, OverflowError) as error:
        raise Rejected("bad-name", "a value after # is hexadecimal, its type is known") from error
    if found.type != (kind.oid if kind else type):
        raise Rejected("bad-name", f"{type[:40]} is no object identifier")
    return found
