"""Mass revocation over HTTP: ``POST /revocations`` rehearses a step, or does the next one of a job
and says whether it was the last; who calls again goes on."""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from infra.errors import Rejected
from infra.http.auth import WHO
from infra.http.body import decode
from infra.http.limits import read_body
from pki.algorithms import SIGNATURE_ALGORITHMS, KeyType
from pki.api import BASE, MAX_BODY, parse_moment
from pki.hierarchy import Hierarchy
from pki.mass_query import KeptList, Listed, ListKind, Order, Query, Step
from pki.mass_revocation import BATCH, Job, MassRevocation
from pki.serial import parse_serial
from pki.status import parse_reason
from pki.views import moment

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ListRef(msgspec.Struct, forbid_unknown_fields=True):
    """A list whose parts were sent before: its digest (``pki.mass_query.framed``)."""

    kind: ListKind
    digest: str
    parts: int


class MassBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /revocations`` takes: a query, a list, or a job that has begun.

    ``items``: at most ``BATCH`` of a list that is rehearsed; ``after``: where the rehearsal of a
    query goes on; a job knows that itself.
    """

    reason: str = ""
    invalidity_date: str | None = None
    ca: str | None = None
    profile: str | None = None
    algorithm: str | None = None
    key_type: str | None = None
    issued_after: str | None = None
    issued_before: str | None = None
    kind: ListKind | None = None
    items: list[str] | None = None
    kept: ListRef | None = None
    job: str | None = None
    rehearse: bool = False
    after: int = 0


class PartBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /revocations/lists`` takes: at most ``BATCH`` items of a list, the ``part``-th
    of it."""

    kind: ListKind
    digest: str
    part: int
    items: list[str]


class Office(Protocol):
    """What mass revocation works on."""

    @property
    def hierarchy(self) -> Hierarchy: ...
    @property
    def mass_revocation(self) -> MassRevocation: ...


def mass_routes(office: Office) -> list[web.RouteDef]:
    """The routes, for ``web.Application.add_routes``."""

    async def revoke(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_BODY), MassBody)
        _require_one_way(body)
        jobs = office.mass_revocation
        job = body.job
        if body.rehearse:
            step = await _rehearse(office, body, _order(body, request))
        else:
            if job is None:
                what = _kept(office, body) or _query(office, body)
                job = await jobs.begin(what, _order(body, request))
            step = await jobs.advance(job)
        rate, measured = await jobs.rate()
        document: dict[str, Any] = msgspec.to_builtins(step)
        document |= {"job": job, "rate": rate, "rate_measured": measured}
        return web.json_response(document)

    async def keep(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_BODY), PartBody)
        if not _DIGEST.fullmatch(body.digest) or not 0 <= body.part < 10**8:
            raise Rejected("bad-body", "a digest is 64 hexadecimal digits, a part a number from 0")
        items = _parsed(body.kind, body.items)
        await office.mass_revocation.keep(body.digest, body.part, body.kind, items)
        return web.json_response({"part": body.part}, status=201)

    async def unfinished(request: web.Request) -> web.Response:
        found = await office.mass_revocation.unfinished()
        return web.json_response({"jobs": [_view(job) for job in found]})

    return [
        web.get(f"{BASE}/revocations", unfinished),
        web.post(f"{BASE}/revocations", revoke),
        web.post(f"{BASE}/revocations/lists", keep),
    ]


def _require_one_way(body: MassBody) -> None:
    """Refuse members that would be passed over. Errors: ``bad-body``."""
    listed = body.kind is not None or body.items is not None
    if body.job is not None:
        if body != MassBody(job=body.job):
            raise Rejected("bad-body", "a job knows what it is to do: name it alone")
    elif listed and (body.kept is not None or not body.rehearse):
        raise Rejected(
            "bad-body",
            "kind and items are for a rehearsal; send a list to /revocations/lists, and name it "
            "by kept",
        )
    elif listed and (body.kind is None or body.items is None):
        raise Rejected("bad-body", "a list has kind and items")
    elif body.kept is not None and body.rehearse:
        raise Rejected("bad-body", "the rehearsal of a list takes it as kind and items, in parts")
    elif body.after < 0 or (body.after and (listed or not body.rehearse)):
        raise Rejected("bad-body", "after is where the rehearsal of a query goes on, 0 at first")


