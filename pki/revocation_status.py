"""What pieces of evidence say of one certificate, and which word counts (docs/adr/0020).

A revocation cannot be undone (RFC 5280 §5.3.1, RFC 6960 §2.2), so it is believed whoever tells of
it. A hold can, so for a hold it is the newest word that counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from pki.evidence import instant
from pki.status import RevocationReason

HOLD: Final = "certificate_hold"
EVERY_REASON: Final = frozenset(
    {
        "key_compromise",
        "ca_compromise",
        "affiliation_changed",
        "superseded",
        "cessation_of_operation",
        HOLD,
        "privilege_withdrawn",
        "aa_compromise",
    }
)
"""What CRLs for some reasons must add up to (RFC 5280 §6.3.3), as asn1crypto names them."""

_NEVER_ISSUED: Final = datetime(1970, 1, 1, tzinfo=UTC)  # RFC 6960 §2.2
_REVERSIBLE: Final = (RevocationReason.certificateHold, RevocationReason.removeFromCRL)


@dataclass(frozen=True, slots=True)
class SaysGood:
    """``reasons``: those of revocation that it would have told of; ``released``: it says by name
    that a hold has ended, as a delta CRL may."""

    reasons: frozenset[str] = EVERY_REASON
    released: bool = False


@dataclass(frozen=True, slots=True)
class SaysRevoked:
    """``at``: the revocation date; ``invalidity_date``: since when the CA takes the certificate
    to be invalid, if it says so (RFC 5280 §5.3.2)."""

    at: datetime
    reason: RevocationReason
    invalidity_date: datetime | None = None

    @property
    def since(self) -> datetime:
        """When it took effect."""
        return min(self.at, self.invalidity_date or self.at)

    @property
    def final(self) -> bool:
        return self.reason not in _REVERSIBLE

    @property
    def never_issued(self) -> bool:
        """How a responder answers about what no CA has issued: as a hold since 1970."""
        return not self.final and self.at == _NEVER_ISSUED


@dataclass(frozen=True, slots=True)
class Word:
    """What an authenticated piece of evidence says of one certificate.

    ``source`` names it, ``teller`` who signed it, whose CRLs for some reasons add up; ``told``: its
    thisUpdate; ``current``: it was not over at the moment asked about, so that it may prove a
    certificate to be good; ``by_ocsp``: it knows what was issued; ``number``: of a CRL.
    """

    source: str
    teller: str
    told: datetime
    said: SaysGood | SaysRevoked
    current: bool = False
    by_ocsp: bool = False
    number: int = -1

    def __str__(self) -> str:
        return f"{self.source} of {instant(self.told)}"


class Status(Enum):
    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``lines``: for people; why it is so, and what was weighed against it."""

    status: Status
    lines: tuple[str, ...] = ()


def weigh(
    who: str, words: Sequence[Word], until: datetime, *, horizon: datetime, retroactive: bool
) -> Verdict:
    """Whether the certificate of ``who`` is good, going by what took effect ``until`` then. What
    was told after ``horizon`` is of later; ``retroactive``: it may prove that, too."""
    told = [(word, word.said) for word in words if isinstance(word.said, SaysRevoked)]
    revoked = [(word, said) for word, said in told if said.since <= until]
    good = [word for word in words if isinstance(word.said, SaysGood)]
    proofs = [word for word in good if word.current and (retroactive or word.told <= horizon)]
    final = [(word, said) for word, said in revoked if said.final]
    if final:
        return Verdict(Status.REVOKED, _final(who, final, good, until))
    enough = _every_reason(proofs)
    holds = [(word, said) for word, said in revoked if not said.final]
    standing = [(word, said) for word, said in holds if not _released(word, said, good, horizon)]
    # A hold out of date says nothing by itself, but no older word, nor one of later, undoes it.
    if standing and (enough or any(word.current for word, _ in standing)):
        return Verdict(Status.REVOKED, _hold(who, standing, good))
    if not enough:
        return Verdict(Status.UNKNOWN)
    return Verdict(Status.GOOD, tuple(_release(who, word, good) for word, _ in holds))


def _every_reason(proofs: Iterable[Word]) -> bool:
    covered: dict[str, frozenset[str]] = {}
    for word in proofs:
        covered[word.teller] = covered.get(word.teller, frozenset()) | _covered(word)
    return any(reasons >= EVERY_REASON for reasons in covered.values())


def _released(hold: Word, said: SaysRevoked, good: Sequence[Word], horizon: datetime) -> bool:
    """Only by what was told up to ``horizon``: of later, that it is good does not tell when it was
    released, and that it is on hold tells of a hold from before until after."""
    return any(
        word.told <= horizon and _releases(word, hold, never_issued=said.never_issued)
        for word in good
    )


def _releases(word: Word, hold: Word, *, never_issued: bool = False) -> bool:
    if HOLD not in _covered(word) or (never_issued and not word.by_ocsp):
        return False
    if word.told == hold.told and isinstance(word.said, SaysGood) and word.said.released:
        # A delta CRL made in the second of what it continues.
        return word.teller == hold.teller and word.number > hold.number
    return word.told > hold.told


def _covered(word: Word) -> frozenset[str]:
    return word.said.reasons if isinstance(word.said, SaysGood) else frozenset()


# ── Explaining ────────────────────────────────────────────────────────────────────────────────────


def _final(
    who: str,
    final: Sequence[tuple[Word, SaysRevoked]],
    good: Sequence[Word],
    until: datetime,
) -> tuple[str, ...]:
    lines = [
        f"{who} was revoked at {instant(said.at)} ({said.reason.name})"
        + (f" and invalid since {instant(said.since)}" if said.since < said.at else "")
        + f", says {word}"
        for word, said in final
    ]
    first, since = min(final, key=lambda one: one[1].at)
    lines += [
        f"{word} says that {who} is good, and {first} that it was revoked at {instant(since.at)}: "
        "they contradict each other. The revocation counts, for it cannot be undone (RFC 5280 "
        "§5.3.1); tell the CA"
        for word in good
        if word.told >= since.at <= until
    ]
    return tuple(dict.fromkeys(lines))


def _hold(
    who: str, standing: Sequence[tuple[Word, SaysRevoked]], good: Sequence[Word]
) -> tuple[str, ...]:
    word, said = max(standing, key=lambda one: one[0].told)
    unissued = " (or was never issued, RFC 6960 §2.2)" if said.never_issued else ""
    lines = [
        f"{who} is on hold since {instant(said.since)} ({said.reason.name}){unissued}, says {word}"
    ]
    lines += [
        f"{other} says that {who} is good, which does not show that the hold was released by the "
        "time asked about"
        for other in good
    ]
    return tuple(dict.fromkeys(lines))


def _release(who: str, hold: Word, good: Sequence[Word]) -> str:
    newest = max((word for word in good if _releases(word, hold)), key=lambda word: word.told)
    return f"{who} was on hold, says {hold}; {newest} is newer and says that the hold was released"
