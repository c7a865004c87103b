"""What ceremonies need of the instance, over its API: requests out, certificates in, and the head
of a transcript into the log."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from infra.errors import Rejected
from infra.http.auth import WHO
from infra.http.body import decode
from infra.http.limits import read_body
from infra.http.problems import Statuses
from pki.algorithms import KeyType
from pki.api import BASE, MAX_BODY
from pki.ceremony.verify import Verdict, verify_transcript
from pki.log.act import Act
from pki.offline import import_certificate, request_certificate
from pki.views import moment

if TYPE_CHECKING:
    from cli.service.parts import Instance

MAX_TRANSCRIPT: Final = 16 << 20
"""Octets of a transcript that is recorded: a hundred times that of a large ceremony."""

STATUSES: Final[Statuses] = {
    "authority-exists": 409,
    "request-differs": 409,
    "no-such-request": 404,
}


class RequestBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /authority-requests`` takes. ``subject``: RFC 4514."""

    name: str
    subject: str
    key_type: KeyType = KeyType.P_256


class ImportBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /authority-requests/NAME/certificate`` takes: DER in base64, the root last."""

    certificates: list[bytes]


class TranscriptBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /ceremonies`` takes: a transcript's octets in base64."""

    transcript: bytes


def ceremony_routes(instance: Instance) -> list[web.RouteDef]:
    """For ``web.Application.add_routes``."""

    async def request_for(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_BODY), RequestBody)
        made = await request_certificate(
            instance.store, instance.hierarchy, body.name, body.subject, body.key_type
        )
        return web.json_response(
            {"name": body.name, "request": msgspec.to_builtins(made)}, status=201
        )

    async def take_in(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_BODY), ImportBody)
        name = request.match_info["name"]
        made = await import_certificate(
            instance.store,
            instance.hierarchy,
            instance.log,
            name,
            body.certificates,
            by=request[WHO],
            now=instance.clock.now(),
        )
        document = {
            "name": name,
            "subject": made.subject.rfc4514(),
            "not_after": moment(made.not_after),
            "sha256": made.sha256.hex(),
        }
        return web.json_response(document, status=201)

    async def record(request: web.Request) -> web.Response:
        body = decode(await read_body(request, MAX_TRANSCRIPT // 3 * 4 + 1024), TranscriptBody)
        verdict = await asyncio.to_thread(verify_transcript, body.transcript)
        act = _act(verdict, body.transcript, request[WHO], instance.clock.now())
        if await instance.log.find(act.id) is None:
            await instance.log.append(act)
        return web.json_response({"id": act.id, "head": verdict.told.head}, status=201)

    return [
        web.post(f"{BASE}/authority-requests", request_for),
        web.post(f"{BASE}/authority-requests/{{name}}/certificate", take_in),
        web.post(f"{BASE}/ceremonies", record),
    ]


def _act(verdict: Verdict, transcript: bytes, who: str, now: datetime) -> Act:
    """The leaf that binds a ceremony to the log: no name of a person is in it."""
    told = verdict.told
    if verdict.wrong or told.script is None:
        first = verdict.wrong[0].detail if verdict.wrong else "it is empty"
        raise Rejected("altered-transcript", f"the transcript does not verify: {first}")
    if told.rehearsal:
        raise Rejected("rehearsal", "a rehearsal is not recorded in the log")
    return Act(
        id=f"ceremony/{told.head}",
        what="ceremony.close",
        who=who,
        when=now,
        object_hash=bytes.fromhex(told.head),
        detail={
            "kind": told.script.kind,
            "entries": told.count,
            "transcript": hashlib.sha256(transcript).hexdigest(),
        },
    )
