"""The newest CRL of a scope as an earlier run left it, for whoever must know what it says before
its series is opened."""

from __future__ import annotations

import asyncio
from pathlib import Path

from crl.head import current_head
from crl.history import History, Kind, Publication, State
from infra.store.port import Store


async def newest_kept(store: Store, folder: Path, scope: str) -> Publication | None:
    """The full CRL that is current, or will be once the series is opened; None if there is none.

    ``folder``: that of all scopes. Errors: ``Broken`` with ``crl-file-damaged`` or
    ``crl-file-missing`` when its file is not what was put there.
    """
    head = await current_head(store, scope)
    history = History(store, folder, scope)
    stored = [await history.find(head.full)] if head.full else []
    if not head.ended:
        stored += await history.in_state(State.complete)
    kept = [history.described(one) for one in stored if one is not None]
    found = max(
        (one for one in kept if one.kind is Kind.full), key=lambda one: one.number, default=None
    )
    if found is not None:
        await asyncio.to_thread(history.verify_file, found)
    return found
