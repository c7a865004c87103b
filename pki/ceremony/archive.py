"""The ceremonies of a home folder, one after the other: what each left is where the next begins.

An offline CA has no database. Its transcripts are its ledger: each names the head of the one before
it, so that a ceremony that went missing is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.errors import Rejected
from pki.ceremony.replay import Replay, replay
from pki.ceremony.run import TRANSCRIPT
from pki.ceremony.state import Kept
from pki.ceremony.transcript import MAXIMUM_SIZE, NOTHING, lines_of, parse_entry

FOLDER: Final = "ceremonies"


@dataclass(frozen=True, slots=True)
class Past:
    """A ceremony in its folder. ``head``: the hash of its last line."""

    name: str
    folder: Path
    told: Replay

    @property
    def head(self) -> str:
        return self.told.head


def read_transcript(path: Path) -> bytes:
    """A transcript's octets. Errors: ``cannot-read``, ``bad-transcript``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_SIZE + 1)
    except OSError as error:
        raise Rejected("cannot-read", f"{path}: {error.strerror}") from error
    if len(data) > MAXIMUM_SIZE:
        raise Rejected("bad-transcript", f"{path} is larger than any ceremony")
    return data


def past(home: Path) -> list[Past]:
    """Every ceremony that was begun, in the order in which they follow each other.

    Errors: ``altered-transcript``, ``ceremony-missing``.
    """
    found: list[Past] = []
    for path in sorted((home / FOLDER).glob(f"*/{TRANSCRIPT}")):
        told = replay([parse_entry(line) for line in lines_of(read_transcript(path))])
        if told.wrong:
            raise Rejected(
                "altered-transcript",
                f"{path}: {told.wrong[0].detail}; digitalid ceremony verify says more",
            )
        if told.count:
            found.append(Past(path.parent.name, path.parent, told))
    by_previous = {str(each.told.begun["previous"]): each for each in found}
    ordered: list[Past] = []
    head = NOTHING
    while (following := by_previous.pop(head, None)) is not None:
        ordered.append(following)
        head = following.head
    if by_previous:
        lost = ", ".join(each.name for each in by_previous.values())
        raise Rejected(
            "ceremony-missing",
            f"the ceremony before {lost} is not in {home / FOLDER}; put its folder back",
        )
    return ordered


def left_by(ceremonies: list[Past]) -> tuple[str, Kept]:
    """The head and what is kept after them. Errors: ``ceremony-unfinished``."""
    if not ceremonies:
        return NOTHING, Kept()
    last = ceremonies[-1]
    if not last.told.finished:
        raise Rejected(
            "ceremony-unfinished",
            f"ceremony {last.name} is not closed; run: digitalid ceremony resume {last.name}",
        )
    return last.head, last.told.state.kept
