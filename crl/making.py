"""One CRL from its entries to a signed file that was read back: what needs key and certificate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from crl.assembly import Unsigned, close_with, sync, write_tbs
from crl.blocks import Layout, new_layout
from crl.check import Checked, Expected, check, message, sample
from crl.contents import Contents
from crl.encode import TbsCertList, frame, parse_crl
from crl.history import END_OF_TIME, Kind
from crl.scope import Scope, extensions, require_scope
from infra.errors import Broken, Rejected, Unavailable
from infra.state import unusable
from pki.algorithms import algorithm_of, verify
from pki.findings import Finding, Severity, explain
from pki.issuer import Issuer
from pki.signer.port import Signer

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def no_checkpoint(step: str) -> None:
    """Between any two steps nothing happens; a test puts a crash here."""


class CrlLinter(Protocol):
    """Finds what pkilint finds."""

    async def crl(self, der: bytes) -> tuple[Finding, ...]: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """What a CRL is to say: ``base`` for a delta; ``expired_since`` if it is to tell how long
    expired certificates stay."""

    kind: Kind
    number: int
    base: int | None
    this_update: datetime
    next_update: datetime
    expired_since: datetime | None
    contents: Contents

    @property
    def final(self) -> bool:
        """Whether none follows it."""
        return self.next_update == END_OF_TIME


@dataclass(frozen=True, slots=True)
class Adopted:
    """A CRL that was signed elsewhere, read and verified; ``tbs``: what its signature covers."""

    number: int
    this_update: datetime
    next_update: datetime
    count: int
    tbs: TbsCertList


class Maker:
    """Makes CRLs of a scope in the name of ``issuer``; without ``signer`` it only reads them."""

    def __init__(
        self,
        scope: Scope,
        issuer: Issuer,
        signer: Signer | None,
        *,
        linter: CrlLinter | None = None,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        """Errors: ``Broken("wrong-crl-key")``."""
        if signer is not None and signer.public_key_info != issuer.public_key_info:
            raise Broken("wrong-crl-key", f"{signer.uri} is not the key of CA {issuer.name}")
        self._scope = scope
        self._issuer = issuer
        self._signer = signer
        self._linter = linter
        self._checkpoint = checkpoint

    @property
    def signer(self) -> Signer:
        """The key. Errors: ``no-crl-key``."""
        if self._signer is None:
            raise Rejected(
                "no-crl-key",
                f"the key of CA {self._issuer.name} is not here; sign its CRL where it is kept",
            )
        return self._signer

    async def write(self, part: Path, draft: Draft) -> Unsigned:
        """Write all of it but the signature. Errors: ``storage-…``, ``Damaged``."""
        algorithm = self.signer.algorithm
        head, tail = frame(
            issuer=self._issuer.subject,
            algorithm=algorithm.identifier,
            this_update=draft.this_update,
            next_update=draft.next_update,
            entries_size=draft.contents.plan.size,
            extensions=extensions(
                self._scope,
                key_identifier=self._issuer.key_identifier,
                number=draft.number,
                base=draft.base,
                expired_since=draft.expired_since,
                final=draft.final,
            ),
        )
        return await on_disk(part, write_tbs, part, head, draft.contents.plan, tail, algorithm)

    async def finish(self, unsigned: Unsigned, draft: Draft) -> tuple[Checked, Layout]:
        """Sign it, sync it, and read it back as another program would.

        Errors: ``Broken("crl-check")``; those of the signer; ``storage-…``; ``Damaged``.
        """
        part, algorithm = unsigned.path, self.signer.algorithm
        signature = await self._sign(unsigned)
        self._checkpoint("signed")
        closed = await on_disk(part, close_with, unsigned, algorithm, signature)
        self._checkpoint("closed")
        syncing = asyncio.create_task(on_disk(part, sync, part))
        try:
            checked = await self._check(part, self._expected(draft))
        finally:
            await syncing
        self._checkpoint("checked")
        blocks = draft.contents.plan.blocks
        return checked, new_layout(self._scope.name, draft.number, closed.entries_start, blocks)

    def read(self, octets: bytes) -> Adopted:
        """A full CRL of this scope that was signed elsewhere.

        Errors: ``bad-crl``, ``bad-der``, ``crl-too-large``, ``bad-signature``,
        ``unknown-algorithm``, ``wrong-crl-issuer``, ``wrong-crl-scope``.
        """
        read = parse_crl(octets)
        tbs = read.tbs
        if tbs.issuer != self._issuer.subject or (
            tbs.key_identifier != self._issuer.key_identifier
        ):
            raise Rejected("wrong-crl-issuer", f"this is no CRL of CA {self._issuer.name}")
        verify(algorithm_of(read.algorithm), self._issuer.public_key_info, read.signature, tbs.der)
        require_scope(self._scope, tbs.extensions)
        return Adopted(tbs.number, tbs.this_update, tbs.next_update, read.count, tbs)

    def _expected(self, draft: Draft) -> Expected:
        contents = draft.contents
        return Expected(
            scope=self._scope,
            issuer=self._issuer,
            algorithm=self.signer.algorithm,
            number=draft.number,
            base=draft.base,
            this_update=draft.this_update,
            next_update=draft.next_update,
            count=contents.plan.count,
            blocks=[(placed.block, placed.fresh) for placed in contents.plan.blocks],
            changes=contents.changes,
        )

    async def _sign(self, unsigned: Unsigned) -> bytes:
        if unsigned.digest:
            return await self.signer.sign_digest(unsigned.digest)
        end = unsigned.tbs_start + unsigned.tbs_size
        with unsigned.path.open("rb") as file, message(file, unsigned.tbs_start, end) as octets:
            return await self.signer.sign(octets)

    async def _check(self, part: Path, expected: Expected) -> Checked:
        checked = await on_disk(part, check, part, expected)
        if self._linter is not None:
            few = await on_disk(part, sample, part, expected)
            try:
                findings = await self._linter.crl(few)
            except Unavailable as error:  # revocations must not wait for a linter
                _log.warning("CRL %d was not linted: %s", expected.number, error)
                return checked
            errors = [one for one in findings if one.severity is Severity.ERROR]
            if errors:
                raise Broken("crl-check", f"pkilint objects to the CRL: {explain(errors)}")
        return checked


async def on_disk(path: Path, work: Callable[..., _Result], *arguments: object) -> _Result:
    """Run this on a thread; what the disk says of ``path`` becomes ours."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        raise unusable(path, error) from error


def intent_of(draft: Draft | Adopted, tbs_hash: bytes) -> Mapping[str, object]:
    """What is written down of a CRL before it is signed or taken over."""
    delta = draft.base if isinstance(draft, Draft) else None
    count = draft.contents.plan.count if isinstance(draft, Draft) else draft.count
    return {
        "kind": (Kind.full if delta is None else Kind.delta).value,
        "base": delta,
        "tbs_hash": tbs_hash,
        "this_update": int(draft.this_update.timestamp()),
        "next_update": int(draft.next_update.timestamp()),
        "count": count,
    }
