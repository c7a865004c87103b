"""CRLs over HTTP (RFC 5280 §4.2.1.13, RFC 2585): the current ones, and any earlier by its number.

DER is never compressed: it hardly shrinks, and a cache would keep it twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, Final, Protocol

from aiohttp import web

from crl.history import Kind, Publication
from infra.clock import Clock
from infra.errors import Rejected
from infra.http.document import Served, answer
from infra.http.long_file import LongFile
from infra.http.problems import Statuses
from pki.export import encode_pem

MEDIA_TYPE: Final = "application/pkix-crl"  # RFC 2585 §4.2
PEM_MEDIA_TYPE: Final = "application/x-pem-file"
STATUSES: Final[Statuses] = {
    "no-such-ca": 404,
    "no-such-crl": 404,
    "no-delta-crls": 404,
    "crl-not-kept": 410,
    "crl-too-long": 406,
    "bad-crl-number": 400,
}
DELTA: Final = "-delta"
"""What the name of a series ends with where its delta CRLs are meant."""

MAX_PEM: Final = 16 * 1024 * 1024
"""Octets up to which a CRL is written as PEM, which is done in memory."""

_SHORT: Final = 64 * 1024
_FOR_EVER: Final = "public, no-transform, immutable, max-age=31536000"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_NAME: Final = r"{ca:[^/.]+(?:\.(?:[0-9]{1,9}|ca|user))?(?:-delta)?}"


class Publisher(Protocol):
    """Where the CRLs of one scope are found."""

    def current(self, kind: Kind = ...) -> Publication: ...

    async def by_number(self, number: int) -> Publication: ...


def delta_url(url: str) -> str:
    """Where the delta CRLs of a series are found: ``…/issuing-delta.crl``."""
    return f"{url.removesuffix('.crl')}{DELTA}.crl"


def crl_routes(
    publishers: Mapping[str, Publisher], clock: Clock, *, max_age: timedelta | None = None
) -> list[web.RouteDef]:
    """``GET`` and ``HEAD`` for ``/crl/NAME.crl``, ``/crl/NAME-delta.crl`` and
    ``/crl/NAME/NUMBER.crl``; ``.pem`` for PEM.

    ``publishers``: by the name of the scope, looked up at each request; ``max_age``: how long
    caches may keep the current CRL, at most until its nextUpdate, which is also the default.
    Errors: those of ``STATUSES``, ``Unavailable("no-crl-yet")``.
    """

    def publisher(name: str) -> Publisher:
        found = publishers.get(name)
        if found is None:
            raise Rejected("no-such-ca", f"no CA of the name {name!r} has its CRLs here")
        return found

    async def current(request: web.Request) -> web.StreamResponse:
        name = request.match_info["ca"]
        number = request.query.get("number")
        if number is not None:
            return await one_of(request, number)
        if name not in publishers and name.endswith(DELTA):
            crl = publisher(name.removesuffix(DELTA)).current(Kind.delta)
        else:
            crl = publisher(name).current()
        left = max(crl.next_update - clock.now(), timedelta(0))
        keep = int(min(left, left if max_age is None else max_age).total_seconds())
        control = f"public, no-transform, must-revalidate, max-age={keep}"
        return answer(
            request, served(crl, request.match_info["form"], control, expires=not crl.final)
        )

    async def by_number(request: web.Request) -> web.StreamResponse:
        return await one_of(request, request.match_info["number"])

    async def one_of(request: web.Request, number: str) -> web.StreamResponse:
        if not _NUMBER.fullmatch(number):
            raise Rejected("bad-crl-number", "a CRL number is 1 to 18 decimal digits")
        crl = await publisher(request.match_info["ca"]).by_number(int(number))
        return answer(request, served(crl, request.match_info["form"], _FOR_EVER))

    # ``get`` answers HEAD, too.
    return [
        web.get(f"/crl/{_NAME}.{{form:crl|pem}}", current),
        web.get(f"/crl/{_NAME}/{{number:[^/.]+}}.{{form:crl|pem}}", by_number),
    ]


def served(crl: Publication, form: str, cache_control: str, *, expires: bool = False) -> Served:
    """A CRL as it goes out; ``form``: ``crl`` for DER, ``pem`` for PEM. Errors: ``crl-too-long``
    for PEM, ``crl-not-kept``."""
    digest = crl.sha256.hex()
    body: bytes | LongFile
    if form == "pem":
        body = to_pem(crl)
    elif crl.size <= _SHORT:
        body = _short(crl.path)
    else:
        body = LongFile(lambda: _open(crl.path), crl.size)
    return Served(
        body=body,
        media_type=PEM_MEDIA_TYPE if form == "pem" else MEDIA_TYPE,
        etag=f"{digest}-pem" if form == "pem" else digest,
        last_modified=crl.this_update,
        cache_control=cache_control,
        expires=crl.next_update if expires else None,
    )


def to_pem(crl: Publication) -> bytes:
    """A CRL as RFC 7468 §6 writes it. Errors: ``crl-too-long``, ``crl-not-kept``."""
    if crl.size > MAX_PEM:
        raise Rejected(
            "crl-too-long", f"this CRL has {crl.size} octets: fetch it in DER, as /crl/NAME.crl"
        )
    return _pem(crl.path)


# A number is used once, so what a path holds never changes.


@lru_cache(maxsize=64)
def _short(path: Path) -> bytes:
    with _open(path) as file:
        return file.read()


@lru_cache(maxsize=4)
def _pem(path: Path) -> bytes:
    with _open(path) as file:
        return encode_pem("X509 CRL", file.read())


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise Rejected(
            "crl-not-kept", f"CRL {path.stem} is not kept any more; fetch the current one"
        ) from error
