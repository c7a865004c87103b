"""Mass revocation over HTTP: ``POST /revocations`` does one step, and says whether it was the
last; who calls again goes on."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from aiohttp import web

from infra.errors import Rejected
from infra.http.limits import read_body
from pki.algorithms import KeyType
from pki.api import BASE, MAX_BODY, decode, parse_moment
from pki.hierarchy import Hierarchy
from pki.mass_revocation import BATCH, MassRevocation, Order, Query, Step
from pki.serial import parse_serial
from pki.status import parse_reason


class MassBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /revocations`` takes: a query, or at most ``BATCH`` serial numbers.

    ``after``: where a rehearsal goes on; a job knows that itself.
    """

    reason: str
    invalidity_date: str | None = None
    ca: str | None = None
    profile: str | None = None
    key_type: str | None = None
    issued_after: str | None = None
    issued_before: str | None = None
    serials: list[str] | None = None
    rehearse: bool = False
    after: int = 0


class Office(Protocol):
    """What mass revocation works on."""

    @property
    def hierarchy(self) -> Hierarchy: ...
    @property
    def mass_revocation(self) -> MassRevocation: ...


def mass_routes(office: Office) -> list[web.RouteDef]:
    """The route, for ``web.Application.add_routes``."""

    async def revoke(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_BODY), MassBody)
        order = Order(
            parse_reason(body.reason), parse_moment(body.invalidity_date), str(request["who"])
        )
        jobs = office.mass_revocation
        if body.ca is not None:
            office.hierarchy.authority(body.ca)
        if body.serials is not None:
            step = await _list(office, body, body.serials, order)
        elif body.rehearse:
            step = await jobs.rehearse(_query(body), order, body.after)
        else:
            step = await jobs.advance(_query(body), order)
        rate, measured = await jobs.rate()
        document: dict[str, Any] = msgspec.to_builtins(step)
        document |= {"rate": rate, "rate_measured": measured}
        return web.json_response(document)

    return [web.post(f"{BASE}/revocations", revoke)]


async def _list(office: Office, body: MassBody, serials: list[str], order: Order) -> Step:
    if (body.profile, body.key_type, body.issued_after, body.issued_before) != (None,) * 4:
        raise Rejected("bad-body", "serials stand alone: nothing else chooses certificates")
    if len(serials) > BATCH:
        raise Rejected("too-many-serials", f"at most {BATCH} serial numbers go into one request")
    names = list(office.hierarchy.authorities) if body.ca is None else [body.ca]
    return await office.mass_revocation.revoke(
        [parse_serial(serial) for serial in serials], names, order, rehearse=body.rehearse
    )


def _query(body: MassBody) -> Query:
    kinds = [kind.value for kind in KeyType]
    if body.key_type is not None and body.key_type not in kinds:
        raise Rejected("bad-key-type", f"a key type is one of {', '.join(kinds)}")
    return Query(
        ca=body.ca,
        profile=body.profile,
        key_type=None if body.key_type is None else KeyType(body.key_type),
        issued_after=parse_moment(body.issued_after),
        issued_before=parse_moment(body.issued_before),
    )
