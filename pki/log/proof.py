"""A proof that a certificate was logged, in one file that needs nothing else but the log's key."""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import Final

from infra.errors import Rejected
from pki.log.act import parse
from pki.log.checkpoint import parse_checkpoint, parse_note
from pki.log.log import Log

FORMAT: Final = "digitalid-log-proof/1"


async def prove(
    log: Log, act_id: str, certificate: bytes, checkpoint: bytes
) -> dict[str, str | int | list[str]]:
    """The proof, ready for JSON, that the act which made this certificate is in the log.

    ``certificate``: DER; ``checkpoint``: a note of this log, at least as new as the act. What the
    members mean and how to check them: ``docs/log.md``. Errors: ``Rejected`` with
    ``no-such-act``, ``certificate-differs``, ``checkpoint-too-old``, ``bad-note``,
    ``bad-checkpoint``.
    """
    head = parse_checkpoint(parse_note(checkpoint).text)
    if head.origin != log.origin:
        raise Rejected("bad-checkpoint", f"the checkpoint is one of {head.origin}")
    index = await log.find(act_id)
    if index is None:
        raise Rejected("no-such-act", f"the log holds no act {act_id}")
    if index >= head.size:
        raise Rejected(
            "checkpoint-too-old",
            f"the act is leaf {index}, the checkpoint covers {head.size}; make a new checkpoint",
        )
    leaf = await log.leaf(index)
    if parse(leaf).object_hash != sha256(certificate).digest():
        raise Rejected("certificate-differs", f"the act {act_id} is about another certificate")
    path = await log.inclusion(index, head.size)
    return {
        "format": FORMAT,
        "origin": head.origin,
        "certificate": base64.b64encode(certificate).decode(),
        "leaf": leaf.decode(),
        "index": index,
        "size": head.size,
        "path": [base64.b64encode(hash_).decode() for hash_ in path],
        "checkpoint": checkpoint.decode(),
    }
