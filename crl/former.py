"""CRLs that version 0.1 made: whole in the store, one series for each CA. None is added any more;
their numbers are not used again, and they stay reachable by them."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from crl.history import Kind, Publication, State, integer
from infra.errors import Broken, Rejected
from infra.state import unusable
from infra.store.port import Collection, Document, Index, Store, Stored

FORMER: Final = Collection("crls", (Index("number", ("issuer", "number"), unique=True),))
FORMER_OCTETS: Final = Collection("crl_octets")


async def former_crls(
    store: Store, issuer: str, *, limit: int, before: int | None = None
) -> list[Stored]:
    """Their documents as ``crl.history`` has them, newest first; ``before``: of smaller numbers."""
    found = await store.find(FORMER, "number", (issuer,), high=before, reverse=True, limit=limit)
    return [Stored(one.id, one.version, _as_now(one)) for one in found]


async def former_publication(store: Store, issuer: str, number: int, path: Path) -> Publication:
    """One of them, its octets put into the file ``path`` if they are not there.

    Errors: ``no-such-crl``, ``Broken("storage-corrupt")``, ``storage-…``.
    """
    found = await store.find(FORMER, "number", (issuer, number), limit=1)
    if not found or found[0].body["state"] != State.published:
        raise Rejected("no-such-crl", f"{issuer} never published CRL {number}")
    stored = found[0]
    kept = await store.get(FORMER_OCTETS, stored.id)
    octets, digest = kept.body["der"] if kept else None, stored.body["sha256"]
    if not isinstance(octets, bytes) or hashlib.sha256(octets).digest() != digest:
        raise Broken("storage-corrupt", f"crl_octets: {stored.id} is not what was put there")
    await asyncio.to_thread(_put, path, octets)
    return Publication(
        scope=issuer,
        number=number,
        kind=Kind.full,
        base=None,
        this_update=datetime.fromtimestamp(integer(stored, "this_update"), UTC),
        next_update=datetime.fromtimestamp(integer(stored, "next_update"), UTC),
        sequence=integer(stored, "sequence"),
        cutoff=0,
        dropped_before=0,
        sequence_before=0,
        count=integer(stored, "count"),
        sha256=hashlib.sha256(octets).digest(),
        size=len(octets),
        layout=None,
        path=path,
    )


def _as_now(stored: Stored) -> Document:
    body = {"kind": Kind.full.value, "base": None, "count": 0} | stored.body
    return body | {"file": body["number"] if body["state"] == State.published else None}


def _put(path: Path, octets: bytes) -> None:
    # Derived, so it need not survive power loss; whole or not there at all is enough.
    part = path.with_name(f".{path.name}.{id(octets):x}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size != len(octets):
            part.write_bytes(octets)
            part.rename(path)
    except OSError as error:
        raise unusable(path, error) from error
