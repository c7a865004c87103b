"""An act of the authority, as a leaf of the log: who did what, when, to which object.

The leaf is JSON in the canonical form of RFC 8785, so there is one encoding of an act and every
implementation of SHA-256 and JSON can check it. No personal data goes in: people are named by
their role account, objects by their hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from infra.errors import Rejected

LIMIT: Final = 4096
MAX_DETAILS: Final = 16
MAX_INTEGER: Final = 2**53 - 1  # RFC 8785 §3.2.2.3: beyond it, implementations disagree

_ID = re.compile(r"[!-~]{1,256}")
_WORD = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_OBJECT_HASH = re.compile(r"[0-9a-f]{64}")
_NO_OFFSET: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Act:
    """One act.

    ``id``: unique in the log and the same when the act is tried again, printable ASCII
    (``issue/issuing/0a1b``); ``what``: dotted (``certificate.issue``); ``who``: the account that
    answers for it (``operator:root``, ``system``); ``when``: UTC, to the microsecond;
    ``object_hash``: SHA-256 of the object, for a certificate of its DER, 32 octets; ``detail``:
    at most 16 facts about it, none of them personal.
    """

    id: str
    what: str
    who: str
    when: datetime
    object_hash: bytes
    detail: Mapping[str, str | int] = field(default_factory=dict)


class _Leaf(msgspec.Struct, forbid_unknown_fields=True):
    detail: dict[str, str | int]
    id: str
    object_hash: str
    what: str
    when: str
    who: str


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(_Leaf).decode


def encode(act: Act) -> bytes:
    """The leaf: JSON, keys sorted, no spaces, at most 4096 octets (RFC 8785).

    Errors: ``Rejected("bad-act")`` for what the log does not take.
    """
    when = act.when
    if when.utcoffset() != _NO_OFFSET:
        raise _bad("its time is not in UTC")
    if len(act.object_hash) != 32:
        raise _bad("its object hash is not 32 octets of SHA-256")
    if not (_ID.fullmatch(act.id) and _WORD.fullmatch(act.what) and _WORD.fullmatch(act.who)):
        raise _bad("its id, what or who is empty, too long or has characters outside the set")
    if len(act.detail) > MAX_DETAILS:
        raise _bad(f"it has more than {MAX_DETAILS} details")
    for name, value in act.detail.items():
        if not _NAME.fullmatch(name):
            raise _bad(f"{name!r} cannot name a detail; use a-z, 0-9 and _")
        if isinstance(value, bool) or (isinstance(value, int) and abs(value) > MAX_INTEGER):
            raise _bad(f"detail {name} is a boolean or an integer past 2^53 - 1; write it as text")
    try:
        leaf = _encode(
            {
                "detail": act.detail if type(act.detail) is dict else dict(act.detail),
                "id": act.id,
                "object_hash": act.object_hash.hex(),
                "what": act.what,
                "when": when.isoformat(timespec="microseconds")[:26] + "Z",
                "who": act.who,
            }
        )
    except UnicodeEncodeError as error:
        raise _bad("a detail holds half a surrogate pair") from error
    if len(leaf) > LIMIT:
        raise _bad(f"it takes {len(leaf)} octets, and a leaf at most {LIMIT}; shorten its details")
    return leaf


def parse(leaf: bytes) -> Act:
    """The act that a leaf holds. Errors: ``Rejected("bad-leaf")`` unless ``encode`` could have
    made exactly these octets."""
    if len(leaf) > LIMIT:
        raise Rejected("bad-leaf", f"a leaf has at most {LIMIT} octets")
    try:
        wire = _decode(leaf)
        if not (_WHEN.fullmatch(wire.when) and _OBJECT_HASH.fullmatch(wire.object_hash)):
            raise Rejected("bad-leaf", "its time or object hash is not written as the log does")
        act = Act(
            id=wire.id,
            what=wire.what,
            who=wire.who,
            when=datetime.fromisoformat(wire.when[:26]).replace(tzinfo=UTC),
            object_hash=bytes.fromhex(wire.object_hash),
            detail=wire.detail,
        )
        canonical = encode(act)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Rejected("bad-leaf", "it is not the JSON of an act") from error
    except Rejected as error:
        raise Rejected("bad-leaf", error.detail) from error
    if canonical != leaf:
        raise Rejected("bad-leaf", "it is not in canonical form (RFC 8785)")
    return act


def _bad(why: str) -> Rejected:
    return Rejected("bad-act", f"the act cannot be logged: {why}")
