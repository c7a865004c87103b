"""Follows a status feed from another host, without the CA's key or database.

Every frame is verified before anything of it is used, and written down before the place that it
leads to is; so whatever is cut off, the next connection goes on from there, and nothing is lost or
counts twice. What is known is good as of the last heartbeat, never later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec

from infra.clock import Clock
from infra.errors import Failure, Rejected, Unavailable
from ocsp.feed import NAME, VERSION, Authorities, Changes, Continuation, Frame, Heartbeat, Void
from ocsp.feed_progress import NEVER, Progress
from ocsp.feed_wire import FEED_PATH, MEDIA_TYPE, RESPONDER_PATH, FeedKey, Frames, open_frame
from ocsp.tree_head import TreeHead
from pki.algorithms import algorithm_of, verify
from pki.certificate import Certificate, parse_certificate
from pki.export import encode_pem
from pki.issuer import Issuer
from pki.request import parse_request
from pki.status import Good, Revoked

OTHER_HISTORY: Final = frozenset({"feed-ahead", "feed-forked"})
"""Codes by which a follower ends: the feed does not go on from what was followed."""

_MAX_ANSWER: Final = 128 * 1024  # octets of an answer that is no feed
_READ_BUFFER: Final = 256 * 1024

_JITTER: Final = secrets.SystemRandom().random

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where statuses are kept: a status table and its writer."""

    applied: int
    """The sequence number up to which everything is in it, 0 at first."""

    head: TreeHead
    """The CA's log that tells of all that may be in it, ``NO_LEAVES`` at first. Whenever this
    process dies, it is the last that was set or the one before, and set before what came later."""

    def issuer(self, name: str, /, *, complete: bool) -> object:
        """Make room for a CA; ``complete``: it will know every certificate that was issued."""

    def put_many(self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]], /) -> object:
        """Keep the statuses of these serial numbers; once more does no harm."""

    def set_horizon(self, issuer: str, known_at: datetime, until: datetime | None, /) -> object:
        """See ``ocsp.source.Horizon``."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a follower is, in seconds.

    ``connect``: until there is a connection; ``silence``: until the next frame is whole;
    ``first`` and ``most``: until it tries again, doubled each time it fails.
    """

    connect: float = 5.0
    silence: float = 5.0
    first: float = 0.1
    most: float = 10.0


