"""What the private port of a validation authority shows: health and metrics, and nothing more."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from cli import foreign
from cli.from_settings import limits
from cli.metrics import Families, ocsp_families
from infra.http.app import make_app
from pki.api import BASE, moment
from pki.certificate import parse_certificate

if TYPE_CHECKING:
    from cli.validation_authority import ValidationAuthority
    from ocsp.crl_source import CrlSource

_UNWELL = ("starting", "cut off")
"""States in which some questions are not answered."""


def private_app(authority: ValidationAuthority) -> web.Application:
    """The application; what it shows holds no personal data, so nobody has to say who he is."""

    async def show_health(request: web.Request) -> web.Response:
        document = health(authority)
        return web.Response(
            body=msgspec.json.encode(document),
            status=503 if document["status"] in _UNWELL else 200,
            content_type="application/json",
        )

    async def expose(request: web.Request) -> web.Response:
        families = _families(authority)
        if authority.apart is not None:
            families += ocsp_families(await authority.apart.measure())
        registry = CollectorRegistry()
        registry.register(Families(families))
        return web.Response(body=generate_latest(registry), content_type="text/plain")

    app = make_app({}, private=True, limits=limits(authority.settings))
    app.add_routes([web.get(f"{BASE}/health", show_health), web.get("/metrics", expose)])
    return app


def health(authority: ValidationAuthority) -> dict[str, Any]:
    """How it is: ``ok``; ``behind`` when something is amiss that does not show yet; ``cut off``
    while there are questions that are answered with tryLater; ``starting``."""
    feed = _feed(authority)
    cas = [_ca(authority, name) for name in authority.delegates]
    cas += [
        {"name": foreign.shown(name), "failing": failure.code}
        for name, failure in authority.uncertified.items()
        if name not in authority.delegates
    ]
    states = [one.pop("state", "behind") for one in cas] + ([feed.pop("state")] if feed else [])
    status = next((one for one in ("cut off", "behind") if one in states), "ok")
    if authority.apart is None:
        status = "starting"
    return {"status": status, "version": version("digitalid"), "feed": feed, "authorities": cas}


def _feed(authority: ValidationAuthority) -> dict[str, Any] | None:
    settings, follower = authority.settings.feed, authority.follower
    if not settings.url or follower is None:
        return None
    lag = follower.lag(authority.clock.now())
    failing = None if follower.failing is None else follower.failing.code
    state = "behind" if failing or follower.behind else "ok"
    return {
        "url": settings.url,
        "lag": None if math.isinf(lag) else round(lag, 3),
        "behind": follower.behind,
        "applied": follower.applied,
        "failing": failing,
        "state": "cut off" if lag > settings.most_lag.total_seconds() else state,
    }


def _ca(authority: ValidationAuthority, name: str) -> dict[str, Any]:
    delegate = authority.delegates[name]
    now = authority.clock.now()
    ends = parse_certificate(delegate.certificate).not_after
    lacking = authority.uncertified.get(name)
    view: dict[str, Any] = {
        "name": foreign.shown(name),
        "source": "feed",
        "certificate_ends": moment(ends),
        "failing": None if lacking is None else lacking.code,
        "state": "ok" if lacking is None else "behind",
    }
    if name.startswith(foreign.PREFIX):
        view |= _crl(authority.sources.get(name), authority)
    if ends <= now:
        view["state"] = "cut off"
    return view


def _crl(source: CrlSource | None, authority: ValidationAuthority) -> dict[str, Any]:
    if source is None:
        return {"source": "crl", "state": "cut off"}
    head, failing = source.current, source.failing
    view: dict[str, Any] = {
        "source": "crl",
        "failing": None if failing is None else failing.code,
        "state": "ok" if failing is None else "behind",
    }
    if head is None or head.next_update <= authority.clock.now():
        view["state"] = "cut off"
    if head is not None:
        view |= {
            "crl_number": head.number,
            "entries": source.count,
            "this_update": moment(head.this_update),
            "next_update": moment(head.next_update),
        }
    return view


def _families(authority: ValidationAuthority) -> list[Metric]:
    now = authority.clock.now()
    ends = GaugeMetricFamily(
        "digitalid_ocsp_certificate_end_seconds",
        "notAfter of the responder's certificate.",
        labels=["ca"],
    )
    for name, delegate in authority.delegates.items():
        ends.add_metric(
            [foreign.shown(name)], parse_certificate(delegate.certificate).not_after.timestamp()
        )
    crl_ends = GaugeMetricFamily(
        "digitalid_ocsp_crl_next_update_seconds",
        "nextUpdate of the CRL that a CA's statuses come from.",
        labels=["ca"],
    )
    for name, source in authority.sources.items():
        if source.current is not None:
            crl_ends.add_metric([foreign.shown(name)], source.current.next_update.timestamp())
    families: list[Metric] = [ends, crl_ends]
    follower = authority.follower
    if follower is not None:
        families += [
            GaugeMetricFamily(f"digitalid_feed_{name}", text, value)
            for name, text, value in (
                ("lag_seconds", "Time since all was known.", follower.lag(now)),
                ("behind", "Changes that are still to come.", float(follower.behind)),
                ("applied", "The last change that is in the table.", float(follower.applied)),
            )
        ]
    return families
