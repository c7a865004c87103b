"""The entries of a CRL to be made: what changed, put into the blocks of the CRL before it.

An expired certificate stays on full CRLs until one was issued after its end (and, where it is so
set, for some time more): RFC 5280 §3.3. So each full CRL has a ``cutoff``, and what ended before
leaves with the next one; a delta in between says removeFromCRL of it (§5.2.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import IO, Final, NamedTuple

from crl.blocks import Damaged, Gathering, Key, Layout, Placed, Plan, Spill, merge, place
from crl.encode import parse_entry
from crl.history import Publication
from crl.scope import Scope
from crl.source import RELEASED, RevocationSource, Row, is_release
from infra.errors import Rejected
from pki.crl_entry import Entry, encode_entry
from pki.status import RevocationReason

MANY: Final = 100_000
"""Changes from which on a full CRL is made from the ledger: they would not all be held."""


class Anew(Rejected):
    """The CRL before cannot be the start of this one: a full one is made from the ledger."""


class TooMany(Anew):
    """More changed than a delta, or the next CRL from the one before it, can take."""

    def __init__(self) -> None:
        super().__init__("too-many-changes", f"more than {MANY} certificates changed")


def require_coverage(scope: Scope, last: Publication) -> None:
    """That a CRL covers what this scope does; one of version 0.2 does not say. Errors: ``Anew``."""
    if last.coverage not in (None, scope.coverage):
        raise Anew("other-coverage", f"CRL {last.number} of {scope.name} covers something else")


class Change(NamedTuple):
    """What is new of a certificate: its entry, with the reason removeFromCRL when it is ``gone``
    from full CRLs."""

    entry: bytes
    gone: bool


@dataclass(frozen=True, slots=True)
class Contents:
    """The entries, and which of them changed since the last full CRL, for the check."""

    plan: Plan
    changes: dict[Key, bytes | None]


async def delta_contents(
    source: RevocationSource, scope: Scope, base: Publication, spill: Spill
) -> Contents:
    """What changed since ``base``. Errors: ``TooMany``."""
    changes = await _changes_since(source, scope, base)
    listed: dict[Key, bytes | None] = {key: change.entry for key, change in changes.items()}
    return Contents(Plan(merge([], listed, spill)), listed)


async def next_contents(
    source: RevocationSource,
    scope: Scope,
    last: Publication,
    layout: Layout,
    file: IO[bytes],
    spill: Spill,
) -> Contents:
    """All entries, from those of ``last``, which stand in ``file``. Errors: ``TooMany``,
    ``Damaged``."""
    changes = await _changes_since(source, scope, last)
    blocks = place(layout, file)
    if sum(placed.block.count for placed in blocks) != last.count:
        raise Damaged(f"the layout of CRL {last.number} counts otherwise than the CRL")
    return await asyncio.to_thread(_merged, blocks, changes, spill)


async def all_contents(
    source: RevocationSource, scope: Scope, last: Publication | None, spill: Spill
) -> Contents:
    """All entries, from the ledger; ``last``: the full CRL before, which says what has left."""
    before = await source.sequence()
    blocks: list[Placed] = []
    for number, part in enumerate(scope.parts):
        gathering = Gathering(spill, number)
        async for page in source.by_serial(part):
            kept = _staying(page, last)
            gathering.add([row[0] for row in kept], [row[3] for row in kept])
        blocks += gathering.done()
    # What changed while this was reading may have been read as it was.
    changes: dict[Key, Change] = {}
    for number, part in enumerate(scope.parts):
        await _collect(source.changed(part, before), number, changes)
    return await asyncio.to_thread(_merged, blocks, changes, spill)


def _staying(page: list[Row], last: Publication | None) -> list[Row]:
    """The rows that are listed; ``last``: the CRL that has listed for the last time what ended
    before its cutoff."""
    if last is None or not last.cutoff:
        return [row for row in page if not row[3].endswith(RELEASED)]
    cutoff, reached = last.cutoff, last.sequence
    return [
        row
        for row in page
        if not row[3].endswith(RELEASED) and (row[2] >= cutoff or row[1] > reached)
    ]


def _merged(blocks: list[Placed], changes: dict[Key, Change], spill: Spill) -> Contents:
    wanted = {key: None if change.gone else change.entry for key, change in changes.items()}
    return Contents(Plan(merge(blocks, wanted, spill)), wanted)


async def _changes_since(
    source: RevocationSource, scope: Scope, last: Publication
) -> dict[Key, Change]:
    """What differs now from ``last``, a full CRL: changes of status, and what expired."""
    changes: dict[Key, Change] = {}
    for number, part in enumerate(scope.parts):
        async for page in source.expired(part, last.dropped_before, last.cutoff):
            for row in page:
                if row[1] <= last.sequence and not is_release(row[3]):
                    _put(changes, (number, row[0]), _leaving(row))
        # What was revoked after it had expired was listed once, in ``last``.
        if last.dropped_before:
            async for page in source.changed(part, last.sequence_before):
                for row in page:
                    late = row[1] <= last.sequence and row[2] < last.dropped_before
                    if late and not is_release(row[3]):
                        _put(changes, (number, row[0]), _leaving(row))
        await _collect(source.changed(part, last.sequence), number, changes)
    return changes


async def _collect(
    pages: AsyncIterator[list[Row]], number: int, changes: dict[Key, Change]
) -> None:
    async for page in pages:
        for serial, _, _, entry in page:
            _put(changes, (number, serial), Change(entry, is_release(entry)))


def _put(changes: dict[Key, Change], key: Key, change: Change) -> None:
    if len(changes) == MANY and key not in changes:
        raise TooMany
    changes[key] = change


def _leaving(row: Row) -> Change:
    entry = parse_entry(row[3])
    removed = Entry(entry.serial, entry.at, RevocationReason.removeFromCRL)
    return Change(encode_entry(removed), True)
