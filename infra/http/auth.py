"""Who calls: the owner of the state through its socket, or the bearer of a token.

The operator's token is good for everything. Besides it there are named tokens of narrow scope,
files in a folder, of which one can be added or taken away while the server runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from infra.errors import Rejected
from infra.secrets import read_token
from infra.state import check_folder, kept_secret

WHO: Final = web.RequestKey("who", str)
"""The caller's name, in a request that was let in."""

HOLDS: Final = web.RequestKey[Callable[[], bool]]("holds")
"""Whether the token of a request still counts, for answers that take long."""

RECHECK: Final = 1.0
"""Seconds that a folder of tokens is believed to be as it was."""

_NAME: Final = re.compile(r"[a-z0-9-]{1,32}")
_SUFFIX: Final = ".token"

_Seen: TypeAlias = tuple[tuple[str, int, int, int], ...]

_log = logging.getLogger(__name__)


class TokenFolder:
    """Tokens by name: ``NAME.token`` in a folder, each readable by its owner alone.

    ``monotonic``: a clock in seconds. A file counts, or counts no more, within ``RECHECK``.
    """

    def __init__(self, folder: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._monotonic = monotonic
        self._checked = float("-inf")
        self._seen: _Seen = ()
        self._exposed = ""  # why the folder does not count
        self._digests: dict[str, bytes] = {}

    def make(self, name: str) -> str:
        """The token of this name, made if need be. Errors: ``bad-token-name``, those of
        ``infra.state.kept_secret``."""
        if not _NAME.fullmatch(name):
            raise Rejected(
                "bad-token-name", f"{name!r} is no name of a token: 1 to 32 of a-z, 0-9 and -"
            )
        return kept_secret(self._folder / f"{name}{_SUFFIX}")

    def owner(self, digest: bytes) -> str | None:
        """Whose token has this SHA-256; takes the same time whichever it is."""
        self._refresh()
        found = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def holds(self, name: str, digest: bytes) -> bool:
        """Whether the token with this SHA-256 is still that of ``name``."""
        return self.owner(digest) == name

    def _refresh(self) -> None:
        now = self._monotonic()
        if now - self._checked < RECHECK:
            return
        self._checked = now
        try:
            seen = _listing(self._folder)
            self._exposed = ""
        except Rejected as rejected:
            if self._exposed != str(rejected):
                self._exposed = str(rejected)
                _log.warning("tokens that do not count: %s", rejected)
            seen = ()
        if seen == self._seen:
            return
        self._seen, self._digests = seen, {}
        for name, *_ in seen:
            try:
                token = read_token(self._folder / f"{name}{_SUFFIX}")
            except Rejected as rejected:
                _log.warning("a token that does not count: %s", rejected)
            else:
                self._digests[name] = hashlib.sha256(token.encode()).digest()


def _listing(folder: Path) -> _Seen:
    """Name, time, size and inode of each token: another file is another listing. Errors:
    ``state-exposed``."""
    found = []
    try:
        check_folder(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.removesuffix(_SUFFIX)
                if name != entry.name and _NAME.fullmatch(name):
                    about = entry.stat()
                    found.append((name, about.st_mtime_ns, about.st_size, about.st_ino))
    except OSError:
        return ()  # no folder, no tokens; and what cannot be read lets nobody in
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Scope:
    """Callers who may do little.

    ``kind``: what they are called before their name, as in ``follower:NAME``; ``may``: methods
    with the paths of the routes that they may take, as these were added.
    """

    kind: str
    tokens: TokenFolder
    may: frozenset[tuple[str, str]]


def authenticate(
    token: str, *, open_paths: frozenset[str] = frozenset(), scopes: Sequence[Scope] = ()
) -> Middleware:
    """Middleware that puts the caller's name into ``request[WHO]``, or refuses.

    ``token``: the operator's, which TCP callers show as a bearer token; ``open_paths``: paths that
    anybody may read; ``scopes``: whose tokens are good for some routes. A caller on a Unix socket
    is known by its user id (SO_PEERCRED) and must be root or the user that this process runs as.
    A token of a scope adds ``request[HOLDS]``. Errors: ``not-authenticated``, ``not-allowed``.
    """
    callers = Callers(token, scopes)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        owner = callers.owner(request.transport)
        if owner is not None:
            request[WHO] = owner
        elif request.path not in open_paths:
            # RFC 9110 §5.3: of several fields, as of one with a comma, no part counts.
            bearer = callers.bearer(", ".join(request.headers.getall("Authorization", ())))
            resource = request.match_info.route.resource
            if bearer.scope is not None and (
                resource is None or (request.method, resource.canonical) not in bearer.scope.may
            ):
                raise bearer.refusal()
            request[WHO] = bearer.who
            request[HOLDS] = bearer.holds
        return await handler(request)

    return check


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever showed a token. ``scope``: None for the operator; ``holds``: whether the token still
    counts."""

    who: str
    scope: Scope | None = None
    holds: Callable[[], bool] = lambda: True

    def refusal(self) -> Rejected:
        """What somebody of a scope is told where that does not reach."""
        kind = "operator" if self.scope is None else self.scope.kind
        return Rejected("not-allowed", f"this token is a {kind}'s, who may not do this")


class Callers:
    """Knows callers by their socket or their token; see ``authenticate``."""

    def __init__(self, token: str, scopes: Sequence[Scope] = ()) -> None:
        self._expected = hashlib.sha256(token.encode()).digest()
        self._scopes = scopes

    def owner(self, transport: asyncio.BaseTransport | None) -> str | None:
        """The caller on a Unix socket; None on any other. Errors: ``not-allowed``."""
        connection = None if transport is None else transport.get_extra_info("socket")
        if connection is None or connection.family != socket.AF_UNIX:
            return None
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        _, uid, _ = struct.unpack("3i", credentials)
        if uid not in (0, os.getuid()):
            raise Rejected("not-allowed", "this socket belongs to another user")
        return f"uid:{uid}"

    def bearer(self, authorization: str) -> Bearer:
        """The bearer of the token in an Authorization field. Errors: ``not-authenticated``."""
        scheme, _, shown = authorization.partition(" ")
        shown = shown.strip()
        digest = hashlib.sha256(shown.encode(errors="surrogateescape")).digest()
        if scheme.lower() == "bearer" and shown:  # whatever is kept, an empty token is nobody's
            if hmac.compare_digest(digest, self._expected):
                return Bearer("token:operator")
            for scope in self._scopes:
                name = scope.tokens.owner(digest)
                if name is not None:
                    holds = partial(scope.tokens.holds, name, digest)
                    return Bearer(f"{scope.kind}:{name}", scope, holds)
        raise _not_authenticated()


def _not_authenticated() -> Rejected:
    return Rejected(
        "not-authenticated",
        "send the operator's token: Authorization: Bearer …; it is in secrets/operator.token of "
        "the home folder",
    )
