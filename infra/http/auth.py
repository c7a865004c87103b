"""Who calls: the owner of the state through its socket, or the bearer of the operator's token."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from infra.errors import Rejected


def authenticate(token: str, *, open_paths: frozenset[str] = frozenset()) -> Middleware:
    """Middleware that puts the caller's name into ``request["who"]``, or refuses.

    ``token``: the bearer token that TCP callers show; ``open_paths``: paths that anybody may read.
    A caller on a Unix socket is known by its user id (SO_PEERCRED) and must be root or the user
    that this process runs as. Errors: ``not-authenticated``, ``not-allowed``.
    """
    expected = hashlib.sha256(token.encode()).digest()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        uid = _peer(request)
        if uid is not None:
            if uid not in (0, os.getuid()):
                raise Rejected("not-allowed", "this socket belongs to another user")
            request["who"] = f"uid:{uid}"
        elif request.path not in open_paths:
            scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
            given = hashlib.sha256(shown.strip().encode()).digest()
            if scheme.lower() != "bearer" or not hmac.compare_digest(given, expected):
                raise Rejected(
                    "not-authenticated",
                    "send the operator's token: Authorization: Bearer …; it is in "
                    "secrets/operator.token of the state folder",
                )
            request["who"] = "token:operator"
        return await handler(request)

    return check


def _peer(request: web.Request) -> int | None:
    transport = request.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