def _order(body: MassBody, request: web.Request) -> Order:
    suspect = parse_moment(body.invalidity_date)
    return Order(parse_reason(body.reason), suspect, request[WHO])


async def _rehearse(office: Office, body: MassBody, order: Order) -> Step:
    if body.kind is None or body.items is None:
        return await office.mass_revocation.rehearse(_query(office, body), order, body.after)
    listed = _listed(office, body, body.kind, body.items)
    return await office.mass_revocation.rehearse_list(listed, order)


def parse_item(kind: ListKind, text: str) -> bytes:
    """One line of a list. Errors: ``bad-serial``, ``bad-key-hash``."""
    match kind:
        case ListKind.serials:
            serial = parse_serial(text)
            return serial.to_bytes((serial.bit_length() + 7) // 8, "big")
        case ListKind.keys:
            if not _DIGEST.fullmatch(text.lower()):
                raise Rejected(
                    "bad-key-hash",
                    "a key is named by 64 hexadecimal digits, SHA-256 of its SubjectPublicKeyInfo",
                )
            return bytes.fromhex(text)


def _parsed(kind: ListKind, items: list[str]) -> list[bytes]:
    if not items:
        raise Rejected("empty-list", "the list names nothing")
    if len(items) > BATCH:
        raise Rejected("list-too-long", f"at most {BATCH} of a list go into one request")
    return [parse_item(kind, item) for item in items]


def _listed(office: Office, body: MassBody, kind: ListKind, items: list[str]) -> Listed:
    _require_alone(body)
    return Listed(kind, _parsed(kind, items), _authorities(office, body))


def _kept(office: Office, body: MassBody) -> KeptList | None:
    if (kept := body.kept) is None:
        return None
    _require_alone(body)
    if not _DIGEST.fullmatch(kept.digest) or not 0 < kept.parts < 10**8:
        raise Rejected("bad-body", "a list has a digest of 64 hexadecimal digits, and parts")
    return KeptList(kept.kind, kept.digest, kept.parts, tuple(_authorities(office, body)))


def _authorities(office: Office, body: MassBody) -> list[str]:
    if body.ca is not None:
        return [office.hierarchy.authority(body.ca).name]
    return list(office.hierarchy.authorities)


def _require_alone(body: MassBody) -> None:
    chosen = (body.profile, body.algorithm, body.key_type, body.issued_after, body.issued_before)
    if any(one is not None for one in chosen):
        raise Rejected("bad-body", "a list stands alone: nothing else chooses certificates")


def _query(office: Office, body: MassBody) -> Query:
    if body.ca is not None:
        office.hierarchy.authority(body.ca)
    kinds = [kind.value for kind in KeyType]
    if body.key_type is not None and body.key_type not in kinds:
        raise Rejected("bad-key-type", f"a key type is one of {', '.join(kinds)}")
    if body.algorithm is not None and body.algorithm not in SIGNATURE_ALGORITHMS:
        known = ", ".join(SIGNATURE_ALGORITHMS)
        raise Rejected("unknown-algorithm", f"a signature algorithm is one of {known}")
    return Query(
        ca=body.ca,
        profile=body.profile,
        algorithm=body.algorithm,
        key_type=None if body.key_type is None else KeyType(body.key_type),
        issued_after=parse_moment(body.issued_after),
        issued_before=parse_moment(body.issued_before),
    )


def _view(job: Job) -> dict[str, Any]:
    asked: dict[str, Any] = msgspec.to_builtins(job.asked)
    return {
        "job": job.id,
        "asked": asked,
        "by": job.by,
        "started": moment(job.started),
        "revoked": job.revoked,
    }