@dataclass(frozen=True, slots=True)
class Origin:
    """The private port of a CA's instance, and how to be let in there.

    ``url``: https, or http to this machine; ``token``: a follower's; ``ca_file``: PEM of the CAs
    that may vouch for its certificate, None for those of the system.
    """

    url: str
    token: str
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
        except ValueError as error:
            raise Rejected("feed-url", f"{self.url!r} is no URL") from error
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise Rejected("feed-url", f"{self.url!r} is not like https://ca.example:8080")
        if parts.scheme == "http" and not _is_loopback(host):
            raise Rejected("feed-url", f"{host} is another machine: its URL has to be https")
        if not (self.token.isascii() and self.token.isprintable() and self.token):
            raise Rejected("feed-token", "a follower's token is a line of ASCII characters")

    @asynccontextmanager
    async def session(self, timing: Timing) -> AsyncIterator[aiohttp.ClientSession]:
        """Connections to it. Errors: ``feed-ca-file``."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Rejected("feed-ca-file", f"{self.ca_file} cannot be used: {error}") from error
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=timing.connect, sock_read=timing.silence
            ),
            headers={"Authorization": f"Bearer {self.token}"},
            read_bufsize=_READ_BUFFER,
            auto_decompress=False,
        ) as session:
            yield session

    def __repr__(self) -> str:
        return f"Origin({self.url!r})"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Follower:
    """Keeps ``sink`` equal to what the feed says.

    ``key_info``: the SubjectPublicKeyInfo that the feed must be signed by, DER; ``name``: the
    feed's; ``on_authorities``: called with the CAs at first and whenever they have changed, must
    not block; ``jitter``: draws from 0 to 1. Errors: ``feed-key``.
    """

    def __init__(
        self,
        origin: Origin,
        key_info: bytes,
        sink: Sink,
        clock: Clock,
        *,
        name: str = NAME,
        on_authorities: Callable[[Sequence[Issuer]], None] = lambda issuers: None,
        timing: Timing = Timing(),
        jitter: Callable[[], float] = _JITTER,
    ) -> None:
        self._origin = origin
        self._key = FeedKey.of(key_info)
        self._sink = sink
        self._clock = clock
        self._name = name
        self._on_authorities = on_authorities
        self._timing = timing
        self._jitter = jitter
        self._progress = Progress(sink.applied, sink.head)
        self._known_at = NEVER
        self.issuers: tuple[Issuer, ...] = ()
        self.failing: Failure | None = None
        """Why nothing comes, None while it does."""

    @property
    def applied(self) -> int:
        """The sequence number up to which everything is written down."""
        return self._progress.upto

    @property
    def behind(self) -> int:
        """How many sequence numbers are still to come, of those that the feed told of."""
        return self._progress.newest - self._progress.upto

    def lag(self, now: datetime) -> float:
        """Seconds since the last moment at which all was known; infinite before the first."""
        if self._known_at is NEVER:
            return math.inf
        return max(0.0, (now - self._known_at).total_seconds())

    async def run(self) -> None:
        """Follow until cancelled, connecting again whenever the feed is cut.

        Errors: ``feed-ahead`` when the feed, or whoever answers in its place, says that it knows
        less than this follower; ``feed-forked`` when it proves to have another history than the one
        that was followed. Then this has to begin again at 0 and ``NO_LEAVES``; what to make of
        what the sink knows is its owner's to decide.
        """
        tries = 0
        while True:
            known_at = self._known_at
            try:
                await self._follow()
            except Failure as failure:
                if failure.code in OTHER_HISTORY and isinstance(failure, Rejected):
                    self.failing = failure
                    raise
                if self.failing is None or self.failing.code != failure.code:
                    _log.warning("the status feed is cut: %s", failure)
                self.failing = failure
            tries = 0 if self._known_at > known_at else tries + 1
            most = min(self._timing.most, self._timing.first * 2.0 ** min(tries, 30))
            # Half of it by chance, so that followers of a CA that was away do not come together.
            await asyncio.sleep(most * (1.0 + self._jitter()) / 2)

    async def _follow(self) -> None:
        """One connection, until it is cut: always by a ``Failure``."""
        url = f"{self._origin.url.rstrip('/')}{FEED_PATH}"
        progress = self._progress
        known = {"version": VERSION, "after": progress.upto, "log": progress.head.size}
        async with (
            _mapped(),
            self._origin.session(self._timing) as session,
            session.get(url, params=known, allow_redirects=False) as response,
        ):
            if response.status != 200 or response.content_type != MEDIA_TYPE:
                raise await _refusal(response)
            self._progress = self._progress.reconnected()
            frames = Frames()
            while True:
                # Single octets that trickle in are no frame: the time is that of a whole one.
                async with asyncio.timeout(self._timing.silence):
                    arrived = 0
                    while not arrived:
                        data = await response.content.readany()
                        if not data:
                            raise Unavailable("feed-cut", "the CA's instance ended the feed")
                        for signed in frames.feed(data):
                            self._apply(open_frame(signed, self._key, self._name))
                            arrived += 1
                            await asyncio.sleep(0)  # whoever asks for a status waits for one frame

    def _apply(self, frame: Frame) -> None:
        now = self._clock.now()
        progress = self._progress.advance(frame, now)
        match frame:
            case Authorities():
                if frame.issuers != self.issuers:
                    for issuer in frame.issuers:
                        self._sink.issuer(issuer.name, complete=True)
                    self.issuers = frame.issuers
                    self._on_authorities(frame.issuers)
            case Continuation():
                # First, so that whatever is in the sink is known to be of this log.
                if self._sink.head != frame.head:
                    if self._sink.applied and not self._sink.head.size:
                        _log.warning("which log the CA has is known from here on, not from before")
                    self._sink.head = frame.head
            case Changes():
                self._write(frame, progress.issuers)
                self._sink.applied = frame.upto
            case Heartbeat():
                # RFC 6960 §4.2.2.1: what is known is not of the future, whatever the CA's clock.
                known_at = min(frame.at, now)
                for issuer in progress.issuers:
                    self._sink.set_horizon(issuer.name, known_at, None)
                self._known_at = known_at
                if self.failing is not None:
                    _log.info("the status feed goes on, at %d", frame.upto)
                    self.failing = None
        self._progress = progress

    def _write(self, frame: Changes, issuers: Sequence[Issuer]) -> None:
        statuses: dict[int, list[tuple[int, Good | Revoked]]] = {}
        for entry in frame.entries:
            # What is void was never issued, and so was never here: there is nothing to remove.
            if not isinstance(entry.status, Void):
                statuses.setdefault(entry.authority, []).append((entry.serial, entry.status))
        for authority, known in statuses.items():
            self._sink.put_many(issuers[authority].name, known)


async def enrol(
    origin: Origin, issuer: Issuer, request: bytes, *, timing: Timing = Timing()
) -> Certificate:
    """The certificate of this responder's key, from the CA ``issuer``; asked for again in time, it
    is a new one.

    ``request``: PKCS#10 in DER, the same names and extensions each time. What comes back was
    checked: it is for this key, and signed by that CA. Errors: ``feed-bad-certificate``, what the
    CA refuses, and those of a connection (``feed-unreachable`` …).
    """
    path = RESPONDER_PATH.format(ca=quote(issuer.name, safe=""))
    body = {"csr": encode_pem("CERTIFICATE REQUEST", request).decode()}
    async with (
        _mapped(),
        origin.session(timing) as session,
        asyncio.timeout(4 * timing.silence),
        session.post(
            f"{origin.url.rstrip('/')}{path}", json=body, allow_redirects=False
        ) as response,
    ):
        if response.status != 200:
            raise await _refusal(response)
        content = await _limited(response)
    try:
        answer = msgspec.json.decode(content, type=_Enrolled)
        certificate = parse_certificate(answer.certificate.encode())
        verify(
            algorithm_of(certificate.algorithm),
            issuer.public_key_info,
            certificate.signature,
            certificate.tbs,
        )
        if certificate.public_key_info != parse_request(request).public_key_info:
            raise Rejected("other-key", "it is for another key")
    except (msgspec.MsgspecError, UnicodeDecodeError, Rejected) as error:
        raise Rejected(
            "feed-bad-certificate",
            f"what CA {issuer.name} sent is no certificate of its for this key: {error}",
        ) from error
    return certificate


class _Enrolled(msgspec.Struct):
    certificate: str


class _Problem(msgspec.Struct):
    code: str
    detail: str = ""


@asynccontextmanager
async def _mapped() -> AsyncIterator[None]:
    """aiohttp's failures as ours."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise Unavailable(
            "feed-tls", f"the certificate of {error.host} is not trusted: {error.certificate_error}"
        ) from error
    except aiohttp.ClientSSLError as error:
        raise Unavailable("feed-tls", f"there is no TLS with {error.host}: {error}") from error
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Unavailable("feed-unreachable", f"the CA's instance: {error}") from error
    except TimeoutError as error:
        raise Unavailable("feed-silent", "the CA's instance has said nothing for long") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable("feed-cut", f"the connection to the CA's instance: {error}") from error


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _MAX_ANSWER:
            raise Rejected("feed-too-large", "the CA's instance sends too large an answer")
    return bytes(content)


async def _refusal(response: aiohttp.ClientResponse) -> Failure:
    """What an answer other than the expected one stands for (RFC 9457)."""
    problem = _Problem("feed-refused", f"it answered {response.status}, and no feed")
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        problem = msgspec.json.decode(await _limited(response), type=_Problem)
    detail = f"the CA's instance: {problem.detail}"
    if response.status == 401:
        detail = (
            "the CA's instance does not know this follower's token: it was withdrawn or is "
            "another; `digitalid ocsp follower add` there makes one, for feed.token here"
        )
    if response.status in (429, 500, 502, 503, 504):
        return Unavailable(problem.code, detail)
    return Rejected(problem.code, detail)
