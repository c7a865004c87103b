"""OCSP over HTTP with aiohttp (RFC 6960 A.1, RFC 5019 §5 and §6).

The application is one of ``infra.http.app``, which keeps limits and writes no access log; the one
written here (``ocsp.access``) holds neither addresses nor what was asked.
"""

from __future__ import annotations

import logging
from email.utils import format_datetime
from hashlib import sha256
from time import perf_counter
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from infra.errors import Rejected
from infra.http.limits import read_body
from ocsp.request import MAX_REQUEST, request_in_path
from ocsp.responder import Answer, Freshness, Responder
from ocsp.response import ResponseStatus, error_response

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("ocsp.access")

_REQUEST_TYPE: Final = "application/ocsp-request"
_RESPONSE_TYPE: Final = "application/ocsp-response"


def routes(responder: Responder, path: str = "/ocsp") -> list[web.RouteDef]:
    """GET ``{path}/{base64}`` and POST ``path``, for ``web.Application.add_routes``.

    What is no OCSP request at all gets an HTTP error: 408, 413, 415.
    """

    async def get(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        # The raw path: a percent-encoded slash belongs to the base64, as does a plus sign.
        encoded = request.rel_url.raw_path.removeprefix(f"{path}/")
        try:
            asked = request_in_path(encoded)
        except Rejected as error:
            malformed = ResponseStatus.malformedRequest
            answer = Answer(error_response(malformed), malformed, error.code, None)
        else:
            answer = await _answer(responder, asked)
        return _respond(request, answer, started)

    async def post(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        if request.content_type != _REQUEST_TYPE or "Content-Encoding" in request.headers:
            raise web.HTTPUnsupportedMediaType
        body = await read_body(request, MAX_REQUEST)
        return _respond(request, await _answer(responder, body), started)

    return [
        web.get(f"{path}/{{request:.*}}", get, allow_head=False),
        web.post(path, post),
        web.post(f"{path}/", post),
    ]


async def _answer(responder: Responder, asked: bytes) -> Answer:
    try:
        return await responder.answer(asked)
    except Exception:
        # The application server would log the client's address with it.
        _log.exception("an OCSP request met a mistake in this program")
        status = ResponseStatus.internalError
        return Answer(error_response(status), status, "internal-error", None)


def _respond(request: web.Request, answer: Answer, started: float) -> web.Response:
    """An OCSP error is a good HTTP answer too (RFC 6960 A.2)."""
    freshness = answer.freshness
    if freshness is None:
        response = web.Response(body=answer.body, headers={"Cache-Control": "no-store"})
    else:
        tag = sha256(answer.body).hexdigest()
        headers = _caching(freshness, tag)
        if request.method == "GET" and _has(request, tag):
            response = web.Response(status=304, headers=headers)
        else:
            response = web.Response(body=answer.body, headers=headers)
    response.content_type = _RESPONSE_TYPE
    _log_access(request.method, response.status, answer.status.name, answer.code, started)
    return response


def _caching(freshness: Freshness, tag: str) -> CIMultiDict[str]:
    """Headers of RFC 5019 §6.2."""
    return CIMultiDict(
        {
            "Cache-Control": f"max-age={freshness.max_age}, public, no-transform, must-revalidate",
            "ETag": f'"{tag}"',
            "Last-Modified": format_datetime(freshness.this_update, usegmt=True),
            "Expires": format_datetime(freshness.next_update, usegmt=True),
        }
    )


def _has(request: web.Request, tag: str) -> bool:
    """Whether the client holds this very answer.

    If-Modified-Since is passed over: it counts in whole seconds, and a status may change twice
    in one (RFC 9110 §8.8.2.2).
    """
    held = request.if_none_match
    return held is not None and any(one.value in (tag, "*") for one in held)


def _log_access(method: str, http: int, ocsp: str, code: str, started: float) -> None:
    if _access_log.isEnabledFor(logging.INFO):
        took = (perf_counter() - started) * 1e6
        _access_log.info("%s %d %s %s %d us", method, http, ocsp, code or "-", took)
