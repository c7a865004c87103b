"""What the log says of every certificate, kept in few octets each.

The leaves about a certificate, one after the other, tell what it is to be in the ledger: which
octets were issued, by whom and when, and what its status is since when. Ten million certificates
would be gigabytes as objects; here each has a place in arrays, 17 octets, of which there are half
as many again as there are leaves.

A place is found by a hash of the certificate's id under a key of this account alone, and what is
compared are 32 bits of such a hash: nobody can look for octets that fit. By chance, one altered
certificate in four thousand million agrees; whatever does not agree has to be looked at anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

import msgspec

from infra.errors import Unavailable
from pki.status import RevocationReason

ISSUE: Final = "certificate.issue"
VOID: Final = "certificate.void"
REVOKE: Final = "certificate.revoke"
HOLD: Final = "certificate.hold"
RELEASE: Final = "certificate.release"

GOOD: Final = 0
"""The number of a status, else that of its reason and 1."""

_SPARE: Final = 65_536
_KNOWN, _SEEN, _ISSUED, _VOID = 1, 2, 4, 8
_STATUS: Final = 4  # bits below it
_WRAP: Final = 0xFFFF_FFFF
_CERTIFICATE: Final = b'"what":"certificate.'


class Told(msgspec.Struct):
    """What of a leaf counts here."""

    what: str
    when: str
    detail: dict[str, str | int]

    @property
    def document(self) -> str | None:
        """The id of the certificate's document that it is about."""
        issuer, serial = self.detail.get("issuer"), self.detail.get("serial")
        if not (isinstance(issuer, str) and isinstance(serial, str)):
            return None
        return f"{issuer}/{serial}"

    @property
    def seconds(self) -> int:
        """When it was, whole seconds since 1970."""
        return int(datetime.fromisoformat(self.when[:19]).replace(tzinfo=UTC).timestamp())


_decode = msgspec.json.Decoder(Told).decode


@dataclass(frozen=True, slots=True)
class Standing:
    """A status: ``number``: ``GOOD`` or that of the reason and 1; ``since``: whole seconds since
    1970, 0 while it is good."""

    number: int = GOOD
    since: int = 0

    def __str__(self) -> str:
        if self.number == GOOD:
            return "good"
        try:
            return RevocationReason(self.number - 1).name
        except ValueError:
            return "a reason that is none"

    def after(self, told: Told) -> Standing:
        """The status after this act; the time of a hold stays (``pki.status.decide_revoke``)."""
        match told.what:
            case "certificate.hold":
                return Standing(RevocationReason.certificateHold + 1, told.seconds)
            case "certificate.release":
                return Standing()
            case "certificate.revoke":
                name = told.detail.get("reason")
                reason = RevocationReason.__members__.get(str(name), RevocationReason.unspecified)
                held = self.number == RevocationReason.certificateHold + 1
                return Standing(reason + 1, self.since if held else told.seconds)
        return self


def told_by(leaf: bytes) -> Told | None:
    """What a leaf says of a certificate, nothing if it is about something else."""
    if _CERTIFICATE not in leaf:
        return None
    try:
        told = _decode(leaf)
        if told.what not in (ISSUE, VOID):
            if told.what not in (REVOKE, HOLD, RELEASE):
                return None
            told.seconds  # noqa: B018 - refuses what is no time
        (told.document or "").encode()
    except (msgspec.DecodeError, ValueError, OverflowError):
        return None  # no leaf that the log has written
    return told


class Account:
    """The certificates of a log, by the ids of their documents.

    ``leaves``: as many as there are, or more; ``key``: random octets, at most 64.
    """

    def __init__(self, leaves: int, key: bytes) -> None:
        self._size = leaves * 3 // 2 + _SPARE
        self._key = key
        self._count = 0
        self._unseen = 0
        empty = array("I", (0,))
        self._marks = empty * self._size
        self._issues = empty * self._size
        self._since = empty * self._size
        self._leaves = empty * self._size
        self._states = bytearray(self._size)

    def take(self, index: int, leaf: bytes) -> None:
        """Take in the next leaf. Errors: ``log-busy`` when there were many more than was said."""
        told = told_by(leaf)
        if told is None or (document := told.document) is None:
            return
        place, mark = self._place(document)
        state = self._states[place]
        if not state:
            if self._count >= self._size * 9 // 10:
                raise Unavailable(
                    "log-busy",
                    "the log grows too fast to be verified now; try again",
                    retry_after=60.0,
                )
            self._count += 1
            self._unseen += 1
            self._marks[place] = mark
            state = _KNOWN
        elif state & _SEEN:
            self._unseen += 1
            state &= ~_SEEN
        self._leaves[place] = index & _WRAP
        if told.what in (ISSUE, VOID):
            self._issues[place] = self._hash(leaf)
            state |= _ISSUED if told.what == ISSUE else _VOID
        else:
            now = Standing(state >> _STATUS, self._since[place]).after(told)
            self._since[place] = now.since & _WRAP
            state = state & (1 << _STATUS) - 1 | now.number << _STATUS
        self._states[place] = state

    def newest(self, document: str) -> int | None:
        """The index of the newest leaf about this certificate."""
        place, _ = self._place(document)
        return self._leaves[place] if self._states[place] else None

    def agrees(self, document: str, leaf: bytes, void: bool, standing: Standing) -> bool:
        """Whether the log tells of this certificate just so; if it does, it is seen.

        ``leaf``: that of its issue, or of its becoming void, as the ledger would write it.
        """
        place, _ = self._place(document)
        state = self._states[place]
        if (
            state & (_KNOWN | _ISSUED | _VOID) != _KNOWN | (_VOID if void else _ISSUED)
            or state >> _STATUS != standing.number
            or self._since[place] != standing.since & _WRAP
            or self._issues[place] != self._hash(leaf)
        ):
            return False
        self.see(document)
        return True

    def stands(self, document: str, standing: Standing) -> bool:
        """Whether the log gives this certificate this status."""
        place, _ = self._place(document)
        since = self._since[place]
        return (self._states[place] >> _STATUS, since) == (standing.number, standing.since & _WRAP)

    def see(self, document: str) -> None:
        """Count a certificate as found, until a leaf tells of it again."""
        place, _ = self._place(document)
        state = self._states[place]
        if state and not state & _SEEN:
            self._states[place] = state | _SEEN
            self._unseen -= 1

    def unseen(self) -> Iterator[int | None]:
        """The newest leaf of each certificate that was not seen; nothing, now and then, where
        others may have a turn."""
        for start in range(0, self._size if self._unseen else 0, 8192):
            for place, state in enumerate(self._states[start : start + 8192], start):
                if state and not state & _SEEN:
                    yield self._leaves[place]
            yield None

    def _place(self, document: str) -> tuple[int, int]:
        """Where a certificate is or would be, and its mark."""
        digest = blake2b(document.encode(), key=self._key, digest_size=12).digest()
        mark = int.from_bytes(digest[8:], "big")
        place = int.from_bytes(digest[:8], "big") % self._size
        states, marks = self._states, self._marks
        while states[place] and marks[place] != mark:
            place += 1
            if place == self._size:
                place = 0
        return place, mark

    def _hash(self, leaf: bytes) -> int:
        digest = blake2b(leaf, key=self._key, digest_size=4).digest()
        return int.from_bytes(digest, "big")
