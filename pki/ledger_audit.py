"""The ledger against the log: whether each certificate is what the leaves about it made it.

Whoever can write the database can write a certificate's document. The leaf that tells of its
revocation stays in the log, so the log is read once, in the order of its leaves
(``pki.account``), then the documents once, in the order of their ids. Before a page of documents is
compared, whatever was logged meanwhile is read too: no change is visible before its leaf is in the
log, so what a service does at the same time agrees, but for what changes in that very moment. That,
and whatever really differs, is looked at alone: the document, every leaf about it, and the document
again, until it stood still.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, cast

from infra.errors import Broken, Failure, Rejected
from infra.store.port import Document, Store, Stored
from pki.account import GOOD, ISSUE, VOID, Account, Standing, told_by
from pki.certificate import parse_certificate
from pki.ledger import LOG_CURSOR
from pki.log.act import encode
from pki.log.audit import MAX_FINDINGS, Progress, Report, verify_log
from pki.log.checkpoint import VerifierKey
from pki.log.evidence import (
    ACT_ALTERED,
    CERTIFICATE_ALTERED,
    CERTIFICATE_MISSING,
    CERTIFICATE_UNLOGGED,
    CRL_ENTRY_ALTERED,
    LEAF_ALTERED,
    REASON_ALTERED,
    REVOCATION_TIME_ALTERED,
    STATUS_ALTERED,
    Finding,
    follows_itself,
)
from pki.log.records import LEAVES, START, LeafRecord, leaf_record, record_id, record_number
from pki.record import CERTIFICATES, COMPROMISE, Record, State, act_of, crl_fields, integer_of
from pki.status import Revoked

PAGE: Final = 64
"""Documents that are compared before others on the event loop get a turn."""

_ATTEMPTS: Final = 10
_PAUSE: Final = 0.05
_PATIENCE: Final = 20
"""Pauses in all that are made for what is under way to end."""

_STATUS_ACTS: Final = ("hold", "release", "revoke")


async def verify_ledger(
    store: Store,
    *,
    origin: str,
    keys: Sequence[VerifierKey],
    trusted: Sequence[bytes] = (),
    progress: Progress | None = None,
) -> Report:
    """Replay the log in ``store`` and report whatever is not as it was written; then compare every
    certificate of the ledger with what the log says of it.

    Arguments and errors: those of ``verify_log``; ``progress``: called with leaves and certificates
    done and in all. Of a log that is altered itself nothing is compared: what it says of
    certificates is no evidence. Takes some 26 octets a leaf.
    """
    certificates = await store.count(CERTIFICATES)
    account = Account(await store.count(LEAVES), os.urandom(32))

    def show(done: int, total: int) -> None:
        if progress is not None:
            progress(done, max(total, report.size if report else 0) + certificates)

    report: Report | None = None
    report = await verify_log(
        store, origin=origin, keys=keys, trusted=trusted, progress=show, read=account.take
    )
    if any(finding.about_leaves for finding in report.findings):
        return report
    comparison = _Comparison(store, account, report.size)
    async for done in comparison.run():
        show(report.size + done, report.size)
    found = sorted(
        comparison.findings,
        key=lambda one: (one.start is None, one.start or 0, one.certificate or ""),
    )
    return replace(
        report,
        findings=(*report.findings, *found),
        certificates=comparison.compared,
        unfinished=comparison.unfinished,
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is wrong with a certificate, if anything. ``unfinished``: what was interrupted with it
    waits for the next start."""

    code: str | None = None
    detail: str = ""
    leaf: int | None = None
    unfinished: bool = False


