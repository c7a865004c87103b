"""Issuance before aiohttp: its one request that comes in great numbers."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from cli.service import api
from cli.service.from_settings import limits
from infra.errors import Rejected, Unavailable
from infra.http.app import private_answer
from infra.http.auth import Callers
from infra.http.front import Front, Request
from infra.http.problems import problem_of
from pki.api import BASE, MAX_BODY, Api

if TYPE_CHECKING:
    from cli.service.parts import Instance

_PATH = f"{BASE}/certificates"


def issuing_front(instance: Instance, callers: Callers) -> Front:
    """Answers ``POST /certificates``; every other request is the application's."""
    issued, count = Api(instance).issued, instance.metrics.count

    async def issue(request: Request) -> bytes:
        started = perf_counter()
        status = 500
        try:
            who = callers.owner(request.transport)
            if who is None:
                shown = request.head.field(b"authorization") or b""
                bearer = callers.bearer(shown.decode("latin-1"))
                if bearer.scope is not None:
                    raise bearer.refusal()
                who = bearer.who
            if len(request.body) > MAX_BODY:
                raise Rejected("request-too-large", f"a request here has at most {MAX_BODY} octets")
            if request.head.field(b"content-encoding") is not None:
                raise Rejected("unsupported-media-type", "a request here is not compressed")
            body = await issued(request.body, who)
            status = 201
            return private_answer(status, "application/json", body, request.transport)
        except (Rejected, Unavailable) as failure:
            status = problem_of(failure, api.STATUSES).status
            raise
        finally:
            count("application", _PATH, status, perf_counter() - started)

    prefixes = (f"POST {_PATH} ".encode(),)
    return Front(issue, prefixes, limits=limits(instance.settings, MAX_BODY), statuses=api.STATUSES)
