"""CRLs as they are kept: a file each, named by its number, and a document that says what it is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from crl.assembly import CHUNK
from crl.blocks import Damaged, Layout, encode_layout, parse_layout
from infra.errors import Broken, Failure, Rejected
from infra.state import sync_folder, unusable
from infra.store.port import Collection, Document, Index, Store, Stored

CRL_RECORDS: Final = Collection(
    "crl_records",
    (
        Index("number", ("scope", "number"), unique=True),
        Index("state", ("scope", "state", "number")),
        Index("files", ("scope", "file")),
    ),
)


class State(StrEnum):
    """How far a CRL has come."""

    intended = "intended"
    complete = "complete"
    published = "published"
    void = "void"


class Kind(StrEnum):
    """Whether a CRL says everything or only what changed."""

    full = "full"
    delta = "delta"


@dataclass(frozen=True, slots=True)
class Publication:
    """A CRL that is complete: where it is and what it says.

    ``base``: the number of the full CRL that a delta starts from; ``sequence``: it shows every
    change of the ledger up to this one; ``cutoff``: the full one after it leaves out certificates
    that ended before, seconds since 1970; ``dropped_before``, ``sequence_before``: ``cutoff`` and
    ``sequence`` of the full one before it; ``sha256``, ``size``: of the file; ``layout``: SHA-256
    of its layout, so that nobody can alter what the next one is made from; ``coverage``: that of
    its scope, None if it was not kept.
    """

    scope: str
    number: int
    kind: Kind
    base: int | None
    this_update: datetime
    next_update: datetime
    sequence: int
    cutoff: int
    dropped_before: int
    sequence_before: int
    count: int
    sha256: bytes
    size: int
    layout: bytes | None
    path: Path
    coverage: bytes | None = None

    @property
    def final(self) -> bool:
        """Whether none follows it (RFC 5280 §5.1.2.5 with the end of all time)."""
        return self.next_update == END_OF_TIME

    def read(self) -> bytes:
        """All of it, for a short one. Errors: ``crl-file-missing``."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise _missing(self.path) from error


_NUMBER: Final = re.compile(r"[1-9][0-9]{0,48}")  # RFC 5280 §5.2.3: at most 20 octets

END_OF_TIME: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 §4.1.2.5