class _Comparison:
    """``size``: the leaves that ``account`` has taken in, none of them altered."""

    def __init__(self, store: Store, account: Account, size: int) -> None:
        self._store = store
        self._account = account
        self._size = size
        self._running = START
        self._follows = True
        self._patience = _PATIENCE
        self._logged = 0
        self.findings: list[Finding] = []
        self.compared = 0
        self.unfinished = 0

    async def run(self) -> AsyncIterator[int]:
        """Compare all; yields how many certificates are done."""
        if self._size:
            self._running = (await self._leaf(self._size - 1)).after
        self._logged = await self._store.cursor(LOG_CURSOR)
        page: list[Stored] = []
        async for stored in self._store.scan(CERTIFICATES, page=PAGE):
            page.append(stored)
            if len(page) == PAGE:
                await self._compare(page)
                page.clear()
                if self._full:
                    return
                yield self.compared
        await self._compare(page)
        yield self.compared
        # What is left is gone, or was issued or changed since its turn came.
        for leaf in self._account.unseen():
            if self._full:
                return
            if leaf is None:
                await asyncio.sleep(0)
            elif (told := told_by((await self._leaf(leaf)).leaf)) and (id := told.document):
                await self._look_at(id)

    @property
    def _full(self) -> bool:
        return len(self.findings) >= MAX_FINDINGS

    async def _compare(self, page: Sequence[Stored]) -> None:
        await self._read_on()
        for stored in page:
            if not await self._agrees(stored):
                await self._look_at(stored.id)
                if self._full:
                    return
        self.compared += len(page)
        await asyncio.sleep(0)

    async def _agrees(self, stored: Stored) -> bool:
        """Whether a certificate is what the log says, as far as that can be told quickly."""
        try:
            record = Record(stored)
            if record.state is State.intended:
                return self._account.newest(stored.id) is None
            standing = _standing(stored.body)
            leaf, void = encode(act_of(record)), record.state is State.void
            return (
                "pending" not in stored.body
                and (standing.number == GOOD or await self._is_listed(stored))
                and self._account.agrees(stored.id, leaf, void, standing)
            )
        except (Broken, Rejected, KeyError, TypeError, ValueError, AttributeError):
            return False

    async def _read_on(self) -> None:
        """Take in the leaves that were written meanwhile."""
        while (
            self._follows
            and (stored := await self._store.get(LEAVES, record_id(self._size))) is not None
        ):
            record = leaf_record(stored)
            if record is None or record.before != self._running or not follows_itself(record):
                self._follows = False
                self._find(
                    _Verdict(LEAF_ALTERED, f"leaf {self._size} does not follow", self._size), None
                )
                return
            self._account.take(self._size, record.leaf)
            self._running = record.after
            self._size += 1
            if self._size % PAGE == 0:
                await asyncio.sleep(0)

    async def _leaf(self, index: int) -> LeafRecord:
        stored = await self._store.get(LEAVES, record_id(index))
        record = None if stored is None else leaf_record(stored)
        if record is None:
            raise Broken("log-incomplete", f"leaf {index} is missing or cannot be read")
        return record

    async def _look_at(self, id: str) -> None:
        """Say what is wrong with a certificate, if it is still so when it stands still."""
        if any(finding.certificate == id for finding in self.findings):
            return
        verdict = _Verdict(unfinished=True)
        for _ in range(_ATTEMPTS):
            stored = await self._store.get(CERTIFICATES, id)
            await self._read_on()
            leaves = await self._leaves(id)
            if await self._store.get(CERTIFICATES, id) != stored:
                await asyncio.sleep(0)
                continue
            verdict = await self._judge(id, stored, leaves)
            under_way = verdict.unfinished or verdict.code is not None
            if not (under_way and self._patience):
                break
            self._patience -= 1
            await asyncio.sleep(_PAUSE)
        self._account.see(id)
        if verdict.code is None:
            self.unfinished += verdict.unfinished
        else:
            self._find(verdict, id)

    def _find(self, verdict: _Verdict, id: str | None) -> None:
        if verdict.code is not None and not self._full:
            start = verdict.leaf
            end = None if start is None else start + 1
            self.findings.append(Finding(verdict.code, verdict.detail, start, end, id))

    async def _leaves(self, id: str) -> dict[int, bytes]:
        """Every leaf about a certificate, by its index, in order."""
        found = []
        for act in ("issue", "void"):
            found += await self._store.find(LEAVES, "act", (f"{act}/{id}",), limit=1)
        for act in _STATUS_ACTS:
            low, high = f"{act}/{id}/", f"{act}/{id}0"  # what follows a slash is a number
            found += await self._store.find(LEAVES, "act", low=low, high=high)
        leaves: dict[int, bytes] = {}
        for stored in found:
            index, record = record_number(stored.id), leaf_record(stored)
            if index is not None and record is not None:
                leaves[index] = record.leaf
        return dict(sorted(leaves.items()))

    async def _judge(self, id: str, stored: Stored | None, leaves: dict[int, bytes]) -> _Verdict:
        newest = self._account.newest(id)
        standing, since = _history(leaves)
        if newest is not None and (
            newest not in leaves
            or (newest == max(leaves) and not self._account.stands(id, standing))
        ):
            return _Verdict(
                ACT_ALTERED,
                f"a leaf about certificate {id} is not found by its act, as leaf {newest} shows",
                newest,
            )
        first = next(iter(leaves), None)
        if stored is None:
            if first is None:
                return _Verdict()
            return _Verdict(
                CERTIFICATE_MISSING, f"certificate {id} is not in the ledger; leaf {first}", first
            )
        try:
            record = Record(stored)
            if record.state is State.intended:
                if first is None:
                    return _Verdict()
                return _Verdict(
                    CERTIFICATE_ALTERED,
                    f"certificate {id} is only intended; leaf {first} says more",
                    first,
                )
            return await self._judge_issued(record, leaves, standing, since)
        except (Broken, Rejected, KeyError, TypeError, ValueError, AttributeError) as error:
            return _Verdict(CERTIFICATE_ALTERED, f"certificate {id} cannot be read: {error}", first)

    async def _judge_issued(
        self, record: Record, leaves: dict[int, bytes], standing: Standing, since: int | None
    ) -> _Verdict:
        id, body = record.stored.id, record.stored.body
        what = VOID if record.state is State.void else ISSUE
        own = encode(act_of(record))
        ends = {i: leaf for i, leaf in leaves.items() if _what(leaf) in (ISSUE, VOID)}
        unfinished = False
        if not ends:
            if leaves or integer_of(body.get("sequence", 0)) <= self._logged:
                return _Verdict(CERTIFICATE_UNLOGGED, f"no leaf tells of certificate {id}")
            unfinished = True  # the next start writes it
        for index, leaf in ends.items():
            if leaf == own:
                continue
            octets = record.tbs_certificate if what == VOID else record.certificate
            same = _what(leaf) == what and sha256(octets).hexdigest().encode() in leaf
            detail = "who, when or as what is not" if same else "these octets are not"
            return _Verdict(
                CERTIFICATE_ALTERED, f"certificate {id}: {detail} what leaf {index} says", index
            )
        now = _standing(body)
        pending = cast("Document | None", body.get("pending"))
        if pending is not None:
            act = cast(bytes, pending["act"])
            told = told_by(act)
            logged = next((index for index, leaf in leaves.items() if leaf == act), None)
            before = [leaf for index, leaf in leaves.items() if index != logged]
            earlier, _ = _history(dict(enumerate(before)))
            later = standing if logged is not None else told and earlier.after(told)
            if (
                told is None
                or told.document != id
                or (logged is not None and logged != max(leaves))
                or _standing_of(pending["revocation"]) != later
            ):
                return _Verdict(
                    STATUS_ALTERED,
                    f"certificate {id}: what is to become of it is not what its act says",
                    since,
                )
            standing, unfinished = earlier, True
        if now.number != standing.number:
            code = STATUS_ALTERED if GOOD in (now.number, standing.number) else REASON_ALTERED
            return _Verdict(code, f"certificate {id} is {now}; {_by(since)} {standing}", since)
        if now.since != standing.since:
            return _Verdict(
                REVOCATION_TIME_ALTERED,
                f"certificate {id} is {now} since another time than {_by(since)}",
                since,
            )
        if now.number != GOOD and not await self._is_listed(record.stored):
            return _Verdict(
                CRL_ENTRY_ALTERED,
                f"certificate {id} is {now}, but what CRLs are made from does not say so",
                since,
            )
        return _Verdict(unfinished=unfinished)

    async def _is_listed(self, stored: Stored) -> bool:
        """Whether CRLs list a certificate that is revoked or on hold, just so and for as long."""
        body, record = stored.body, Record(stored)
        status = record.status
        fields = crl_fields(body, status, record.changed_at)
        if any(body.get(name) != value for name, value in fields.items()):
            return False
        try:
            ends = parse_certificate(record.certificate).not_after
        except Failure:
            ends = record.not_after  # its hash is in the log
        if int(ends.timestamp()) != fields["crl_until"]:
            return False
        compromised = isinstance(status, Revoked) and status.reason in COMPROMISE
        if compromised and body.get("compromised_key") != body.get("key_hash"):
            return False
        place = [fields["crl_part"], fields["crl_serial"], record.sequence]
        place += [fields["crl_until"], fields["crl_entry"]]
        found = await self._store.find(
            CERTIFICATES, "crl_serial", cast("list[str | int | bytes]", place), limit=1
        )
        return [one.id for one in found] == [stored.id]


def _history(leaves: dict[int, bytes]) -> tuple[Standing, int | None]:
    """What the leaves about a certificate make of its status, and the last that did."""
    standing, last = Standing(), None
    for index, leaf in leaves.items():
        told = told_by(leaf)
        if told is not None and told.what not in (ISSUE, VOID):
            standing, last = standing.after(told), index
    return standing, last


def _standing(body: Document) -> Standing:
    return _standing_of(body.get("revocation"))


def _standing_of(revocation: object) -> Standing:
    if revocation is None:
        return Standing()
    kept = cast(Document, revocation)
    seconds, rest = divmod(integer_of(kept["at"]), 1_000_000)
    return Standing(integer_of(kept["reason"]) + 1, -1 if rest else seconds)


def _what(leaf: bytes) -> str | None:
    told = told_by(leaf)
    return None if told is None else told.what


def _by(leaf: int | None) -> str:
    return "no leaf says so; it is" if leaf is None else f"leaf {leaf} says"
