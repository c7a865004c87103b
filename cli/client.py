"""The instance's API over its admin socket: JSON in, JSON out, its errors as ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote

import aiohttp

from infra.errors import Broken, Failure, Rejected, Unavailable

Reply: TypeAlias = dict[str, Any]
"""A JSON object as the instance sent it; ``docs/cli.md`` lists the shapes."""

CONNECT_TIMEOUT: Final = 5.0
ANSWER_TIMEOUT: Final = 120.0
MAX_REPLY: Final = 256 << 20
MAX_LINE: Final = 1 << 20


class ApiClient:
    """Talks to one instance; a context manager.

    ``socket``: path of the admin socket, at most 107 octets. Every method raises ``Rejected``
    where the instance answers 4xx, ``Unavailable`` for 429, 502, 503, 504, a time-out and a lost
    connection, and ``Broken`` for other answers of 5xx and whatever is not this API.
    """

    def __init__(self, socket: str, *, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self._socket = socket
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT, sock_read=answer_timeout
        )
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            "http://instance",
            connector=aiohttp.UnixConnector(self._socket),
            timeout=self._timeout,
            headers={"Accept": "application/json, application/problem+json"},
            read_bufsize=MAX_LINE,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def get(self, path: str, query: Mapping[str, str | None] | None = None) -> Reply:
        """GET ``/api/v1`` + ``path``; parts of ``query`` that are None are left out."""
        return await self._call("GET", path, query, None)

    async def post(
        self,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str | None] | None = None,
    ) -> Reply:
        """POST a JSON object to ``/api/v1`` + ``path``; parts of ``body`` that are None are left
        out."""
        return await self._call("POST", path, query, body or {})

    async def lines(
        self, path: str, body: Mapping[str, object] | None = None
    ) -> AsyncIterator[Reply]:
        """POST a JSON object to ``/api/v1`` + ``path`` and yield each line of its NDJSON answer as
        it comes."""
        try:
            async with self._session.post(f"/api/v1{path}", json=body or {}) as response:
                if response.status >= 400:
                    raise _failure(response, await _limited(response))
                async for line in response.content:
                    if line.strip():
                        yield _object(line, response.status)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _lost(error) from error

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the client is used outside of its context")
        return self._http

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None,
        body: Mapping[str, object] | None,
    ) -> Reply:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        sent = None
        if body is not None:
            sent = {name: value for name, value in body.items() if value is not None}
        try:
            async with self._session.request(
                method, f"/api/v1{path}", params=asked, json=sent
            ) as response:
                content = await _limited(response)
                if response.status >= 400:
                    raise _failure(response, content)
                return _object(content, response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _lost(error) from error


def segment(text: str) -> str:
    """A part of a path, whatever characters it holds. Errors: ``Rejected("bad-name")`` for what
    would be no part but a step through the path (RFC 3986 §5.2.4)."""
    if text in ("", ".", ".."):
        raise Rejected("bad-name", f"{text!r} is no name")
    return quote(text, safe="")


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_REPLY:
            raise Broken("bad-reply", f"the instance's answer is larger than {MAX_REPLY} octets")
    return bytes(content)


def _object(content: bytes, status: int) -> Reply:
    with suppress(ValueError, RecursionError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    raise Broken("bad-reply", f"the instance answered {status} with something other than JSON")


def _failure(response: aiohttp.ClientResponse, content: bytes) -> Failure:
    """What a problem document (RFC 9457) with the member ``code`` stands for."""
    status = response.status
    code, detail = "bad-reply", f"the instance answered {status} without a problem document"
    with suppress(ValueError, RecursionError):
        problem = json.loads(content)
        if isinstance(problem, dict) and isinstance(problem.get("code"), str):
            code = problem["code"]
            detail = str(problem.get("detail") or problem.get("title") or response.reason)
            if isinstance(problem.get("incident"), str):
                detail += f" (the instance's incident {problem['incident']})"
    if status in (429, 502, 503, 504):
        return Unavailable(code, detail, retry_after=_retry_after(response))
    return Rejected(code, detail) if status < 500 else Broken(code, detail)


def _retry_after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 5.0


def _lost(error: Exception) -> Failure:
    if isinstance(error, asyncio.TimeoutError):
        return Unavailable(
            "instance-silent",
            "the instance did not answer in time; what was asked may yet be done: look before you "
            "repeat it, or repeat it with the same --request-id",
        )
    return Unavailable(
        "instance-lost",
        "the connection to the instance broke; what was asked may yet be done: look before you "
        "repeat it, or repeat it with the same --request-id",
    )
