"""Merkle trees against the definition of RFC 6962 §2.1, and acts as leaves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from pki.log.act import Act, encode, parse
from pki.log.merkle import (
    Frontier,
    Span,
    consistency_spans,
    decompose,
    fold,
    inclusion_spans,
    leaf_hash,
    peaks,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from pki.log.tiles import WIDTH, Tail, place
from tests.contract.log_fixtures import naive_root

HASHES = [leaf_hash(b"%d" % number) for number in range(1_200)]
SIZES = st.integers(1, 300)


def path(index: int, size: int) -> list[bytes]:
    return [naive_root(HASHES[s.start : s.end]) for s in inclusion_spans(index, size)]


def proof(old: int, new: int) -> list[bytes]:
    return [naive_root(HASHES[s.start : s.end]) for s in consistency_spans(old, new)]


@given(st.integers(0, 300))
def test_every_way_to_a_root_agrees(size: int) -> None:
    root = naive_root(HASHES[:size])
    frontier = Frontier()
    for hash_ in HASHES[:size]:
        frontier.append(hash_)
    assert root == root_of(HASHES[:size]) == frontier.root() == fold(peaks(HASHES[:size]))
    assert list(frontier.peaks) == peaks(HASHES[:size])


@given(SIZES, st.data())
def test_inclusion(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root = naive_root(HASHES[:size])
    verify_inclusion(HASHES[index], index, size, path(index, size), root)
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index) | st.just(size))
    with pytest.raises(Rejected):
        verify_inclusion(HASHES[index], other, size, path(index, size), root)


@given(SIZES, SIZES)
def test_consistency(one: int, two: int) -> None:
    old, new = sorted((one, two))
    old_root, new_root = naive_root(HASHES[:old]), naive_root(HASHES[:new])
    verify_consistency(old, old_root, new, new_root, proof(old, new))
    forged = naive_root([*HASHES[: old - 1], HASHES[-1]])
    with pytest.raises(Rejected):
        verify_consistency(old, forged, new, new_root, proof(old, new))


@given(SIZES, st.data())
def test_a_proof_with_one_bit_flipped_does_not_hold(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes = [HASHES[index], *path(index, size)]
    at = data.draw(st.integers(0, len(hashes) - 1))
    bit = data.draw(st.integers(0, 255))
    hashes[at] = (int.from_bytes(hashes[at], "big") ^ 1 << bit).to_bytes(32, "big")
    with pytest.raises(Rejected):
        verify_inclusion(hashes[0], index, size, hashes[1:], naive_root(HASHES[:size]))


@given(st.integers(1, 1_200), st.data())
def test_spans_of_proofs_are_found_in_tiles(size: int, data: st.DataObject) -> None:
    """Whatever a proof asks for is made of stored tile entries, full or partial."""
    tail, full = Tail().grow(HASHES[:size])
    tiles = {tile.id: tile.hashes for tile in full}
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    for span in (*inclusion_spans(index, size), *consistency_spans(old, size), Span(0, size)):
        roots = []
        for node in decompose(span):
            where = place(node)
            entries = tail.partial(where.tile) or tiles[where.tile]
            assert where.end <= len(entries) <= WIDTH
            roots.append(root_of(entries[where.start : where.end]))
        assert fold(roots) == naive_root(HASHES[span.start : span.end])


@given(st.lists(st.integers(0, 400), max_size=6))
def test_a_tail_grows_alike_in_any_steps(steps: list[int]) -> None:
    tail, at, full = Tail(), 0, []
    for step in steps:
        step = min(step, len(HASHES) - at)
        tail, filled = tail.grow(HASHES[at : at + step])
        full += filled
        at += step
    once, filled_at_once = Tail().grow(HASHES[:at])
    assert (tail.levels, full) == (once.levels, filled_at_once)
    assert tail.root() == naive_root(HASHES[:at])


ACTS = st.builds(
    Act,
    id=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64),
    what=st.from_regex(r"[a-z]{1,10}\.[a-z]{1,10}", fullmatch=True),
    who=st.from_regex(r"(operator|system):[a-z0-9]{1,10}", fullmatch=True),
    when=st.datetimes(timezones=st.just(UTC)),
    object_hash=st.binary(min_size=32, max_size=32),
    detail=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
        | st.integers(-(2**53) + 1, 2**53 - 1),
        max_size=8,
    ),
)


@settings(max_examples=300)
@given(ACTS)
def test_acts_round_trip(act: Act) -> None:
    leaf = encode(act)
    assert parse(leaf) == act
    assert len(leaf) <= 4096


def test_a_leaf_in_full() -> None:
    act = Act(
        id="issue/issuing/0a",
        what="certificate.issue",
        who="system",
        when=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        object_hash=bytes(32),
        detail={"serial": "0a", "issuer": 'é"\n'},
    )
    assert (
        encode(act)
        == (
            '{"detail":{"issuer":"é\\"\\n","serial":"0a"},"id":"issue/issuing/0a","object_hash":"'
            + "00" * 32
            + '","what":"certificate.issue","when":"2026-01-02T03:04:05.000000Z","who":"system"}'
        ).encode()
    )
