"""Failures as problem documents (RFC 9457).

One table from code to status, which each app extends with the codes that it knows; what is not in
it is 400. What this program did wrong is logged in full and shown as a code and an incident id.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from infra.errors import Broken, Failure, Rejected, Unavailable

MEDIA_TYPE: Final = "application/problem+json"

Statuses: TypeAlias = Mapping[str, int]
"""HTTP status by the code of a ``Rejected``."""

STATUSES: Final[Statuses] = MappingProxyType(
    {
        "not-found": 404,
        "method-not-allowed": 405,
        "request-timeout": 408,
        "conflict": 409,
        "duplicate": 409,
        "request-too-large": 413,
        "unsupported-media-type": 415,
    }
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told. ``incident``: how to find it in the log, when it is our fault;
    ``retry_after``: seconds, when trying again can help."""

    status: int
    code: str
    detail: str | None
    incident: str | None = None
    retry_after: int | None = None

    def response(self) -> web.Response:
        """The problem document; ``type`` is a relative reference that ends in the code."""
        members = {
            "type": f"/problems/{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "incident": self.incident,
        }
        headers = {"Cache-Control": "no-store"}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 §11.6.1, RFC 6750 §3
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return web.Response(
            status=self.status,
            body=json.dumps({k: v for k, v in members.items() if v is not None}).encode(),
            content_type=MEDIA_TYPE,
            headers=headers,
        )


def problem_of(failure: Failure, statuses: Statuses) -> Problem:
    """What to tell a client of this failure.

    A ``Broken`` tells its code and an incident id, under which the log has the rest.
    """
    match failure:
        case Unavailable():
            wait = max(1, math.ceil(failure.retry_after))
            return Problem(503, failure.code, failure.detail, retry_after=wait)
        case Rejected():
            status = statuses.get(failure.code) or STATUSES.get(failure.code, 400)
            return Problem(status, failure.code, failure.detail)
        case _:
            return incident(failure, failure.code if isinstance(failure, Broken) else "broken")


def incident(error: BaseException, code: str = "broken") -> Problem:
    """Log an error that is ours, whole, and make the little that a client is told of it."""
    number = secrets.token_hex(8)
    _log.error("incident %s: %s", number, code, exc_info=error, extra={"incident": number})
    return Problem(500, code, None, incident=number)


def problems(statuses: Statuses) -> Middleware:
    """A middleware that answers with a problem document whatever goes wrong below it."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Failure as failure:
            problem = problem_of(failure, statuses)
        except web.HTTPException as answer:
            if answer.status < 400:
                raise
            return _of_status(answer)
        except ConnectionError:
            raise  # the client is gone: there is nobody to tell
        except Exception as error:
            problem = incident(error)
        response = problem.response()
        if problem.status in (408, 413):
            # What is left of the request is not read, so nothing can follow it.
            response.force_close()
        return response

    return middleware


def _of_status(answer: web.HTTPException) -> web.StreamResponse:
    """aiohttp's own answers (no such route, wrong method, …) in the same form."""
    code = HTTPStatus(answer.status).phrase.lower().replace(" ", "-")
    response = Problem(answer.status, code, None).response()
    if isinstance(answer, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(answer.allowed_methods))
    return response
