"""The engine over HTTP: certificates, authorities, profiles and the log as JSON.

Who may call is decided before this room is entered (``infra.http.auth``); the caller's name is in
``request[WHO]``. Errors are problem documents (RFC 9457), made by the middleware of the app.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from infra.errors import Rejected
from infra.http.auth import WHO
from infra.http.body import decode
from infra.http.limits import read_body
from infra.store.port import Store
from pki.authority import Application
from pki.certificate import Order, parse_certificate
from pki.hierarchy import Hierarchy
from pki.ledger import Ledger
from pki.lint import Linter
from pki.log.http import LogKeeper, log_key, log_routes
from pki.log.proof import prove
from pki.names import parse_rfc4514
from pki.profile import Profile
from pki.profile.issuers import unknown_issuers
from pki.profile_check import check, check_all, require_profile
from pki.record import Record, State
from pki.serial import format_serial, parse_serial
from pki.status import parse_reason
from pki.views import authority_view, certificate_view, chain_of, profile_view, status_of

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

BASE: Final = "/api/v1"
MAX_BODY: Final = 256 * 1024
MAX_PAGE: Final = 1000
_CHOICE: Final = ("serial", "request_id", "subject", "ca", "profile", "status")
_FOUND_BY: Final = (*_CHOICE, "limit", "after")
_STATUSES: Final = ("good", "revoked", "hold", "expired", State.intended.value, State.void.value)
# Ids that begin with a dot are the program's own (``pki.hierarchy``): nobody else can take one.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhdy])")
_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "y": timedelta(days=365),
}


class IssueBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /certificates`` takes; ``ca``: the usual one unless named; ``consent``: of the
    holder, to be in the directory."""

    profile: str
    csr: str
    ca: str | None = None
    request_id: str | None = None
    lifetime: str | None = None
    subject: str | None = None
    consent: bool = False


class RevokeBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /certificates/SERIAL/revoke`` takes; ``authority``: that the certificate of a CA
    is meant, with which all that it has issued becomes invalid."""

    reason: str
    invalidity_date: str | None = None
    authority: bool = False


class Engine(LogKeeper, Protocol):
    """What the API works on."""

    @property
    def hierarchy(self) -> Hierarchy: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def profiles(self) -> Mapping[str, Profile]: ...
    @property
    def linter(self) -> Linter: ...
    @property
    def store(self) -> Store: ...


class Api:
    """The handlers; ``routes`` is what an application adds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._checked: set[str] = set()

    def routes(self) -> list[web.RouteDef]:
        """Everything under ``/api/v1`` that the engine answers."""
        return [
            web.post(f"{BASE}/certificates", self.issue),
            web.get(f"{BASE}/certificates", self.find),
            web.get(f"{BASE}/certificates/{{serial}}", self.show),
            web.post(f"{BASE}/certificates/{{serial}}/{{act}}", self.change),
            web.get(f"{BASE}/authorities", self.authorities),
            web.get(f"{BASE}/authorities/{{name}}", self.authority),
            web.get(f"{BASE}/profiles", self.profiles),
            web.get(f"{BASE}/profiles/{{name}}", self.profile),
            web.post(f"{BASE}/profiles/{{name}}/check", self.check_profile),
            web.get(f"{BASE}/log/proof/{{serial}}", self.proof),
            *log_routes(self._engine, BASE),
        ]

    async def issue(self, request: web.Request) -> web.Response:
        """``POST /certificates``: issue one certificate."""
        body = await self.issued(await read_body(request, MAX_BODY), _who(request))
        return web.Response(body=body, status=201, content_type="application/json")

    async def issued(self, asked: bytes, who: str) -> bytes:
        """The same without aiohttp: JSON for JSON. Errors: ``bad-body``, ``bad-request-id``,
        ``profile-reserved``, ``profile-findings``, and all that issuance refuses."""
        body = decode(asked, IssueBody)
        if body.request_id is not None and not _REQUEST_ID.fullmatch(body.request_id):
            raise Rejected(
                "bad-request-id",
                "a request id is a letter or digit, then up to 127 of them or . _ : / @ -",
            )
        hierarchy = self._engine.hierarchy
        authority = hierarchy.usual() if body.ca is None else hierarchy.authority(body.ca)
        profile = authority.profile(body.profile)
        if profile.reserved:
            raise Rejected(
                "profile-reserved",
                f"certificates of profile {body.profile} speak for a CA: they are made with the "
                "CA, not on request",
            )
        order = Order(
            subject=None if body.subject is None else parse_rfc4514(body.subject).der,
            lifetime=None if body.lifetime is None else parse_duration(body.lifetime),
        )
        await self._require_checked(profile)
        record = await authority.issue(
            Application(
                profile=body.profile,
                request=body.csr.encode(),
                by=who,
                request_id=body.request_id,
                order=order,
                consent=body.consent,
            )
        )
        document = {"certificate": await self._view(record), "chain": chain_of(authority)}
        return msgspec.json.encode(document)

    async def show(self, request: web.Request) -> web.Response:
        """``GET /certificates/SERIAL``: one certificate."""
        return _json(await self._view(await self._record(request)))

    async def find(self, request: web.Request) -> web.Response:
        """``GET /certificates``: those that match, a page at a time.

        ``subject`` (RFC 4514, whole), ``request_id`` and ``serial`` look one up; without them
        the ledger is walked in order of its changes, ``after`` being where the last page ended.
        ``ca``, ``profile`` and ``status`` leave out what differs. Errors: ``unknown-parameter``,
        ``bad-status``, ``no-such-authority``, ``unknown-profile``, ``bad-number``.
        """
        query = request.query
        for name in query:
            if name not in _FOUND_BY:
                raise Rejected(
                    "unknown-parameter", f"{name[:40]!r} is none of {', '.join(_FOUND_BY)}"
                )
        if (asked := query.get("status")) is not None and asked not in _STATUSES:
            raise Rejected("bad-status", f"{asked[:40]!r} is none of {', '.join(_STATUSES)}")
        limit = whole(query.get("limit", "100"), 1, MAX_PAGE)
        after = whole(query.get("after", "0"), 0, 2**62)
        hierarchy = self._engine.hierarchy
        ca = hierarchy.authority(query["ca"]).name if "ca" in query else None
        if "profile" in query:
            await require_profile(query["profile"], self._engine.profiles, self._engine.store)
        following: int | None = None
        if "serial" in query:
            serial = parse_serial(query["serial"])
            records = [await self._engine.ledger.record(ca or hierarchy.usual().name, serial)]
        elif "request_id" in query:
            issuer = ca or hierarchy.usual().name
            known = await self._engine.ledger.by_request(issuer, query["request_id"])
            records = [] if known is None else [known]
        elif "subject" in query:
            subject = parse_rfc4514(query["subject"]).rfc4514()
            records = await self._engine.ledger.by_subject(subject, limit=limit)
        else:
            records = await self._engine.ledger.changed(after, limit=limit)
            if len(records) == limit:
                following = records[-1].sequence
        now = self._now()
        wanted = [
            await self._view(record)
            for record in records
            if ca in (None, record.ca)
            and query.get("profile", record.profile) == record.profile
            and asked in (None, status_of(record, now))
        ]
        return _json({"certificates": wanted, "next": following})

    async def change(self, request: web.Request) -> web.Response:
        """``POST /certificates/SERIAL/revoke|hold|release``: change the status of one."""
        record = await self._record(request)
        ledger, who = self._engine.ledger, _who(request)
        match request.match_info["act"]:
            case "revoke":
                body = await _decoded(request, RevokeBody)
                if not body.authority and _is_authority(record):
                    raise Rejected(
                        "ca-certificate",
                        "this is the certificate of a CA: once it is revoked, nothing that it has "
                        "issued is valid any more, for good; say --authority if that is meant",
                    )
                record = await ledger.revoke(
                    record.ca,
                    record.serial,
                    reason=parse_reason(body.reason),
                    invalidity_date=parse_moment(body.invalidity_date),
                    by=who,
                )
            case "hold":
                record = await ledger.hold(record.ca, record.serial, by=who)
            case "release":
                record = await ledger.release(record.ca, record.serial, by=who)
            case act:
                raise Rejected("unknown-act", f"{act!r} is none of revoke, hold and release")
        return _json(await self._view(record))

    async def authorities(self, request: web.Request) -> web.Response:
        """``GET /authorities``: every CA."""
        known = self._engine.hierarchy.authorities.values()
        views = [authority_view(authority) for authority in known]
        return _json({"authorities": views, "awaited": self._engine.hierarchy.awaited})

    async def authority(self, request: web.Request) -> web.Response:
        """``GET /authorities/NAME``: one CA."""
        name = request.match_info["name"]
        return _json(authority_view(self._engine.hierarchy.authority(name)))

    async def profiles(self, request: web.Request) -> web.Response:
        """``GET /profiles``: what can be issued."""
        profiles = sorted(self._engine.profiles.values(), key=lambda profile: profile.name)
        return _json({"profiles": [self._profile_view(profile) for profile in profiles]})

    async def profile(self, request: web.Request) -> web.Response:
        """``GET /profiles/NAME``: one profile in full."""
        profile = self._profile(request)
        return _json(self._profile_view(profile) | {"content": dict(profile.content)})

    async def check_profile(self, request: web.Request) -> web.Response:
        """``POST /profiles/NAME/check``: make a certificate with a throwaway key and lint it; and
        whether there are the CAs that the profile names."""
        profile = self._profile(request)
        findings = (
            *await check(profile, self._engine.linter, self._now()),
            *unknown_issuers(profile, self._engine.hierarchy.authorities),
        )
        return _json({"findings": [msgspec.to_builtins(finding) for finding in findings]})

    async def proof(self, request: web.Request) -> web.Response:
        """``GET /log/proof/SERIAL``: that the certificate is in the log, for anybody to check."""
        record = await self._record(request)
        if record.state is not State.issued:
            raise Rejected("not-issued", "this certificate was never issued")
        await self._engine.ledger.logged(record)
        note = await self._engine.log.checkpoint(log_key(self._engine))
        return _json(await prove(self._engine.log, record.act_id, record.certificate, note))

    async def _require_checked(self, profile: Profile) -> None:
        """A command of its own takes profiles up that no start has tried out."""
        if profile.fingerprint not in self._checked:
            engine = self._engine
            await check_all({profile.name: profile}, engine.store, engine.linter, self._now())
            self._checked.add(profile.fingerprint)

    def _profile(self, request: web.Request) -> Profile:
        profile = self._engine.profiles.get(request.match_info["name"])
        if profile is None:
            known = ", ".join(sorted(self._engine.profiles))
            raise Rejected("unknown-profile", f"there is no such profile; there are: {known}")
        return profile

    async def _record(self, request: web.Request) -> Record:
        serial = parse_serial(request.match_info["serial"])
        ca = request.query.get("ca")
        if ca is not None:
            return await self._engine.ledger.record(ca, serial)
        # Serial numbers are random over all CAs, so at most one of them knows it.
        for name in self._engine.hierarchy.authorities:
            with suppress(Rejected):
                return await self._engine.ledger.record(name, serial)
        raise Rejected(
            "no-such-certificate", f"no CA here ever issued a certificate {format_serial(serial)}"
        )

    async def _view(self, record: Record) -> dict[str, Any]:
        issuer, index = "", record.log_index
        if record.state is State.issued:
            issuer = self._engine.hierarchy.subject(record.ca)
            if index is None:
                index = await self._engine.log.find(record.act_id)
        return certificate_view(record, issuer, index, self._now())

    def _profile_view(self, profile: Profile) -> dict[str, Any]:
        return profile_view(profile, self._engine.hierarchy.issuers_of(profile))

    def _now(self) -> datetime:
        return self._engine.ledger.now()


