"""JSON in the body of a request."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from infra.errors import Rejected

_Body = TypeVar("_Body", bound=msgspec.Struct)


def decode(octets: bytes, kind: type[_Body]) -> _Body:
    """What the octets say, which are to be JSON of this kind. Errors: ``bad-body``."""
    try:
        return msgspec.json.decode(octets, type=kind)
    # Texts are looked at whether they are UTF-8 only when they are used.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("bad-body", f"the body is not the JSON that is expected: {error}") from error
