"""The stored checkpoints, as far as their signatures are good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from infra.errors import Rejected
from infra.store.port import Store
from pki.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from pki.log.evidence import CHECKPOINT_ALTERED, CHECKPOINT_MISSING
from pki.log.records import CHECKPOINTS, checkpoint_record, record_number


async def signed_heads(
    store: Store, origin: str, keys: Sequence[VerifierKey], find: Callable[[str, str], None]
) -> AsyncIterator[Checkpoint]:
    """The checkpoints that one of ``keys`` signed for this log, in order of their number.

    ``find``: told the code and detail of whatever is missing or not as it was written.
    """
    following = 0
    async for stored in store.scan(CHECKPOINTS):
        number = record_number(stored.id)
        if number is None or number < following:
            find(CHECKPOINT_ALTERED, f"the document {stored.id!r} is no checkpoint")
            continue
        if number > following:
            find(CHECKPOINT_MISSING, f"checkpoints {following} to {number - 1} are missing")
        following = number + 1
        record = checkpoint_record(stored)
        try:
            if record is None:
                raise Rejected("bad-checkpoint", "it cannot be read")
            head = open_checkpoint(record.note, keys)
            if (record.number, record.size, record.root) != (number, head.size, head.root):
                raise Rejected("bad-checkpoint", "it does not say what was signed")
            if head.origin != origin:
                raise Rejected("bad-checkpoint", f"it is one of {head.origin}")
        except Rejected as why:
            find(CHECKPOINT_ALTERED, f"checkpoint {number}: {why.detail}")
            continue
        yield head
