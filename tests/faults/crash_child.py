"""Runs one act on a state folder and dies by SIGKILL at the step that it is told; for the tests
beside it. ``python crash_child.py HOME STEP ACT ARGUMENT…``; ``STEP:3`` is its third time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.compose import running
from conf.load import load
from infra.store.port import Collection, New, Replacement
from infra.store.sqlite import SqliteStore
from pki.authority import Application
from pki.mass_revocation import Order, Query
from pki.serial import parse_serial
from pki.status import RevocationReason


async def die_after_the_documents(
    store: SqliteStore, changes: Sequence[tuple[Collection, New | Replacement]]
) -> None:
    """What may be left of a write where a crash can cut it: documents without their leaves."""
    for collection, change in changes:
        if isinstance(change, Replacement):
            await store.replace(collection, change.before, change.body, change.events)
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            await store.insert(collection, change.id, change.body, change.events)


async def main(home: Path, fatal: str, act: str, *arguments: str) -> None:
    fatal, _, times = fatal.partition(":")
    left = int(times or 1)

    def step(name: str) -> None:
        nonlocal left
        left -= name == fatal
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    if fatal == "kept":
        setattr(SqliteStore, "write", die_after_the_documents)  # noqa: B010
    settings = load(home, {}, {}).settings
    async with running(settings, create=act == "init", serving=False, step=step) as instance:
        if act == "issue":
            request, request_id = arguments
            authority = instance.hierarchy.authority("issuing")
            record = await authority.issue(
                Application(
                    profile="citizen-authentication",
                    request=Path(request).read_bytes(),
                    by="test",
                    request_id=request_id or None,
                )
            )
            sys.stdout.write(record.certificate.hex())
        if act == "revoke":
            await instance.ledger.revoke(
                "issuing", parse_serial(arguments[0]), reason=RevocationReason.superseded, by="test"
            )
            sys.stdout.write("revoked")
        if act == "revoke-many":
            order = Order(RevocationReason.superseded, None, arguments[0])
            query = Query(profile="citizen-authentication")
            job = await instance.mass_revocation.begin(query, order)
            while not (await instance.mass_revocation.advance(job)).done:
                pass


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
