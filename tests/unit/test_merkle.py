"""RFC 6962 §2.1: the reference tree of Certificate Transparency, proofs that hold and do not."""

from __future__ import annotations

import pytest

from infra.errors import Rejected
from pki.log.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    Span,
    consistency_spans,
    decompose,
    inclusion_spans,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from pki.log.tiles import Place, Tail, TileId, cut, place

# The eight leaves and the roots that implementations of RFC 6962 share as their test tree.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def span_hash(span: Span) -> bytes:
    return root_of(HASHES[span.start : span.end])


@pytest.mark.parametrize("size", range(9))
def test_the_reference_tree(size: int) -> None:
    assert root_of(HASHES[:size]).hex() == ROOTS[size]
    frontier = Frontier()
    for hash_ in HASHES[:size]:
        frontier.append(hash_)
    assert frontier.root().hex() == ROOTS[size]
    assert Tail().grow(HASHES[:size])[0].root().hex() == ROOTS[size]


def test_the_example_of_rfc_6962() -> None:
    """RFC 6962 §2.1.3: the proofs of its tree of seven leaves, by the letters of its drawing."""
    a, b, c, d, e, f, j = HASHES[:7]
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, l = node_hash(g, h), node_hash(i, j)  # noqa: E741
    assert root_of(HASHES[:7]) == node_hash(k, l)

    def path(index: int) -> list[bytes]:
        return [span_hash(span) for span in inclusion_spans(index, 7)]

    def proof(old: int) -> list[bytes]:
        return [span_hash(span) for span in consistency_spans(old, 7)]

    assert path(0) == [b, h, l]
    assert path(3) == [c, g, l]
    assert path(4) == [f, j, k]
    assert path(6) == [i, k]
    assert proof(3) == [c, d, g, l]
    assert proof(4) == [l]
    assert proof(6) == [i, j, k]
    assert proof(7) == []


def test_inclusion_proofs_that_do_not_hold() -> None:
    root = root_of(HASHES[:7])
    path = [span_hash(span) for span in inclusion_spans(3, 7)]
    verify_inclusion(HASHES[3], 3, 7, path, root)
    for index, size, wrong_path, wrong_root, hash_ in (
        (2, 7, path, root, HASHES[3]),
        (3, 7, path, root, HASHES[2]),
        (3, 7, path[:-1], root, HASHES[3]),
        (3, 7, [*path, path[0]], root, HASHES[3]),
        (3, 7, path[::-1], root, HASHES[3]),
        (3, 7, path, EMPTY_ROOT, HASHES[3]),
        (3, 7, [*path[:-1], b"short"], root, HASHES[3]),
        (7, 7, path, root, HASHES[3]),
        (-1, 7, path, root, HASHES[3]),
        (3, 3, path, root, HASHES[3]),
        (0, 0, [], EMPTY_ROOT, EMPTY_ROOT),
    ):
        with pytest.raises(Rejected, match="bad-inclusion-proof"):
            verify_inclusion(hash_, index, size, wrong_path, wrong_root)


def test_consistency_proofs_that_do_not_hold() -> None:
    old, new = root_of(HASHES[:3]), root_of(HASHES[:7])
    proof = [span_hash(span) for span in consistency_spans(3, 7)]
    verify_consistency(3, old, 7, new, proof)
    for case in (
        (3, new, 7, new, proof),
        (3, old, 7, old, proof),
        (2, old, 7, new, proof),
        (3, old, 8, new, proof[:-1]),
        (3, old, 7, new, []),
        (3, old, 7, new, [*proof, old]),
        (3, old, 7, new, proof[::-1]),
        (4, root_of(HASHES[:4]), 7, new, []),
        (0, EMPTY_ROOT, 7, new, []),
        (7, old, 3, new, []),
        (7, new, 7, new, [new]),
        (7, new, 7, old, []),
    ):
        with pytest.raises(Rejected, match="bad-consistency-proof"):
            verify_consistency(*case)


def test_what_has_no_proof() -> None:
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(Rejected, match="no-such-leaf"):
            inclusion_spans(index, size)
    for old, new in ((0, 3), (4, 3), (-1, 3)):
        with pytest.raises(Rejected, match="bad-tree-size"):
            consistency_spans(old, new)


def test_a_frontier_goes_on_from_its_peaks() -> None:
    one = Frontier()
    for hash_ in HASHES[:5]:
        one.append(hash_)
    two = Frontier(one.size, one.peaks)
    two.append(HASHES[5])
    assert two.root().hex() == ROOTS[6]
    assert one.root().hex() == ROOTS[5]
    with pytest.raises(ValueError):
        Frontier(3, one.peaks[:1])


def test_decomposed_spans_are_perfect_subtrees() -> None:
    assert decompose(Span(0, 7)) == (Node(2, 0), Node(1, 2), Node(0, 6))
    assert decompose(Span(8, 16)) == (Node(3, 1),)
    assert decompose(Span(4, 4)) == ()


def test_places_in_tiles() -> None:
    assert place(Node(0, 0)) == Place(TileId(0, 0), 0, 1)
    assert place(Node(0, 1000)) == Place(TileId(0, 3), 232, 233)
    assert place(Node(7, 3)) == Place(TileId(0, 1), 128, 256)
    assert place(Node(8, 300)) == Place(TileId(1, 1), 44, 45)
    assert place(Node(16, 1)) == Place(TileId(2, 0), 1, 2)


def test_the_tiles_of_the_example_in_tlog_tiles() -> None:
    """70,000 leaves: 273 full tiles and 112 hashes, one full tile and 17, and one hash."""
    hashes = [n.to_bytes(32, "big") for n in range(70_000)]
    tail, full = Tail().grow(hashes)
    assert [tile.id for tile in full if tile.id.level == 0] == [TileId(0, n) for n in range(273)]
    assert [tile.id for tile in full if tile.id.level == 1] == [TileId(1, 0)]
    assert [len(level) for level in tail.levels] == [112, 17, 1]
    assert tail.root() == root_of(hashes)
    assert full[-1].hashes == tuple(hashes[272 * 256 : 273 * 256])
    assert tail.partial(TileId(0, 273)) == tuple(hashes[273 * 256 :])
    assert tail.partial(TileId(0, 272)) is None
    assert tail.partial(TileId(3, 0)) is None
    # The tile above is written first: whoever finds one below can rely on it.
    ids = [tile.id for tile in full]
    assert ids.index(TileId(1, 0)) == ids.index(TileId(0, 255)) - 1


def test_a_tail_in_steps_is_the_tail_at_once() -> None:
    hashes = [n.to_bytes(32, "big") for n in range(1_300)]
    tail, full = Tail(), []
    at = 0
    for step in (1, 254, 1, 1, 600, 0, 443):
        tail, filled = tail.grow(hashes[at : at + step])
        full += filled
        at += step
    once, all_at_once = Tail().grow(hashes)
    assert (tail.levels, full) == (once.levels, all_at_once)
    with pytest.raises(ValueError):
        Tail(3, [[b""]])
    assert cut(b"".join(hashes[:3])) == tuple(hashes[:3])
