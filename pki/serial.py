"""Serial numbers (RFC 5280 §4.1.2.2)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NewType

from infra.errors import Broken, Rejected

SerialNumber = NewType("SerialNumber", int)

LIMIT: Final = 1 << 159
"""Serial numbers are below this: positive and at most 20 octets in DER."""

RANDOM_OCTETS: Final = 10

_HEX: Final = re.compile(r"[0-9a-fA-F]{1,40}")


def new_serial(at: datetime, random: bytes) -> SerialNumber:
    """A serial number of 16 octets: the time in milliseconds, then ``random``.

    ``random``: 10 octets from a CSPRNG, 80 bits where 64 are asked for. The time before them
    says nothing that notBefore does not, and keeps what is issued together together on disk.
    Errors: ``Broken`` when there are fewer octets or more.
    """
    if len(random) != RANDOM_OCTETS:
        raise Broken("serial-octets", f"a serial number takes {RANDOM_OCTETS} random octets")
    # 48 bits of milliseconds (to the year 10889), their first octet 1 from 2004 to 2039.
    milliseconds = int(at.timestamp() * 1000)
    return SerialNumber(milliseconds << 8 * RANDOM_OCTETS | int.from_bytes(random, "big"))


def parse_serial(text: str) -> SerialNumber:
    """A serial number from 1 to 40 hexadecimal digits, with ``0x`` or colons if one likes.

    Errors: ``bad-serial``.
    """
    digits = text[:80].strip().removeprefix("0x").removeprefix("0X").replace(":", "")
    if len(text) > 80 or not _HEX.fullmatch(digits):
        raise Rejected("bad-serial", "a serial number is 1 to 40 hexadecimal digits")
    number = int(digits, 16)
    if not 0 < number < LIMIT:
        raise Rejected("bad-serial", "a serial number is positive and takes at most 20 octets")
    return SerialNumber(number)


def format_serial(serial: int) -> str:
    """Lower-case hexadecimal digits, two for each octet."""
    digits = f"{serial:x}"
    return "0" + digits if len(digits) % 2 else digits
