"""Sharing over GF(256), against SLIP-39's independent implementation (shamir-mnemonic 0.3.0)."""

from __future__ import annotations

import hashlib

import pytest

from infra.errors import Broken
from pki.ceremony.shamir import combine, invert, multiply, split


def test_multiplication_is_that_of_aes() -> None:
    assert multiply(0x57, 0x83) == 0xC1  # FIPS 197 §4.2
    table = bytes(multiply(a, b) for a in range(256) for b in range(256))
    expected = "14a1e7e77ca8a30b5bb53e6310748ce0498eb9e04ab78a44dbefb6ebfac8a84b"
    assert hashlib.sha256(table).hexdigest() == expected  # from its logarithms


def test_each_element_but_zero_has_its_inverse() -> None:
    assert all(multiply(element, invert(element)) == 1 for element in range(1, 256))


def test_interpolation_as_the_independent_implementation_does_it() -> None:
    shares = {
        1: bytes(range(16)),
        7: bytes.fromhex("ca978112ca1bbdcafac231b39a23dc4d"),
        200: bytes.fromhex("3e23e8160039594a33894f6564e1b134"),
    }
    assert combine(shares).hex() == "f7aac1ddcae5cbb761e6cc36a36874d9"
    # Its values at 2 and 255 lie on the same polynomial.
    others = {
        2: bytes.fromhex("45fc55328343470650c0684690b7c2e1"),
        255: bytes.fromhex("1655581d77a89ec286507535d7aefd13"),
    }
    assert combine({**others, 7: shares[7]}) == combine(shares)
    assert combine({**others, 1: shares[1]}) == combine(shares)


def test_a_split_by_hand() -> None:
    # f(x) = 0x42 + 0x01·x: at 1 it is 0x43, at 2 it is 0x40, at 3 it is 0x41.
    assert split(b"\x42", 2, (1, 2, 3), b"\x01") == [b"\x43", b"\x40", b"\x41"]


@pytest.mark.parametrize(
    "threshold, places, random",
    [
        (0, (1, 2), b""),
        (3, (1, 2), bytes(2)),
        (2, (0, 1), bytes(1)),
        (2, (1, 1), bytes(1)),
        (2, (1, 256), bytes(1)),
        (2, (1, 2), b""),
        (2, (1, 2), bytes(2)),
    ],
)
def test_a_sharing_that_makes_no_sense_is_refused(
    threshold: int, places: tuple[int, ...], random: bytes
) -> None:
    with pytest.raises(Broken):
        split(b"s", threshold, places, random)


def test_shares_that_do_not_fit_together_are_refused() -> None:
    for shares in ({}, {0: b"a"}, {1: b"a", 2: b"bc"}):
        with pytest.raises(Broken):
            combine(shares)
