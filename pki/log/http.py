"""The log over HTTP: its head, new checkpoints, and a replay of all of it."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from infra.errors import Failure, Rejected, Unavailable
from infra.http.body import decode
from infra.http.limits import read_body
from infra.store.port import Store
from pki.export import encode_pem
from pki.ledger_audit import verify_ledger
from pki.log.audit import Progress, Report
from pki.log.checkpoint import verifier_key
from pki.log.log import Log
from pki.signer.port import Signer

_PEM: Final = re.compile(
    rb"-----BEGIN PUBLIC KEY-----\s(?P<body>[A-Za-z0-9+/=\s]*)-----END PUBLIC KEY-----"
)


class LogKeeper(Protocol):
    """Whose log it is; ``log_signer`` is None until there is a key for checkpoints."""

    @property
    def store(self) -> Store: ...
    @property
    def log(self) -> Log: ...
    @property
    def log_signer(self) -> Signer | None: ...


def log_routes(keeper: LogKeeper, base: str) -> list[web.RouteDef]:
    """``GET {base}/log``, ``POST {base}/log/checkpoint`` and ``POST {base}/log/verify``.

    The last answers with lines of JSON: ``{"done", "total"}`` from time to time, then
    ``{"report"}``, or ``{"code", "detail"}`` when the replay could not end.
    """

    async def show(request: web.Request) -> web.Response:
        return _json(await _head(keeper))

    async def checkpoint(request: web.Request) -> web.Response:
        await keeper.log.checkpoint(log_key(keeper))
        return _json(await _head(keeper), status=201)

    async def verify(request: web.Request) -> web.StreamResponse:
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def progress(done: int, total: int) -> None:
            lines.put_nowait({"done": done, "total": total})

        asked = await _asked(request)
        task = asyncio.create_task(_replay(keeper, asked, progress))
        task.add_done_callback(lambda _: lines.put_nowait(None))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            while (line := await lines.get()) is not None:
                await response.write(msgspec.json.encode(line) + b"\n")
            await response.write(msgspec.json.encode(await task) + b"\n")
        finally:
            task.cancel()
        await response.write_eof()
        return response

    return [
        web.get(f"{base}/log", show),
        web.post(f"{base}/log/checkpoint", checkpoint),
        web.post(f"{base}/log/verify", verify),
    ]


def log_key(keeper: LogKeeper) -> Signer:
    """The key that signs checkpoints. Errors: ``no-such-authority`` before there is one."""
    if keeper.log_signer is None:
        raise Rejected("no-such-authority", "there is no CA yet; run `digitalid init`")
    return keeper.log_signer


def report_view(report: Report) -> dict[str, Any]:
    """What a replay has found, ready for JSON."""
    return {
        "ok": report.ok,
        "leaves": report.size,
        "root": report.root.hex(),
        "vouched_for": report.covered,
        "checkpoints": report.checkpoints,
        "first_altered": report.first_altered,
        "certificates": report.certificates,
        "unfinished": report.unfinished,
        "findings": [
            {
                "code": finding.code,
                "start": finding.start,
                "end": finding.end,
                "certificate": finding.certificate,
                "detail": finding.detail,
            }
            for finding in report.findings
        ],
    }


class VerifyBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /log/verify`` takes; ``checkpoints``: notes that were kept elsewhere;
    ``key_pem``: the log's public key as it was kept elsewhere."""

    checkpoints: list[str] = []
    key_pem: str | None = None


async def _asked(request: web.Request) -> VerifyBody:
    return decode(await read_body(request) or b"{}", VerifyBody)


async def _replay(keeper: LogKeeper, asked: VerifyBody, progress: Progress) -> dict[str, Any]:
    try:
        if asked.key_pem is None:
            key_info = log_key(keeper).public_key_info
        else:
            key_info = decode_public_key(asked.key_pem.encode())
        report = await verify_ledger(
            keeper.store,
            origin=keeper.log.origin,
            keys=[verifier_key(keeper.log.origin, key_info)],
            trusted=[note.encode() for note in asked.checkpoints],
            progress=progress,
        )
    except Failure as failure:
        # The answer has begun: the status of HTTP cannot say it any more.
        status = 503 if isinstance(failure, Unavailable) else 400
        status = status if isinstance(failure, Rejected | Unavailable) else 500
        return {"code": failure.code, "detail": failure.detail, "status": status}
    return {"report": report_view(report)}


def decode_public_key(pem: bytes) -> bytes:
    """The SubjectPublicKeyInfo in a PEM file. Errors: ``bad-log-key``."""
    found = _PEM.search(pem[:65536])
    if found is None:
        raise Rejected("bad-log-key", "this is no public key in PEM")
    try:
        return binascii.a2b_base64(b"".join(found["body"].split()), strict_mode=True)
    except binascii.Error as error:
        raise Rejected("bad-log-key", "the PEM block does not hold base64") from error


async def _head(keeper: LogKeeper) -> dict[str, Any]:
    key_info = log_key(keeper).public_key_info
    note = await keeper.log.last_checkpoint()
    return {
        "origin": keeper.log.origin,
        "size": keeper.log.size,
        "root": keeper.log.root().hex(),
        "checkpoint": None if note is None else note.decode(),
        "key": str(verifier_key(keeper.log.origin, key_info)),
        "key_pem": encode_pem("PUBLIC KEY", key_info).decode(),
    }


def _json(document: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )
