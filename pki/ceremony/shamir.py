"""Secret sharing over GF(256) (A. Shamir, "How to share a secret", 1979).

Each octet of the secret is the value at 0 of a polynomial of degree ``threshold`` - 1 with random
coefficients; a share is the value of all of them at one place. Fewer shares than the threshold are
consistent with every secret, equally. Multiplication takes neither branches nor tables that depend
on secrets: an observer of caches and branches learns nothing (as far as Python's own integers go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from infra.errors import Broken

MAXIMUM: Final = 255
"""Shares of one secret: the places other than 0."""


def split(secret: bytes, threshold: int, places: Sequence[int], random: bytes) -> list[bytearray]:
    """The shares of ``secret`` at ``places``, in their order.

    ``threshold``: how many rebuild it, from 1; ``places``: distinct, 1 to 255; ``random``:
    (``threshold`` - 1) × len(``secret``) octets from a CSPRNG, used for nothing else.
    """
    if not 1 <= threshold <= len(places) or not _distinct(places):
        raise Broken("bad-sharing", "the places are 1 to 255, distinct, and enough")
    size = len(secret)
    if len(random) != (threshold - 1) * size:
        raise Broken("bad-sharing", "each coefficient takes as many random octets as the secret")
    coefficients = [secret, *(random[at : at + size] for at in range(0, len(random), size or 1))]
    shares = []
    for place in places:
        share = bytearray(size)
        for coefficient in reversed(coefficients):  # Horner's rule
            for index in range(size):
                share[index] = multiply(share[index], place) ^ coefficient[index]
        shares.append(share)
    return shares


def combine(shares: Mapping[int, bytes | bytearray]) -> bytearray:
    """The secret of as many shares as the threshold, by their places: Lagrange's polynomial at 0.

    With fewer shares, or one of another sharing, the result is some other octets: whoever calls
    this checks each share before and the secret afterwards.
    """
    places = tuple(shares)
    sizes = {len(share) for share in shares.values()}
    if not shares or not _distinct(places) or len(sizes) != 1:
        raise Broken("bad-sharing", "shares are of one size, at places of 1 to 255")
    secret = bytearray(sizes.pop())
    for place, share in shares.items():
        weight = 1
        for other in places:
            if other != place:
                weight = multiply(weight, multiply(other, invert(other ^ place)))
        for index, octet in enumerate(share):
            secret[index] ^= multiply(weight, octet)
    return secret


def multiply(left: int, right: int) -> int:
    """The product in GF(2)[x] / (x⁸ + x⁴ + x³ + x + 1), the field of AES (FIPS 197 §4.2)."""
    product = 0
    for _ in range(8):
        product ^= -(right & 1) & left
        right >>= 1
        left = (left << 1) ^ (-(left >> 7) & 0x11B)
    return product


def invert(element: int) -> int:
    """The inverse of an element other than 0: its 254th power, since 255 is the group's order."""
    power, result = element, 1
    for _ in range(7):  # 254 = 2 + 4 + … + 128
        power = multiply(power, power)
        result = multiply(result, power)
    return result


def _distinct(places: Sequence[int]) -> bool:
    return len(set(places)) == len(places) and all(1 <= place <= MAXIMUM for place in places)
