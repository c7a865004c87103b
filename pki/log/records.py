"""How the log lies in the store: one document a leaf, a full tile, a checkpoint.

Each leaf document repeats the running hash of its neighbour: ``before`` is the ``after`` of the
leaf ahead of it, ``after`` is SHA-256(before || leaf hash), and the first ``before`` is 32 zero
octets. Whoever alters one document, even consistently, is contradicted by the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NewType

from infra.store.port import Collection, Document, Index, Stored

LeafIndex = NewType("LeafIndex", int)

LEAVES: Final = Collection("log_leaves", (Index("act", ("act",), unique=True),))
TILES: Final = Collection("log_tiles")
CHECKPOINTS: Final = Collection("log_checkpoints", (Index("number", ("number",), unique=True),))
COLLECTIONS: Final = (LEAVES, TILES, CHECKPOINTS)

# The partial tile of leaf hashes as the newest checkpoint signs it; the one document that changes.
PARTIAL: Final = "partial"
START: Final = bytes(32)

_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class LeafRecord:
    """A leaf as it is stored; ``before`` and ``after`` are running hashes, 32 octets."""

    act: str
    leaf: bytes
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint as it is stored; ``number`` counts from 0 without a gap."""

    number: int
    size: int
    root: bytes
    note: bytes


def running(before: bytes, leaf_hash: bytes) -> bytes:
    """The running hash after a leaf."""
    return sha256(before + leaf_hash).digest()


def record_id(number: int) -> str:
    """The id of the leaf with this index, or of the checkpoint with this number."""
    return f"{number:0{_DIGITS}d}"


def record_number(id: str) -> int | None:
    """The number in an id, nothing if this log writes no such id."""
    return int(id) if len(id) == _DIGITS and id.isascii() and id.isdigit() else None


def leaf_body(act: str, leaf: bytes, before: bytes, after: bytes) -> Document:
    """The document of a leaf."""
    return {"act": act, "leaf": leaf, "before": before, "after": after}


def leaf_record(stored: Stored) -> LeafRecord | None:
    """The leaf in a document, nothing if the document has another shape."""
    match stored.body:
        case {
            "act": str(act),
            "leaf": bytes(leaf),
            "before": bytes(before),
            "after": bytes(after),
        }:
            return LeafRecord(act, leaf, before, after)
    return None


def checkpoint_body(record: CheckpointRecord) -> Document:
    """The document of a checkpoint."""
    return {
        "number": record.number,
        "size": record.size,
        "root": record.root,
        "note": record.note,
    }


def checkpoint_record(stored: Stored) -> CheckpointRecord | None:
    """The checkpoint in a document, nothing if the document has another shape."""
    match stored.body:
        case {"number": int(number), "size": int(size), "root": bytes(root), "note": bytes(note)}:
            return CheckpointRecord(number, size, root, note)
    return None


def tile_hashes(stored: Stored) -> bytes | None:
    """The hashes of a stored tile, nothing if the document has another shape."""
    match stored.body:
        case {"hashes": bytes(hashes)} if len(hashes) % 32 == 0:
            return hashes
    return None
