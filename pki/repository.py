"""CA certificates over HTTP, where authority information access points (RFC 5280 §4.2.2.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from infra.errors import Rejected
from infra.http.document import Served, answer
from infra.http.problems import Statuses
from pki.export import encode_pkcs7
from pki.issuer import Issuer

CERTIFICATE_MEDIA_TYPE: Final = "application/pkix-cert"  # RFC 2585 §4.1
CHAIN_MEDIA_TYPE: Final = "application/pkcs7-mime; smime-type=certs-only"  # RFC 8551 §3.2.2
STATUSES: Final[Statuses] = {"no-such-ca": 404}

# A certificate does not change; a CA of the same name may get another one at its rollover.
_CACHE_CONTROL: Final = "public, no-transform, max-age=86400"


def repository_routes(issuers: Mapping[str, Issuer]) -> list[web.RouteDef]:
    """``GET`` and ``HEAD`` for ``/aia/CA.cer`` (DER) and ``/aia/CA.p7c`` (with its chain).

    ``issuers``: by short name, looked up at each request. Errors: ``no-such-ca``.
    """

    async def certificate(request: web.Request) -> web.StreamResponse:
        issuer = _issuer(issuers, request)
        return _answer(request, issuer, issuer.certificate, CERTIFICATE_MEDIA_TYPE)

    async def chain(request: web.Request) -> web.StreamResponse:
        issuer = _issuer(issuers, request)
        bundle = encode_pkcs7((issuer.certificate, *issuer.chain))
        return _answer(request, issuer, bundle, CHAIN_MEDIA_TYPE)

    return [
        web.get("/aia/{ca:[^/.]+}.cer", certificate),
        web.get("/aia/{ca:[^/.]+}.p7c", chain),
    ]


def _issuer(issuers: Mapping[str, Issuer], request: web.Request) -> Issuer:
    name = request.match_info["ca"]
    found = issuers.get(name)
    if found is None:
        raise Rejected("no-such-ca", f"no CA of the name {name!r} has its certificate here")
    return found


def _answer(
    request: web.Request, issuer: Issuer, body: bytes, media_type: str
) -> web.StreamResponse:
    document = Served(
        body=body,
        media_type=media_type,
        etag=hashlib.sha256(body).hexdigest(),
        last_modified=issuer.not_before,
        cache_control=_CACHE_CONTROL,
    )
    return answer(request, document)
