"""A CRL that was made here and that the ledger does not know: that one is a copy from before.

The folder of a series outlives a ledger that is put back in place. Its numbers tell that relying
parties may have a newer CRL than the one that is served, and that revocations may be lost.
"""

from __future__ import annotations

import logging

from crl.head import Head
from crl.history import History
from crl.making import on_disk

_log = logging.getLogger(__name__)


async def newer_than(head: Head, history: History) -> int:
    """The greatest number in the folder, if the ledger never gave it out; else 0."""
    newest = await on_disk(history.folder, history.newest_file)
    if newest <= head.number:
        return 0
    _log.error(
        "crl-went-back: CRL %d is in %s, and the ledger knows none beyond %d: it is a copy from "
        "before. Revoke what it has lost, then make a new CRL with `digitalid crl issue`",
        newest,
        history.folder,
        head.number,
    )
    return newest
