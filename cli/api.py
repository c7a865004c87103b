"""The application on the private port: the engine's API, CRLs on demand, health and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from cli.metrics import Metrics
from cli.page import front_page
from crl.http import to_pem
from crl.issuer import CrlIssuer, IssuedCrl
from infra.errors import Rejected
from infra.http.problems import Statuses
from ocsp.feed import NAME as FEED_NAME
from ocsp.feed_wire import FEED_PATH
from pki.api import BASE, Api, moment
from pki.export import encode_pem

if TYPE_CHECKING:
    from cli.parts import Instance

OPEN_PATHS: Final = frozenset({"/", f"{BASE}/health", "/metrics"})
"""What anybody who reaches the port may read: it holds no personal data and changes nothing."""

STATUSES: Final[Statuses] = {
    "not-authenticated": 401,
    "not-allowed": 403,
    "profile-reserved": 403,
    "no-such-authority": 404,
    "no-such-certificate": 404,
    "no-such-crl": 404,
    "unknown-profile": 404,
    "already-revoked": 409,
    "already-on-hold": 409,
    "not-on-hold": 409,
    "key-reused": 409,
    "key-compromised": 409,
    "request-id-reused": 409,
}


def routes(instance: Instance, metrics: Metrics) -> list[web.RouteDef]:
    """Everything on the private port, for ``web.Application.add_routes``."""

    async def health(request: web.Request) -> web.Response:
        sequence = await instance.ledger.sequence()
        failing = {
            name: schedule.failing
            for name, schedule in instance.schedules.items()
            if schedule.failing is not None
        }
        document = {
            "status": "failing" if failing else "ok",
            "version": instance.version,
            "sequence": sequence,
            "log_size": instance.log.size,
            "crl_failing": failing,
        }
        return _json(document, status=503 if failing else 200)

    async def show_crl(request: web.Request) -> web.Response:
        return _json(_crl_view(_issuer(instance, request).current()))

    async def issue_crl(request: web.Request) -> web.Response:
        return _json(_crl_view(await _issuer(instance, request).issue()), status=201)

    async def show_feed_key(request: web.Request) -> web.Response:
        if not instance.issuers:
            raise Rejected("no-such-authority", "there is no CA yet; run `digitalid init`")
        signer = await instance.hierarchy.feed_key()
        pem = encode_pem("PUBLIC KEY", signer.public_key_info).decode()
        return _json({"name": FEED_NAME, "key": pem})

    async def front(request: web.Request) -> web.Response:
        return await front_page(instance)

    async def expose(request: web.Request) -> web.Response:
        ocsp = None if instance.ocsp is None else await instance.ocsp.measure()
        return web.Response(body=metrics.exposition(ocsp), content_type="text/plain")

    return [
        *Api(instance).routes(),
        web.get(f"{BASE}/health", health),
        web.get(f"{BASE}/authorities/{{name}}/crl", show_crl),
        web.post(f"{BASE}/authorities/{{name}}/crl", issue_crl),
        web.get(f"{FEED_PATH}/key", show_feed_key),
        web.get("/metrics", expose),
        web.get("/", front),
    ]


def _issuer(instance: Instance, request: web.Request) -> CrlIssuer:
    name = request.match_info["name"]
    issuer = instance.crls.get(name)
    if issuer is None:
        raise Rejected("no-such-authority", f"there is no CA {name!r} here")
    return issuer


def _crl_view(crl: IssuedCrl) -> dict[str, Any]:
    return {
        "ca": crl.issuer,
        "number": crl.number,
        "this_update": moment(crl.this_update),
        "next_update": moment(crl.next_update),
        "entries": crl.count,
        "size": len(crl.der),
        "sha256": crl.sha256.hex(),
        "sequence": crl.sequence,
        "pem": to_pem(crl.der).decode(),
    }


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )
