"""The application on the private port: the engine's API, CRLs on demand, health and metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from cli.backup.ledger import backup_routes
from cli.service import ending
from cli.service.ceremony_api import STATUSES as CEREMONY_STATUSES
from cli.service.ceremony_api import ceremony_routes
from cli.service.health import HEALTH, LIVE, OK, STATUS, health, live, status
from cli.service.metrics import Metrics
from cli.service.page import front_page
from crl.encode import MAX_CRL_SIZE
from crl.history import Kind, Publication, State, integer
from infra.errors import Rejected
from infra.http.body import decode
from infra.http.limits import read_body
from infra.http.problems import Statuses
from infra.store.port import Stored
from ocsp.feed import NAME as FEED_NAME
from ocsp.feed_wire import FEED_PATH
from pki.api import BASE, MAX_BODY, MAX_PAGE, Api, whole
from pki.directory.http import directory_routes
from pki.export import encode_pem
from pki.issuer import Issuer
from pki.mass_http import mass_routes
from pki.names import parse_name
from pki.views import moment

if TYPE_CHECKING:
    from cli.service.parts import Instance

OPEN_PATHS: Final = frozenset({"/", HEALTH, LIVE, "/metrics"})
"""What anybody who reaches the port may read: it holds no personal data and changes nothing."""

STATUSES: Final[Statuses] = {
    "not-authenticated": 401,
    "not-allowed": 403,
    "profile-reserved": 403,
    "profile-not-for-ca": 403,
    "no-such-authority": 404,
    "no-such-certificate": 404,
    "no-such-crl": 404,
    "no-such-directory": 404,
    "no-directory": 409,
    "no-delta-crls": 409,
    "crl-series-ended": 409,
    "crl-not-kept": 410,
    "crl-number-used": 409,
    "crl-differs": 409,
    "unknown-profile": 404,
    "already-revoked": 409,
    "already-on-hold": 409,
    "not-on-hold": 409,
    "key-reused": 409,
    "key-compromised": 409,
    "request-id-reused": 409,
    **CEREMONY_STATUSES,
}


class CrlBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /authorities/NAME/crl`` takes, or nothing for a full CRL."""

    kind: Kind = Kind.full
    final: bool = False


class ImportBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /authorities/NAME/crls`` takes: a CRL in DER, as base64."""

    crl: bytes


_MAX_IMPORT: Final = MAX_CRL_SIZE // 3 * 4 + 1024


def routes(instance: Instance, metrics: Metrics) -> list[web.RouteDef]:
    """Everything on the private port, for ``web.Application.add_routes``."""

    async def show_health(request: web.Request) -> web.Response:
        document = await health(instance)
        return _json(document, status=200 if document["status"] == OK else 503)

    async def show_status(request: web.Request) -> web.Response:
        return _json(await status(instance))

    async def show_crl(request: web.Request) -> web.Response:
        kind, number = request.query.get("kind", Kind.full.value), request.query.get("number")
        series = instance.crls.of(request.match_info["name"]).series
        if number is not None:
            return _json(_crl_view(await series.by_number(whole(number, 0, 2**62))))
        if kind not in [known.value for known in Kind]:
            raise Rejected("bad-crl-kind", f"{kind[:40]!r} is neither full nor delta")
        return _json(_crl_view(series.current(Kind(kind))))

    async def list_crls(request: web.Request) -> web.Response:
        limit = whole(request.query.get("limit", "100"), 1, MAX_PAGE)
        before = request.query.get("before")
        found = await instance.crls.of(request.match_info["name"]).series.latest(
            limit=limit, before=None if before is None else whole(before, 0, 2**62)
        )
        following = integer(found[-1], "number") if len(found) == limit else None
        return _json({"crls": [_history_view(stored) for stored in found], "next": following})

    async def issue_crl(request: web.Request) -> web.Response:
        body = await read_body(request, MAX_BODY)
        asked = decode(body, CrlBody) if body else CrlBody()
        if asked.final and asked.kind is Kind.delta:
            raise Rejected("bad-crl-kind", "a final CRL is a full one")
        name = request.match_info["name"]
        made = await instance.crls.issue(name, asked.kind, final=asked.final)
        return _json({"crls": [_crl_view(crl) for crl in made]}, status=201)

    async def import_crl(request: web.Request) -> web.Response:
        body = decode(await read_body(request, _MAX_IMPORT), ImportBody)
        name = request.match_info["name"]
        made = await instance.crls.of(name).series.adopt(body.crl)
        instance.hear_crl(name)
        return _json({"crl": _crl_view(made)}, status=201)

    async def crl_issuers(request: web.Request) -> web.Response:
        views = [_crl_issuer_view(issuer) for issuer in instance.crl_issuers.values()]
        return _json({"crl_issuers": views})

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
        directories = await instance.directories.standings()
        body = metrics.exposition(ocsp, directories, ending.of_instance(instance))
        return web.Response(body=body, content_type="text/plain")

    return [
        *Api(instance).routes(),
        *mass_routes(instance),
        *directory_routes(instance),
        *ceremony_routes(instance),
        *backup_routes(instance),
        web.get(HEALTH, show_health),
        web.get(LIVE, live),
        web.get(STATUS, show_status),
        web.get(f"{BASE}/authorities/{{name}}/crl", show_crl),
        web.post(f"{BASE}/authorities/{{name}}/crl", issue_crl),
        web.get(f"{BASE}/authorities/{{name}}/crls", list_crls),
        web.post(f"{BASE}/authorities/{{name}}/crls", import_crl),
        web.get(f"{BASE}/crl-issuers", crl_issuers),
        web.get(f"{FEED_PATH}/key", show_feed_key),
        web.get("/metrics", expose),
        web.get("/", front),
    ]


def _crl_issuer_view(issuer: Issuer) -> dict[str, Any]:
    return {
        "name": issuer.name,
        "subject": parse_name(issuer.subject).rfc4514(),
        "not_after": moment(issuer.not_after),
        "pem": encode_pem("CERTIFICATE", issuer.certificate).decode(),
        "chain": [encode_pem("CERTIFICATE", above).decode() for above in issuer.chain],
        "crl_url": issuer.crl_url,
        "certificate_url": issuer.certificate_url,
    }


def _crl_view(crl: Publication) -> dict[str, Any]:
    return {
        "ca": crl.scope,
        "kind": crl.kind.value,
        "number": crl.number,
        "base": crl.base,
        "this_update": moment(crl.this_update),
        "next_update": None if crl.final else moment(crl.next_update),
        "entries": crl.count,
        "size": crl.size,
        "sha256": crl.sha256.hex(),
        "sequence": crl.sequence,
        "file": str(crl.path),
    }


def _history_view(stored: Stored) -> dict[str, Any]:
    body, state = stored.body, str(stored.body["state"])
    size, digest = body.get("size"), body.get("sha256")
    return {
        "number": body["number"],
        "kind": body["kind"],
        "base": body["base"],
        "state": state,
        "why": body.get("why"),
        "this_update": moment(datetime.fromtimestamp(integer(stored, "this_update"), UTC)),
        "entries": body["count"],
        "size": size,
        "sha256": digest.hex() if isinstance(digest, bytes) else None,
        "kept": state == State.published and body.get("file") is not None,
    }


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )
