"""CRLs over HTTP (RFC 5280 §4.2.1.13, RFC 2585): the current one, and any earlier by its number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Final, Protocol

from aiohttp import web

from crl.issuer import IssuedCrl
from infra.clock import Clock
from infra.errors import Rejected
from infra.http.document import Served, answer
from infra.http.problems import Statuses
from pki.export import encode_pem

MEDIA_TYPE: Final = "application/pkix-crl"  # RFC 2585 §4.2
PEM_MEDIA_TYPE: Final = "application/x-pem-file"
STATUSES: Final[Statuses] = {"no-such-ca": 404, "no-such-crl": 404, "bad-crl-number": 400}

_FOR_EVER: Final = "public, no-transform, immutable, max-age=31536000"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


class Publisher(Protocol):
    """Where the CRLs of one CA are found."""

    def current(self) -> IssuedCrl: ...

    async def by_number(self, number: int) -> IssuedCrl: ...


def crl_routes(
    publishers: Mapping[str, Publisher], clock: Clock, *, max_age: timedelta | None = None
) -> list[web.RouteDef]:
    """``GET`` and ``HEAD`` for ``/crl/CA.crl`` and ``/crl/CA/NUMBER.crl``; ``.pem`` for PEM.

    ``publishers``: by the short name of the CA, looked up at each request; ``max_age``: how long
    caches may keep the current CRL, at most until its nextUpdate, which is also the default.
    Errors: ``no-such-ca``, ``no-such-crl``, ``bad-crl-number``, ``Unavailable("no-crl-yet")``.
    """

    def publisher(request: web.Request) -> Publisher:
        name = request.match_info["ca"]
        found = publishers.get(name)
        if found is None:
            raise Rejected("no-such-ca", f"no CA of the name {name!r} has its CRLs here")
        return found

    async def current(request: web.Request) -> web.Response:
        number = request.query.get("number")
        if number is not None:
            return await one_of(request, number)
        crl = publisher(request).current()
        left = max(crl.next_update - clock.now(), timedelta(0))
        keep = int(min(left, left if max_age is None else max_age).total_seconds())
        control = f"public, no-transform, must-revalidate, max-age={keep}"
        return answer(request, served(crl, request.match_info["form"], control, expires=True))

    async def by_number(request: web.Request) -> web.Response:
        return await one_of(request, request.match_info["number"])

    async def one_of(request: web.Request, number: str) -> web.Response:
        if not _NUMBER.fullmatch(number):
            raise Rejected("bad-crl-number", "a CRL number is 1 to 18 decimal digits")
        crl = await publisher(request).by_number(int(number))
        return answer(request, served(crl, request.match_info["form"], _FOR_EVER))

    # ``get`` answers HEAD, too.
    return [
        web.get("/crl/{ca:[^/.]+}.{form:crl|pem}", current),
        web.get("/crl/{ca:[^/.]+}/{number:[^/.]+}.{form:crl|pem}", by_number),
    ]


def served(crl: IssuedCrl, form: str, cache_control: str, *, expires: bool = False) -> Served:
    """A CRL as it goes out; ``form``: ``crl`` for DER, ``pem`` for PEM."""
    digest = crl.sha256.hex()
    return Served(
        body=to_pem(crl.der) if form == "pem" else crl.der,
        media_type=PEM_MEDIA_TYPE if form == "pem" else MEDIA_TYPE,
        etag=f"{digest}-pem" if form == "pem" else digest,
        last_modified=crl.this_update,
        cache_control=cache_control,
        expires=crl.next_update if expires else None,
    )


@lru_cache(maxsize=4)
def to_pem(crl: bytes) -> bytes:
    """A CRL as RFC 7468 §6 writes it; kept, so that asking again costs nothing."""
    return encode_pem("X509 CRL", crl)
