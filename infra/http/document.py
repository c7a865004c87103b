"""Octets that are served as they are: validators, conditions and ranges (RFC 9110 §13, §14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from aiohttp import web

from infra.http.long_file import FilePart, LongFile

_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class Served:
    """A document. ``body``: a long one stays in its file; ``etag``: a strong one, without its
    quotes; ``cache_control``: the header's value; ``expires``: when it should be fetched
    again at the latest, if that is known."""

    body: bytes | LongFile
    media_type: str
    etag: str
    last_modified: datetime
    cache_control: str
    expires: datetime | None = None


def answer(request: web.Request, document: Served) -> web.StreamResponse:
    """The answer to GET or HEAD: 200, 206, 304, 412 or 416, as the request's conditions say.

    Errors: what opening a long file raises.
    """
    etag = f'"{document.etag}"'
    headers = {
        "ETag": etag,
        "Last-Modified": _http_date(document.last_modified),
        "Cache-Control": document.cache_control,
    }
    if document.expires is not None:
        headers["Expires"] = _http_date(document.expires)
    if not _holds(request, document):
        return web.Response(status=412, headers=headers)
    if not _changed(request, document):
        return web.Response(status=304, headers=headers)
    headers["Accept-Ranges"] = "bytes"
    headers["Content-Type"] = document.media_type
    return _ranged(request, document, headers)


def _holds(request: web.Request, document: Served) -> bool:
    """If-Match and, without it, If-Unmodified-Since (§13.2.2 steps 1 and 2)."""
    if request.if_match is not None:
        return any(
            not tag.is_weak and tag.value in ("*", document.etag) for tag in request.if_match
        )
    since = request.if_unmodified_since
    return since is None or _second(document.last_modified) <= since


def _changed(request: web.Request, document: Served) -> bool:
    """If-None-Match and, without it, If-Modified-Since (§13.2.2 steps 3 and 4)."""
    if request.if_none_match is not None:
        return not any(tag.value in ("*", document.etag) for tag in request.if_none_match)
    since = request.if_modified_since
    return since is None or _second(document.last_modified) > since


def _ranged(
    request: web.Request, document: Served, headers: Mapping[str, str]
) -> web.StreamResponse:
    size = document.body.size if isinstance(document.body, LongFile) else len(document.body)
    # A server may ignore Range: several ranges and other units are (§14.2); it counts for GET.
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if found is None or found.group() == "bytes=-" or request.method != "GET":
        return _part(document, 0, size, headers)
    condition = request.headers.get("If-Range")
    if condition is not None and condition not in (
        f'"{document.etag}"',
        _http_date(document.last_modified),
    ):
        return _part(document, 0, size, headers)
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < int(first):
            return _part(document, 0, size, headers)
    if start >= stop:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    ranged = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return _part(document, start, stop, ranged, status=206)


def _part(
    document: Served, start: int, stop: int, headers: Mapping[str, str], *, status: int = 200
) -> web.StreamResponse:
    if isinstance(document.body, LongFile):
        return FilePart(document.body.open(), start, stop - start, status=status, headers=headers)
    return web.Response(status=status, body=document.body[start:stop], headers=headers)


def _second(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)


def _http_date(at: datetime) -> str:
    return format_datetime(_second(at), usegmt=True)
