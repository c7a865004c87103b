"""Serial numbers (RFC 5280 §4.1.2.2)."""

from __future__ import annotations

import re
from typing import Final, NewType

from infra.errors import Broken, Rejected

SerialNumber = NewType("SerialNumber", int)

LIMIT: Final = 1 << 159
"""Serial numbers are below this: positive and at most 20 octets in DER."""

_HEX: Final = re.compile(r"[0-9a-fA-F]{1,40}")


def new_serial(random: bytes) -> SerialNumber:
    """A serial number that holds all bits of ``random``.

    ``random``: 8 to 19 octets from a CSPRNG. A 1 goes before them, so the number is positive, has
    no leading zeros and always takes one octet more than ``random``. Errors: ``Broken`` when
    there are fewer octets or more.
    """
    if not 8 <= len(random) <= 19:
        raise Broken("serial-octets", "a serial number is made of 8 to 19 random octets")
    return SerialNumber(1 << 8 * len(random) | int.from_bytes(random, "big"))


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
