"""Merkle trees of RFC 6962 §2.1: hashes, the growing right edge, and both kinds of proof.

A tree is never held here: proofs are named as the spans of leaves whose hashes they consist of,
and whoever stores the hashes looks them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from infra.errors import Rejected

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


class Span(NamedTuple):
    """The leaves ``start`` to ``end - 1``, which are one subtree of the tree."""

    start: int
    end: int


class Node(NamedTuple):
    """A subtree of ``2 ** height`` leaves, the first of them ``number * 2 ** height``."""

    height: int
    number: int


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf, 32 octets (RFC 6962 §2.1)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node from those of its children (RFC 6962 §2.1)."""
    return sha256(b"\x01" + left + right).digest()


def peaks(hashes: Sequence[bytes]) -> list[bytes]:
    """The roots of the perfect subtrees that these leaf hashes make up, the largest first."""
    found = []
    level: Sequence[bytes] = hashes
    while level:
        if len(level) % 2:
            found.append(level[-1])
        level = [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
    found.reverse()
    return found


def fold(roots: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that lie side by side, each smaller than the one before."""
    if not roots:
        return EMPTY_ROOT
    *rest, root = roots
    for left in reversed(rest):
        root = node_hash(left, root)
    return root


def root_of(hashes: Sequence[bytes]) -> bytes:
    """MTH of a list of leaf hashes (RFC 6962 §2.1)."""
    return fold(peaks(hashes))


class Frontier:
    """The right edge of a growing tree: its size and the roots of its perfect subtrees.

    Invariant: one root for each bit that is set in ``size``, the largest subtree first.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, roots: Iterable[bytes] = ()) -> None:
        self._peaks = list(roots)
        self.size = size
        if len(self._peaks) != size.bit_count():
            raise ValueError("a frontier has one root for each bit that is set in its size")

    @property
    def peaks(self) -> tuple[bytes, ...]:
        return tuple(self._peaks)

    def append(self, hash_: bytes) -> None:
        """Add the hash of the next leaf: one node hash on average."""
        size = self.size
        while size & 1:
            hash_ = node_hash(self._peaks.pop(), hash_)
            size >>= 1
        self._peaks.append(hash_)
        self.size += 1

    def root(self, beyond: Sequence[bytes] = ()) -> bytes:
        """The root as it stands; with ``beyond``, that of the tree whose smaller perfect
        subtrees, right of this edge, have these roots."""
        return fold((*self._peaks, *beyond))


def inclusion_spans(index: int, size: int) -> tuple[Span, ...]:
    """PATH(index, D[size]): what an inclusion proof consists of, the leaf's sibling first
    (RFC 6962 §2.1.1). ``0 <= index < size``, else ``Rejected("no-such-leaf")``."""
    if not 0 <= index < size:
        raise Rejected("no-such-leaf", f"a tree of {size} leaves has no leaf {index}")
    spans = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    return tuple(reversed(spans))


def consistency_spans(old: int, new: int) -> tuple[Span, ...]:
    """PROOF(old, D[new]): what a consistency proof consists of (RFC 6962 §2.1.2).
    ``0 < old <= new``, else ``Rejected("bad-tree-size")``."""
    if not 0 < old <= new:
        raise Rejected("bad-tree-size", f"no proof leads from {old} leaves to {new}")
    spans = []
    start, end = 0, new
    whole = True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
            whole = False
    if not whole:
        spans.append(Span(start, end))
    return tuple(reversed(spans))


def decompose(span: Span) -> tuple[Node, ...]:
    """The perfect subtrees that a span of a tree consists of, the largest first."""
    nodes = []
    start, left = span.start, span.end - span.start
    while left:
        height = left.bit_length() - 1
        nodes.append(Node(height, start >> height))
        start += 1 << height
        left -= 1 << height
    return tuple(nodes)


def inclusion_root(hash_: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 §2.1.3.2).

    ``hash_``: that of the leaf. Errors: ``Rejected("bad-inclusion-proof")`` when the proof has
    not the length that this index and size ask for.
    """
    if not 0 <= index < size or not _are_hashes((hash_, *path)):
        raise _bad_inclusion()
    fn, sn = index, size - 1
    root = hash_
    for sibling in path:
        if sn == 0:
            raise _bad_inclusion()
        if fn & 1 or fn == sn:
            root = node_hash(sibling, root)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            root = node_hash(root, sibling)
        fn >>= 1
        sn >>= 1
    if sn != 0:
        raise _bad_inclusion()
    return root


def verify_inclusion(
    hash_: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Refuse unless ``path`` proves that leaf ``index`` of the tree with this size and root has
    this hash (RFC 9162 §2.1.3.2). Errors: ``Rejected("bad-inclusion-proof")``."""
    if inclusion_root(hash_, index, size, path) != root:
        raise _bad_inclusion()


def verify_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Refuse unless ``proof`` shows that the tree of ``old`` leaves is the beginning of that of
    ``new`` leaves (RFC 9162 §2.1.4.2). Errors: ``Rejected("bad-consistency-proof")``."""
    if not 0 < old <= new or not _are_hashes(proof):
        raise _bad_consistency()
    if old == new:
        if proof or old_root != new_root:
            raise _bad_consistency()
        return
    # Step 2: a perfect old tree is its own first node.
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise _bad_consistency()
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = path[0]
    for node in path[1:]:
        if sn == 0:
            raise _bad_consistency()
        if fn & 1 or fn == sn:
            fr = node_hash(node, fr)
            sr = node_hash(node, sr)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            sr = node_hash(sr, node)
        fn >>= 1
        sn >>= 1
    if sn != 0 or fr != old_root or sr != new_root:
        raise _bad_consistency()


def _split(size: int) -> int:
    """The largest power of two smaller than ``size``, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _are_hashes(values: Iterable[bytes]) -> bool:
    return all(len(value) == HASH_SIZE for value in values)


def _bad_inclusion() -> Rejected:
    return Rejected("bad-inclusion-proof", "the proof does not lead from this leaf to this root")


def _bad_consistency() -> Rejected:
    return Rejected("bad-consistency-proof", "the proof does not join these two trees")
