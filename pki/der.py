"""Distinguished Encoding Rules (X.690), as much as PKIX needs: encoders, and a strict reader.

The encoders return bytes; the reader hands out slices of what it was given and copies only what
is asked for. It refuses indefinite lengths, lengths that are longer than need be and data that is
cut short, so whatever it accepts encodes back to the same bytes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias

from infra.errors import Rejected

Tag: TypeAlias = int

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
SEQUENCE: Final = 0x30
SET: Final = 0x31
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18

TRUE: Final = b"\x01\x01\xff"
NULL_VALUE: Final = b"\x05\x00"


def tlv(tag: Tag, content: bytes) -> bytes:
    """One value: identifier octet, length, content (X.690 §8.1)."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of values that are encoded already."""
    return tlv(SEQUENCE, b"".join(parts))


def set_of(*parts: bytes) -> bytes:
    """SET OF, its elements in ascending order (X.690 §11.6)."""
    return tlv(SET, b"".join(sorted(parts)))


def integer(value: int) -> bytes:
    """INTEGER in the fewest octets (X.690 §8.3)."""
    # value.bit_length() + 1 leaves room for the sign; ~value makes -128 take one octet.
    bits = (value if value >= 0 else ~value).bit_length() + 1
    return tlv(INTEGER, value.to_bytes((bits + 7) // 8, "big", signed=True))


def enumerated(value: int) -> bytes:
    """ENUMERATED of 0 to 127."""
    return bytes((ENUMERATED, 1, value))


def boolean(value: bool) -> bytes:
    """BOOLEAN; true is 0xFF (X.690 §11.1)."""
    return TRUE if value else b"\x01\x01\x00"


@lru_cache(maxsize=4096)
def object_identifier(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted form (X.690 §8.19)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        out += bytes(reversed(septets))
    return tlv(OBJECT_IDENTIFIER, bytes(out))


def octet_string(content: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, content)


def bit_string(content: bytes, unused: int = 0) -> bytes:
    """BIT STRING of whole octets, the last of them with ``unused`` bits that do not count."""
    return tlv(BIT_STRING, bytes((unused,)) + content)


def named_bits(positions: set[int] | frozenset[int]) -> bytes:
    """BIT STRING with a named bit list: trailing zero bits are dropped (X.690 §11.2.2)."""
    if not positions:
        return bit_string(b"")
    size = max(positions) + 1
    octets = bytearray((size + 7) // 8)
    for position in positions:
        octets[position // 8] |= 0x80 >> (position % 8)
    return bit_string(bytes(octets), -size % 8)


def utf8_string(text: str) -> bytes:
    """UTF8String."""
    return tlv(UTF8_STRING, text.encode())


def printable_string(text: str) -> bytes:
    """PrintableString; the caller has checked the characters."""
    return tlv(PRINTABLE_STRING, text.encode("ascii"))


def ia5_string(text: str) -> bytes:
    """IA5String; the caller has checked the characters."""
    return tlv(IA5_STRING, text.encode("ascii"))


def explicit(number: int, content: bytes) -> bytes:
    """[number] EXPLICIT: constructed, around a value that is encoded already."""
    return tlv(0xA0 | number, content)


def implicit(number: int, content: bytes) -> bytes:
    """[number] IMPLICIT of a primitive type: its content octets under a tag of its own."""
    return tlv(0x80 | number, content)


def time(at: datetime) -> bytes:
    """Time of a certificate or CRL: UTCTime to 2049, GeneralizedTime after (RFC 5280 §4.1.2.5);
    ``at`` has its zone."""
    at = at.astimezone(UTC)
    if 1950 <= at.year < 2050:
        return tlv(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").encode())
    return generalized_time(at)


def generalized_time(at: datetime) -> bytes:
    """GeneralizedTime in UTC without fractions (RFC 5280 §4.1.2.5.2); ``at`` has its zone."""
    at = at.astimezone(UTC)
    # strftime does not fill a year up to the four digits that it takes (X.680 §46).
    return tlv(GENERALIZED_TIME, f"{at.year:04d}{at:%m%d%H%M%S}Z".encode())


class Reader:
    """Reads values one after the other from ``data[start:end]``.

    Every method raises ``Rejected("bad-der")`` when what is there is not what was asked for.
    """

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = start
        self.end = len(data) if end is None else end

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self.position < self.end

    def peek(self) -> Tag:
        """The next identifier octet, or -1 at the end."""
        return self.data[self.position] if self.position < self.end else -1

    def header(self) -> tuple[Tag, int, int]:
        """Step over the next value: its tag and where its content starts and ends."""
        data, position, end = self.data, self.position, self.end
        if position + 2 > end:
            raise _bad("a value is cut short")
        tag = data[position]
        if tag & 0x1F == 0x1F:
            raise _bad("a tag number is above 30")
        length = data[position + 1]
        start = position + 2
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or start + size > end:
                raise _bad("a length is indefinite, too long or cut short")
            length = int.from_bytes(data[start : start + size], "big")
            if length < 0x80 or length >> (8 * (size - 1)) == 0:
                raise _bad("a length takes more octets than it needs")
            start += size
        stop = start + length
        if stop > end:
            raise _bad("a value is longer than what holds it")
        self.position = stop
        return tag, start, stop

    def enter(self, tag: Tag) -> Reader:
        """A reader of the content of the next value, which must have this tag."""
        found, start, stop = self.header()
        if found != tag:
            raise _bad(f"tag {tag:#04x} was expected, {found:#04x} found")
        return Reader(self.data, start, stop)

    def content(self, tag: Tag) -> bytes:
        """The content octets of the next value, which must have this tag."""
        found, start, stop = self.header()
        if found != tag:
            raise _bad(f"tag {tag:#04x} was expected, {found:#04x} found")
        return self.data[start:stop]

    def raw(self, tag: Tag | None = None) -> bytes:
        """The next value whole, with its identifier and length octets."""
        begin = self.position
        found, _, stop = self.header()
        if tag is not None and found != tag:
            raise _bad(f"tag {tag:#04x} was expected, {found:#04x} found")
        return self.data[begin:stop]

    def rest(self) -> bytes:
        """Whatever is left, and step to the end."""
        begin, self.position = self.position, self.end
        return self.data[begin : self.end]

    def integer(self, tag: Tag = INTEGER) -> int:
        """INTEGER (or ENUMERATED, by its tag) in the fewest octets."""
        content = self.content(tag)
        if not content or (
            len(content) > 1 and content[0] in (0, 0xFF) and (content[0] ^ content[1]) < 0x80
        ):
            raise _bad("an integer is empty or takes more octets than it needs")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self) -> bool:
        """BOOLEAN, 0x00 or 0xFF."""
        content = self.content(BOOLEAN)
        if content not in (b"\x00", b"\xff"):
            raise _bad("a boolean is neither 00 nor FF")
        return content == b"\xff"

    def object_identifier(self) -> str:
        """OBJECT IDENTIFIER in its dotted form."""
        return _dotted(self.content(OBJECT_IDENTIFIER))

    def bit_string(self) -> tuple[bytes, int]:
        """BIT STRING: its octets, and how many bits of the last do not count."""
        content = self.content(BIT_STRING)
        if not content or content[0] > 7 or (len(content) == 1 and content[0]):
            raise _bad("a bit string has a wrong count of unused bits")
        if content[0] and content[-1] & ((1 << content[0]) - 1):
            raise _bad("the unused bits of a bit string are not zero")
        return content[1:], content[0]

    def named_bits(self) -> frozenset[int]:
        """BIT STRING with a named bit list, no zero bits at its end (X.690 §11.2.2): the positions
        that are set."""
        octets, unused = self.bit_string()
        if octets and not octets[-1] >> unused & 1:
            raise _bad("a named bit list ends in a zero bit")
        return frozenset(
            8 * place + bit
            for place, octet in enumerate(octets)
            for bit in range(8)
            if octet & (0x80 >> bit)
        )

    def time(self) -> datetime:
        """UTCTime or GeneralizedTime as RFC 5280 §4.1.2.5 writes them."""
        tag, start, stop = self.header()
        text = self.data[start:stop]
        return _time(tag, text)

    def done(self) -> None:
        """Refuse anything that is left."""
        if self.position < self.end:
            raise _bad("there are octets after the end of a value")


def one(data: bytes, tag: Tag) -> Reader:
    """A reader of the content of the one value that ``data`` is; nothing may follow it."""
    reader = Reader(data)
    inside = reader.enter(tag)
    reader.done()
    return inside


def _time(tag: Tag, text: bytes) -> datetime:
    size = {UTC_TIME: 13, GENERALIZED_TIME: 15}.get(tag)
    if size is None or len(text) != size or text[-1:] != b"Z" or not text[:-1].isdigit():
        raise _bad("a time is not written as RFC 5280 wants it")
    digits = text[:-1].decode()
    if tag == UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    try:
        return datetime(
            int(digits[0:4]), int(digits[4:6]), int(digits[6:8]),
            int(digits[8:10]), int(digits[10:12]), int(digits[12:14]), tzinfo=UTC,
        )  # fmt: skip
    except ValueError as error:
        raise _bad("a time does not exist in the calendar") from error


@lru_cache(maxsize=4096)
def _dotted(content: bytes) -> str:
    if not content or content[-1] & 0x80 or len(content) > 64:
        raise _bad("an object identifier is empty, cut short or too long")
    arcs: list[int] = []
    value = 0
    fresh = True
    for octet in content:
        if fresh and octet == 0x80:
            raise _bad("an object identifier has a padded arc")
        value = value << 7 | octet & 0x7F
        fresh = not octet & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def _bad(why: str) -> Rejected:
    return Rejected("bad-der", why)
