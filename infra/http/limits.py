"""How much a client may send, and how long it may take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from infra.errors import Rejected


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server puts up with.

    ``line``: octets of the request line, and of one header field; ``fields``: header fields;
    ``body``: octets of a body that a handler does not limit itself; ``wait``: seconds from the
    connection's start, or from the last answer, until a request's header is whole; ``read``:
    seconds until its body is; ``unread``: seconds that answers may wait for a client to take
    them; ``connections``: open at once; ``per_address``: of these, from one address, 0 for no
    limit of its own (a ``Front`` counts them); ``stop``: seconds that requests under way have to
    end.
    """

    line: int = 8190
    fields: int = 64
    body: int = 1024 * 1024
    wait: float = 30.0
    read: float = 20.0
    unread: float = 60.0
    connections: int = 4096
    per_address: int = 0
    stop: float = 10.0


LIMITS: web.AppKey[Limits] = web.AppKey("limits", Limits)


async def read_body(request: web.Request, limit: int | None = None) -> bytes:
    """The body of a request.

    ``limit``: octets, the app's own limit when not given. Errors: ``request-too-large`` (413) as
    soon as it is known, ``request-timeout`` (408), ``request-cut-short``.
    """
    limits = request.config_dict.get(LIMITS, Limits())
    most = limits.body if limit is None else limit
    if (request.content_length or 0) > most:
        raise _too_large(most)
    chunks = bytearray()
    try:
        if request.content.is_eof():  # it came with its header: there is nothing to wait for
            whole = request.content.read_nowait()
            if len(whole) > most:
                raise _too_large(most)
            return whole
        async with asyncio.timeout(limits.read):
            async for chunk in request.content.iter_any():
                chunks += chunk
                if len(chunks) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise Rejected(
            "request-timeout", f"the request was not complete after {limits.read:g} s"
        ) from error
    except web.RequestPayloadError as error:
        raise Rejected("request-cut-short", "the body is not what its header promised") from error
    return bytes(chunks)


def _too_large(most: int) -> Rejected:
    return Rejected("request-too-large", f"a request here has at most {most} octets")
