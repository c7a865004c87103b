"""What the stored records say about one leaf, and which of them to believe.

Four records testify to each leaf: its own document, the ``before`` of the next document, the
entry of its tile, and the signed checkpoints. Altering any one leaves the others in agreement,
which is what names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pki.log.merkle import leaf_hash
from pki.log.records import LeafRecord, running

LEAF_MISSING: Final = "leaf-missing"
LEAF_ALTERED: Final = "leaf-altered"
LEAF_UNREADABLE: Final = "leaf-unreadable"
LEAF_FOREIGN: Final = "leaf-foreign"
RUNNING_HASH_ALTERED: Final = "running-hash-altered"
ACT_ALTERED: Final = "act-altered"
LEAVES_ALTERED: Final = "leaves-altered"
TILE_ALTERED: Final = "tile-altered"
TILE_MISSING: Final = "tile-missing"
CHECKPOINT_ALTERED: Final = "checkpoint-altered"
CHECKPOINT_MISSING: Final = "checkpoint-missing"

CERTIFICATE_MISSING: Final = "certificate-missing"
CERTIFICATE_UNLOGGED: Final = "certificate-unlogged"
CERTIFICATE_ALTERED: Final = "certificate-altered"
STATUS_ALTERED: Final = "status-altered"
REASON_ALTERED: Final = "reason-altered"
REVOCATION_TIME_ALTERED: Final = "revocation-time-altered"
CRL_ENTRY_ALTERED: Final = "crl-entry-altered"

_ABOUT_LEAVES: Final = frozenset(
    {
        LEAF_MISSING,
        LEAF_ALTERED,
        LEAF_UNREADABLE,
        RUNNING_HASH_ALTERED,
        ACT_ALTERED,
        LEAVES_ALTERED,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written. ``code``: stable; ``start`` to ``end - 1``: the
    leaves it is about, one of which, or all, are altered; both nothing when it is about none.

    ``certificate``: the id of the document in the ledger that is not what these leaves say.
    """

    code: str
    detail: str
    start: int | None = None
    end: int | None = None
    certificate: str | None = None

    @property
    def about_leaves(self) -> bool:
        """Whether a leaf's own document is altered, missing or moved."""
        return self.code in _ABOUT_LEAVES and self.certificate is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is believed of a leaf: what is wrong with it, if anything; the hash that it had; the
    running hash after it."""

    code: str | None
    hash: bytes
    running: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay has found.

    ``size`` and ``root``: of the leaves as they are stored now; ``covered``: how many of them a
    checkpoint with a good signature and this very root vouches for; ``checkpoints``: how many
    were checked; ``findings``: at most about 100 of the log and 100 of the ledger, the first leaf
    first; ``certificates``: how many of the ledger were compared with the log; ``unfinished``: how
    many of those wait for the next start to finish what was interrupted.
    """

    size: int
    root: bytes
    covered: int
    checkpoints: int
    findings: tuple[Finding, ...]
    certificates: int = 0
    unfinished: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def first_altered(self) -> int | None:
        """The first leaf that is altered, missing or moved; if it is only known to be among
        several, the first of those."""
        return min(
            (f.start for f in self.findings if f.about_leaves and f.start is not None),
            default=None,
        )


def follows_itself(record: LeafRecord) -> bool:
    """Whether the running hashes in a document fit its own leaf."""
    return running(record.before, leaf_hash(record.leaf)) == record.after


def judge(
    before: bytes,
    record: LeafRecord,
    entry: bytes | None,
    following: LeafRecord | None,
    *,
    following_holds: bool,
) -> Verdict:
    """Decide about one leaf.

    ``before``: the running hash up to it, as believed; ``entry``: the hash in its tile, nothing
    where no tile holds one; ``following``: the next document, which ``following_holds`` when it
    agrees with itself and with the one after it.
    """
    own = leaf_hash(record.leaf)
    by_leaf = running(before, own)
    said = record.after if following is None else following.before
    consistent = record.before == before and record.after == by_leaf
    if entry is None or entry == own:
        if said == by_leaf or (consistent and following is not None and not following_holds):
            return Verdict(None if consistent else RUNNING_HASH_ALTERED, own, by_leaf)
        return Verdict(
            LEAF_ALTERED, own, said if following is None or following_holds else record.after
        )
    # With a neighbour to confirm the leaf, it is the tile that is wrong.
    if said == by_leaf and following is not None:
        return Verdict(TILE_ALTERED, own, by_leaf)
    return Verdict(LEAF_ALTERED, entry, running(before, entry))


def settle(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings by leaf; of stretches of altered leaves, one inside the other, the inner."""
    stretches = [
        (f.start, f.end)
        for f in findings
        if f.code == LEAVES_ALTERED and f.start is not None and f.end is not None
    ]

    def inner(finding: Finding) -> bool:
        if finding.code != LEAVES_ALTERED or finding.start is None or finding.end is None:
            return True
        own = (finding.start, finding.end)
        return not any(own[0] <= s and e <= own[1] and (s, e) != own for s, e in stretches)

    kept = filter(inner, dict.fromkeys(findings))
    return tuple(sorted(kept, key=lambda f: (f.start is None, f.start or 0, f.end or 0, f.code)))
