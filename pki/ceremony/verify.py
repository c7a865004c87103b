"""Verification with nothing but the transcript: years later, elsewhere, without a network.

What is proven follows from the octets: hashes, signatures of participants, signatures of the CA.
What rests on people cannot be in any file: that the names are theirs, that nobody else watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.errors import Rejected
from pki.ceremony.replay import Replay, Wrong
from pki.ceremony.state import read_kept
from pki.ceremony.transcript import Entry, lines_of, parse_entry
from pki.certificate import parse_certificate


@dataclass(frozen=True, slots=True)
class Verdict:
    """``told``: the transcript as far as it could be read; ``wrong``: everything found, in the
    order of the entries; ``proven`` and ``rests``: sentences."""

    told: Replay
    entries: tuple[Entry, ...]
    wrong: tuple[Wrong, ...]
    proven: tuple[str, ...]
    rests: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not self.wrong


def verify_transcript(
    data: bytes, *, published: Sequence[bytes] = (), before: bytes | None = None
) -> Verdict:
    """Check a transcript from its first line to its last.

    ``published``: certificates (DER) as relying parties have them, which must all have been made
    here or before; ``before``: the transcript of the ceremony before this one, whose end must be
    what this one began with.
    """
    told = Replay()
    entries: list[Entry] = []
    wrong: list[Wrong] = []
    for number, line in enumerate(lines_of(data)):
        try:
            entry = parse_entry(line)
        except Rejected as rejected:
            wrong.append(Wrong(number, "unreadable-entry", rejected.detail))
            continue
        entries.append(entry)
        told.feed(entry)
    wrong = sorted([*told.wrong, *wrong], key=lambda found: found.entry)
    if data and not data.endswith(b"\n"):
        wrong.append(Wrong(-1, "torn-line", "the last line is not whole: octets are missing"))
    if not told.finished:
        wrong.append(
            Wrong(-1, "not-closed", "it ends before everybody has signed the whole: entries are "
                  "missing at its end, or the ceremony was not finished")
        )  # fmt: skip
    wrong += _published(told, published)
    wrong += _before(told, before)
    proven = () if wrong else tuple(_proven(told, entries, published, before))
    return Verdict(told, tuple(entries), tuple(wrong), proven, tuple(_rests(told, before)))


def _published(told: Replay, published: Sequence[bytes]) -> list[Wrong]:
    made = {parse_certificate(der).sha256 for der in told.state.kept.issued.values()}
    found = []
    for der in published:
        certificate = parse_certificate(der)
        if certificate.sha256 not in made:
            found.append(
                Wrong(
                    -1,
                    "not-made-here",
                    f"the certificate of {certificate.subject.rfc4514()} with SHA-256 "
                    f"{certificate.sha256.hex()} was not made in this ceremony or one before it",
                )
            )
    return found


def _before(told: Replay, before: bytes | None) -> list[Wrong]:
    if before is None:
        return []
    verdict = verify_transcript(before)
    if verdict.wrong:
        return [Wrong(-1, "wrong-before", f"the ceremony before: {verdict.wrong[0].detail}")]
    begun = told.begun
    if begun.get("previous") != verdict.told.head:
        return [Wrong(0, "wrong-before", "this ceremony does not follow the one that was given")]
    if read_kept(begun.get("kept")) != verdict.told.state.kept:
        return [Wrong(0, "wrong-before", "it begins with other keys than the one before left")]
    return []


def _proven(
    told: Replay, entries: Sequence[Entry], published: Sequence[bytes], before: bytes | None
) -> list[str]:
    people = len(told.state.people)
    kept = told.state.kept
    sentences = [
        f"All {len(entries)} entries are as they were written, in their order; none is missing.",
        "Every step is one of the script, was shown in these words, was confirmed by all whom the "
        "script names, and came after the one before it.",
        f"The keys of all {people} participants have signed the whole, up to its last step.",
        "Each certificate and CRL is the one that was confirmed, octet for octet, and is signed "
        "by the key that the transcript names.",
        f"Certificates made up to its end: {len(kept.issued)}, by CAs: {len(kept.authorities)}; "
        "no serial number was used twice.",
    ]
    if published:
        sentences.append(f"The {len(published)} certificates given were made in these ceremonies.")
    if before is not None:
        sentences.append("It begins with what the ceremony before it left.")
    return sentences


def _rests(told: Replay, before: bytes | None) -> list[str]:
    sentences = [
        "That each participant is the person of that name, alone held the key, and confirmed what "
        "they had understood.",
        "That the machine ran the software whose hash stands in the transcript, showed what it "
        "recorded, and drew its random numbers well.",
        "That the clock was right: times are those of the machine, compared by those present.",
        "That private keys were made on the token named, and exist nowhere else but in the "
        "backups described.",
    ]
    if told.rehearsal:
        sentences.insert(0, "This was a rehearsal: its keys and certificates are worthless.")
    if before is None and told.begun.get("previous", "0" * 64) != "0" * 64:
        sentences.append(
            "That the ceremony before it ended as this one says: give its transcript to check that."
        )
    return sentences
