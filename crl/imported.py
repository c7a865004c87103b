"""A CRL that was signed elsewhere, held against the ledger before it is published.

It must list what the ledger has revoked, and nothing that the ledger calls good, or CRL and OCSP
would contradict each other. What the ledger changed after its thisUpdate it cannot know: then it
reaches the ledger only up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from crl.encode import Entry, TbsCertList, parse_entry
from crl.source import Part, RevocationSource, Row, is_release
from infra.errors import Rejected
from pki.serial import SerialNumber, format_serial

_SHOWN: Final = 5  # serial numbers in a refusal


@dataclass(frozen=True, slots=True)
class Reach:
    """``sequence``: it shows every change of the ledger up to this one; ``elsewhere``: how many
    entries are of certificates that the ledger never issued."""

    sequence: int
    elsewhere: int


@dataclass(slots=True)
class _Findings:
    """Serial numbers: revoked in the ledger and not listed, listed and not revoked in the ledger,
    listed with another reason."""

    missing: list[int] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    otherwise: list[int] = field(default_factory=list)

    def of(self, row: Row, theirs: Entry | None, this_update: datetime) -> list[int] | None:
        """Where a row and its entry belong that contradict each other."""
        if is_release(row[3]):
            return None if theirs is None else self.good
        if theirs is None:
            return None if row[2] < this_update.timestamp() else self.missing  # expired by then
        return None if theirs.reason is parse_entry(row[3]).reason else self.otherwise


async def reach(source: RevocationSource, parts: Sequence[Part], read: TbsCertList) -> Reach:
    """How far a CRL that covers ``parts``, all of one CA, goes with the ledger.

    Times of revocation may differ, since they are written down in two places. Errors:
    ``crl-differs``, ``bad-crl``, ``bad-der``.
    """
    sequence = await source.sequence()
    listed: dict[int, Entry] = {}
    for entry in read.entries():
        if entry.serial in listed:
            raise Rejected("bad-crl", f"{_shown(entry.serial)} is listed twice")
        if entry.at > read.this_update:
            raise Rejected("bad-crl", f"{_shown(entry.serial)} is revoked after thisUpdate")
        listed[entry.serial] = entry
    found = _Findings()
    for part in parts:
        async for page in source.by_serial(part):
            for row in page:
                theirs = listed.pop(int.from_bytes(row[0], "big"), None)
                wrong = found.of(row, theirs, read.this_update)
                ours = parse_entry(row[3])
                if wrong is not None and ours.at > read.this_update:
                    sequence = min(sequence, row[1] - 1)
                elif wrong is not None:
                    wrong.append(ours.serial)
    for number in listed:
        if await source.issued(parts[0], number):
            found.good.append(number)
    _require_none(found)
    return Reach(sequence, len(listed))


def _require_none(found: _Findings) -> None:
    for serials, what, do in (
        (found.missing, "are revoked here and not listed", "sign a CRL that lists them"),
        (found.good, "are listed and not revoked here", "revoke them here first"),
        (
            found.otherwise,
            "are listed with another reason than here",
            "sign a CRL with the reasons that `digitalid cert show` tells",
        ),
    ):
        if serials:
            some = ", ".join(_shown(serial) for serial in sorted(serials)[:_SHOWN])
            more = " and others" if len(serials) > _SHOWN else ""
            raise Rejected("crl-differs", f"{len(serials)} {what}, {some}{more}: {do}")


def _shown(serial: int) -> str:
    return format_serial(SerialNumber(serial))
