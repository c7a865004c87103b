"""Any M of N rebuild the secret; fewer fit every secret equally well."""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pki.ceremony.shamir import combine, multiply, split

quorums = st.integers(1, 8).flatmap(
    lambda threshold: st.tuples(st.just(threshold), st.integers(threshold, 12))
)


@given(quorums, st.binary(min_size=1, max_size=40), st.data())
@settings(max_examples=150, deadline=None)
def test_any_m_rebuild_and_fewer_fit_every_secret(
    quorum: tuple[int, int], secret: bytes, data: st.DataObject
) -> None:
    threshold, count = quorum
    places = data.draw(st.permutations(range(1, 256)))[:count]
    size = (threshold - 1) * len(secret)
    random = data.draw(st.binary(min_size=size, max_size=size))
    shares = dict(zip(places, split(secret, threshold, places, random), strict=True))
    chosen = data.draw(st.permutations(places))[:threshold]
    assert combine({place: shares[place] for place in chosen}) == secret
    # Whatever secret one guesses, one share less goes with it: there are coefficients for it.
    if threshold > 1:
        known = {place: shares[place] for place in chosen[:-1]}
        guess = data.draw(st.binary(min_size=len(secret), max_size=len(secret)))
        forged = _value_at(chosen[-1], known, guess)
        assert combine({**known, chosen[-1]: forged}) == guess


def _value_at(place: int, known: dict[int, bytearray], guess: bytes) -> bytes:
    """The share that makes ``known`` rebuild ``guess``: found by trying, not by algebra."""
    value = bytearray(len(guess))
    zero = combine({**known, place: bytes(len(guess))})
    one = combine({**known, place: b"\x01" * len(guess)})
    for index, wanted in enumerate(guess):
        weight = zero[index] ^ one[index]
        value[index] = next(v for v in range(256) if multiply(weight, v) ^ zero[index] == wanted)
    return bytes(value)


def test_shares_are_spread_evenly_whatever_the_secret() -> None:
    # Chi-square over 256 values, 255 degrees of freedom: beyond 380 in one of a million runs.
    for secret in (bytes(1024), b"\xff" * 1024):
        counts: Counter[int] = Counter()
        for _ in range(20):
            for share in split(secret, 2, (1, 2), os.urandom(1024)):
                counts.update(share)
        expected = sum(counts.values()) / 256
        chi_square = sum((counts[v] - expected) ** 2 / expected for v in range(256))
        assert chi_square < 380