def parse_duration(text: str) -> timedelta:
    """A length of time such as ``90d``: a number of s, m, h, d or y (365 days)."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Rejected("bad-duration", f"{text!r} is no length of time; write 12h, 90d or 2y")
    return int(match[1]) * _UNITS[match[2]]


def _who(request: web.Request) -> str:
    return request[WHO]


def whole(text: str, least: int, most: int) -> int:
    """A number in a query. Errors: ``bad-number``."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Rejected("bad-number", f"{text[:40]!r} is no whole number")
    value = int(text)
    if not least <= value <= most:
        raise Rejected("bad-number", f"{value} is not from {least} to {most}")
    return value


def parse_moment(text: str | None) -> datetime | None:
    """A time in a body, as RFC 3339 writes it; in UTC. Errors: ``bad-time``."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the latter: in UTC, it is before the year 1
        raise Rejected(
            "bad-time", f"{text[:40]!r} is no time; write 2026-11-22T10:00:00Z"
        ) from error


def _is_authority(record: Record) -> bool:
    if record.state is not State.issued:
        return False
    constraints = parse_certificate(record.certificate).basic_constraints
    return constraints is not None and constraints.ca


def _json(document: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )


_Body = TypeVar("_Body", bound=msgspec.Struct)


async def _decoded(request: web.Request, kind: type[_Body]) -> _Body:
    return decode(await read_body(request, MAX_BODY), kind)
