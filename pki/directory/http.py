"""Directories over HTTP: how they stand, comparing and mending, erasing a subject."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Protocol

import msgspec
from aiohttp import web

from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.http.auth import WHO
from infra.http.body import decode
from infra.http.limits import read_body
from infra.store.port import Store
from pki.api import BASE, MAX_BODY
from pki.directory.compare import Comparison, Difference, Progress
from pki.directory.entries import IDENTIFIER_HASH, SERIAL_NUMBER, WEB3_ID, subject_of
from pki.directory.naming import escape_filter
from pki.directory.publisher import Publisher
from pki.hierarchy import Hierarchy
from pki.ledger import Ledger
from pki.names import parse_rfc4514
from pki.record import Record
from pki.serial import format_serial, parse_serial


class CompareBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /directories/NAME/compare`` takes."""

    repair: bool = False


class EraseBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /directories/erasures`` takes: a certificate of the subject, or its name."""

    serial: str | None = None
    ca: str | None = None
    subject: str | None = None


class FilterBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /directories/filter`` takes: what is to be found, all of it in one entry.

    ``identifier``: a national one; ``web3id``: a DID.
    """

    identifier: str | None = None
    mail: str | None = None
    serial: str | None = None
    web3id: str | None = None


class Keeper(Protocol):
    """What this works on."""

    @property
    def hierarchy(self) -> Hierarchy: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def store(self) -> Store: ...

    async def publishers(self) -> Mapping[str, Publisher]:
        """By the names of the directories. Errors: ``no-directory``."""


def directory_routes(keeper: Keeper) -> list[web.RouteDef]:
    """For ``web.Application.add_routes``."""

    async def show(request: web.Request) -> web.Response:
        publishers = await keeper.publishers()
        views = {name: asdict(await one.standing()) for name, one in publishers.items()}
        return _json({"directories": views})

    async def compare(request: web.Request) -> web.StreamResponse:
        body = await read_body(request, MAX_BODY)
        asked = decode(body, CompareBody) if body else CompareBody()
        publisher = await _publisher(keeper, request.match_info["name"])
        comparison = Comparison(publisher, keeper.store, repair=asked.repair)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            async with aclosing(comparison.steps()) as steps:
                async for step in steps:
                    await response.write(_line(step))
            await response.write(b'{"over":true}\n')
        except Failure as failure:
            if isinstance(failure, Broken):
                raise
            later = isinstance(failure, Unavailable)
            said = {"code": failure.code, "detail": failure.detail, "later": later}
            await response.write(msgspec.json.encode({"error": said}) + b"\n")
        await response.write_eof()
        return response

    async def erase(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_BODY), EraseBody)
        subject = await _subject(keeper, body)
        publishers = await keeper.publishers()
        one = next(iter(publishers.values()))
        await one.source.erase(one.rules, subject, publishers, by=request[WHO])
        for publisher in publishers.values():
            publisher.wake()
        return _json({"directories": list(publishers)})

    async def filter(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_BODY), FilterBody)
        publishers = await keeper.publishers()
        rules = next(iter(publishers.values())).rules
        identifier = body.identifier and rules.identifier_hash(body.identifier)
        serial = body.serial and format_serial(parse_serial(body.serial))
        asked = {
            IDENTIFIER_HASH: identifier,
            "mail": body.mail,
            SERIAL_NUMBER: serial,
            WEB3_ID: body.web3id,
        }
        parts = [f"({type}={escape_filter(value)})" for type, value in asked.items() if value]
        if not parts:
            raise Rejected("bad-body", "say what is to be found")
        return _json({"filter": parts[0] if len(parts) == 1 else f"(&{''.join(parts)})"})

    return [
        web.get(f"{BASE}/directories", show),
        web.post(f"{BASE}/directories/erasures", erase),
        web.post(f"{BASE}/directories/filter", filter),
        web.post(f"{BASE}/directories/{{name}}/compare", compare),
    ]


async def _publisher(keeper: Keeper, name: str) -> Publisher:
    publishers = await keeper.publishers()
    found = publishers.get(name)
    if found is None:
        raise Rejected(
            "no-such-directory",
            f"there is no directory {name!r}; there are: {', '.join(publishers)}",
        )
    return found


async def _subject(keeper: Keeper, body: EraseBody) -> str:
    if (body.serial is None) == (body.subject is None):
        raise Rejected("bad-body", "name a certificate by serial, or a subject")
    if body.subject is not None:
        subject = parse_rfc4514(body.subject).rfc4514()
        if not await keeper.ledger.by_subject(subject, limit=1):
            raise Rejected("no-such-certificate", "no CA here ever certified this subject")
        return subject
    serial = parse_serial(body.serial or "")
    names = list(keeper.hierarchy.authorities) if body.ca is None else [body.ca]
    found: Record | None = None
    for name in names:
        try:
            found = await keeper.ledger.record(name, serial)
        except Rejected:
            continue
    if found is None:
        raise Rejected("no-such-certificate", "no CA here ever issued this certificate")
    return subject_of(found)


def _line(step: Difference | Progress) -> bytes:
    what = "difference" if isinstance(step, Difference) else "progress"
    return msgspec.json.encode({what: asdict(step)}) + b"\n"


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")