class History:
    """The CRLs of one scope, in a folder of their own."""

    def __init__(self, store: Store, folder: Path, scope: str) -> None:
        self._store = store
        self.folder = self._folder = folder / scope
        self._scope = scope

    def prepare(self) -> None:
        """Make the folder, and sweep what was left half written. Errors: ``storage-…``."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._folder.glob(".*"):
                left.unlink()
        except OSError as error:
            raise unusable(self._folder, error) from error

    def part(self, what: str) -> Path:
        """A name for a file that is being written; ``prepare`` removes it when we crash."""
        path = self._folder / f".{os.getpid()}.{what}"
        path.unlink(missing_ok=True)
        return path

    def path(self, number: int) -> Path:
        """Where the CRL of this number is."""
        return self._folder / f"{number}.crl"

    def keep(self, part: Path, number: int, layout: Layout | None) -> bytes | None:
        """Give a file that is whole and synced its name, its layout before it. Returns the SHA-256
        of the layout. Errors: ``OSError``."""
        checksum = None
        if layout is not None:
            beside = self.part(f"{number}.layout")
            encoded = encode_layout(layout)
            checksum = hashlib.sha256(encoded).digest()
            with beside.open("xb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self._layout(number))
        part.rename(self.path(number))
        sync_folder(self._folder)
        return checksum

    def layout(self, number: int, sha256: bytes | None) -> Layout:
        """Where the blocks of a full CRL are; ``sha256``: of its octets, as the store knows it.
        Errors: ``Damaged``."""
        try:
            octets = self._layout(number).read_bytes()
        except OSError as error:
            raise Damaged(f"CRL {number} of {self._scope} has no layout: {error.strerror}") from (
                error
            )
        if sha256 is not None and hashlib.sha256(octets).digest() != sha256:
            raise Damaged(f"the layout of CRL {number} of {self._scope} was altered")
        return parse_layout(octets, self._scope, number)

    def newest_file(self) -> int:
        """The greatest number of a CRL in the folder, whatever the store says; 0 for none."""
        names = [path.stem for path in self._folder.glob("*.crl")]
        return max((int(name) for name in names if _NUMBER.fullmatch(name)), default=0)

    def discard(self, number: int) -> None:
        """Remove the files of a CRL that is not wanted any more."""
        try:
            self._layout(number).unlink(missing_ok=True)
            self.path(number).unlink(missing_ok=True)
        except OSError as error:
            raise unusable(self._folder, error) from error

    # Documents

    async def intend(self, number: int, body: Mapping[str, object]) -> Stored:
        """Write down what is about to be signed."""
        document: Document = {
            "scope": self._scope,
            "number": number,
            "state": State.intended.value,
            **body,  # type: ignore[dict-item]
        }
        return await self._store.insert(CRL_RECORDS, self.id(number), document)

    async def become(self, stored: Stored, state: State, **more: object) -> Stored:
        """Note how far a CRL has come."""
        body: Document = stored.body | {"state": state.value} | more  # type: ignore[assignment]
        body["file"] = integer(stored, "number") if state is not State.void else None
        return await self._store.replace(CRL_RECORDS, stored, body)

    async def find(self, number: int) -> Stored | None:
        """The document of this number."""
        return await self._store.get(CRL_RECORDS, self.id(number)) if number >= 0 else None

    async def in_state(self, state: State) -> list[Stored]:
        """Documents that have come so far, by number."""
        return await self._store.find(CRL_RECORDS, "state", (self._scope, state.value))

    async def latest(self, *, limit: int, before: int | None = None) -> list[Stored]:
        """Documents of all states, newest first; ``before``: only those of smaller numbers."""
        return await self._store.find(
            CRL_RECORDS, "number", (self._scope,), high=before, reverse=True, limit=limit
        )

    async def publication(self, number: int) -> Publication:
        """A CRL that was published. Errors: ``no-such-crl``, ``crl-not-kept``."""
        stored = await self.find(number)
        if stored is None or stored.body["state"] != State.published:
            raise Rejected("no-such-crl", f"{self._scope} never published CRL {number}")
        if stored.body.get("file") is None:
            raise Rejected("crl-not-kept", f"CRL {number} of {self._scope} is not kept any more")
        return self.described(stored)

    def described(self, stored: Stored) -> Publication:
        """A document that is at least complete, as a value."""
        base = stored.body["base"]
        digest, layout = stored.body["sha256"], stored.body["layout"]
        coverage = stored.body.get("coverage")
        if (
            not isinstance(digest, bytes)
            or not (base is None or isinstance(base, int))
            or not (layout is None or isinstance(layout, bytes))
            or not (coverage is None or isinstance(coverage, bytes))
        ):
            raise corrupt(stored)
        number = integer(stored, "number")
        return Publication(
            scope=self._scope,
            number=number,
            kind=Kind(str(stored.body["kind"])),
            base=base,
            this_update=datetime.fromtimestamp(integer(stored, "this_update"), UTC),
            next_update=datetime.fromtimestamp(integer(stored, "next_update"), UTC),
            sequence=integer(stored, "sequence"),
            cutoff=integer(stored, "cutoff"),
            dropped_before=integer(stored, "dropped_before"),
            sequence_before=integer(stored, "sequence_before"),
            count=integer(stored, "count"),
            sha256=digest,
            size=integer(stored, "size"),
            layout=layout,
            path=self.path(number),
            coverage=coverage,
        )

    async def prune(self, now: datetime, *, count: int, age: timedelta, wanted: set[int]) -> None:
        """Remove files, but for the newest ``count``, those younger than ``age`` and ``wanted``;
        their documents stay."""
        there = await self._store.find(CRL_RECORDS, "files", (self._scope,), limit=10_000)
        for stored in there[: max(len(there) - count, 0)]:
            number = integer(stored, "number")
            young = integer(stored, "this_update") > (now - age).timestamp()
            if number in wanted or young or stored.body["state"] != State.published:
                continue
            self.discard(number)
            await self._store.replace(CRL_RECORDS, stored, stored.body | {"file": None})

    def verify_file(self, publication: Publication) -> None:
        """Whether the file is what was kept. Errors: ``Broken("crl-file-damaged")``,
        ``Broken("crl-file-missing")``."""
        whole = hashlib.sha256()
        try:
            with publication.path.open("rb", buffering=0) as file:
                while octets := file.read(CHUNK):
                    whole.update(octets)
        except OSError as error:
            raise _missing(publication.path) from error
        if whole.digest() != publication.sha256:
            raise Broken("crl-file-damaged", f"{publication.path} is not what was put there")

    def id(self, number: int) -> str:
        """The id of a CRL's document."""
        return f"{self._scope}/{number:020}"

    def _layout(self, number: int) -> Path:
        return self._folder / f"{number}.layout"


def integer(stored: Stored, field: str) -> int:
    """A number in a document."""
    value = stored.body[field]
    if not isinstance(value, int):
        raise corrupt(stored)
    return value


def corrupt(stored: Stored) -> Broken:
    """A document that is none of ours."""
    return Broken("storage-corrupt", f"crl_records: {stored.id} does not hold what was put there")


def _missing(path: Path) -> Failure:
    return Broken("crl-file-missing", f"{path} cannot be read; issue a new CRL")
