"""What certificates point to, fetched over HTTP: with a limit and a time-out."""

from __future__ import annotations

import os
from typing import Final

import aiohttp

from infra.errors import Rejected, Unavailable

TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5, sock_read=10)
MAX_CRL: Final = 64 << 20
MAX_OCSP: Final = 1 << 20
MAX_CERTIFICATE: Final = 1 << 20


async def get(url: str, *, limit: int) -> bytes:
    """The body of what ``url`` names, at most ``limit`` octets. Errors: ``Rejected`` with
    ``bad-url``, ``bad-answer``, ``too-large``; ``Unavailable("not-reachable")``."""
    return await _fetch("GET", url, None, {}, limit)


async def ocsp(url: str, request: bytes) -> bytes:
    """What the OCSP responder at ``url`` answers to ``request`` (RFC 6960 A.1). Errors: those of
    ``get``."""
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    return await _fetch("POST", url, request, headers, MAX_OCSP)


async def _fetch(
    method: str, url: str, body: bytes | None, headers: dict[str, str], limit: int
) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise Rejected("bad-url", f"{url[:200]!r} is not fetched: only http and https are")
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT, auto_decompress=False) as session,
            # No redirects: a certificate's own URL is where the thing is, and no other host is
            # asked because somebody in between says so.
            session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            if response.status >= 500 or response.status == 429:
                raise Unavailable("not-reachable", f"{url} answers {response.status}")
            if response.status != 200:
                raise Rejected("bad-answer", f"{url} answers {response.status}, not 200")
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > limit:
                    raise Rejected("too-large", f"{url}: more than {limit} octets")
    except aiohttp.InvalidURL as error:
        raise Rejected("bad-url", f"{url[:200]!r} is not a URL") from error
    except aiohttp.ClientConnectorError as error:
        # asyncio puts the address where the reason should be; the number still tells.
        known = error.errno is not None and error.errno > 0
        why = os.strerror(error.errno or 0) if known else "the host is not known"
        raise Unavailable("not-reachable", f"{url}: cannot connect: {why}") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = str(error) or "no answer in time"
        raise Unavailable("not-reachable", f"{url}: {why}") from error
    return bytes(content)
