"""What the private port of a validation authority shows: health and metrics, and nothing more; and
its status, to its owner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from cli.service import foreign
from cli.service.ending import of_validation_authority, soon
from cli.service.from_settings import limits
from cli.service.health import HEALTH, LIVE, STATUS, age, failing, keys_failing, live
from cli.service.metrics import Families, certificate_family, key_family, ocsp_families
from cli.service.validation_source import RESTORED, TO_DO
from infra.http.app import make_app
from pki.certificate import parse_certificate
from pki.views import moment

if TYPE_CHECKING:
    from cli.service.validation_authority import ValidationAuthority
    from infra.errors import Failure
    from ocsp.crl_source import CrlSource
    from ocsp.delegate import Delegate

T = TypeVar("T")

UNWELL: Final = ("starting", "cut off")
"""States in which some questions are not answered."""


def private_app(authority: ValidationAuthority, *, owner: bool = False) -> web.Application:
    """The application; what it shows holds no personal data, so nobody has to say who he is.

    ``owner``: only the owner of the state folder reaches it.
    """

    async def show_health(request: web.Request) -> web.Response:
        document = health(authority)
        return _json(document, 503 if document["status"] in UNWELL else 200)

    async def show_status(request: web.Request) -> web.Response:
        return _json(status(authority), 200)

    async def expose(request: web.Request) -> web.Response:
        families = _families(authority)
        if authority.apart is not None:
            families += ocsp_families(await authority.apart.measure())
        registry = CollectorRegistry()
        registry.register(Families(families))
        return web.Response(body=generate_latest(registry), content_type="text/plain")

    app = make_app({}, private=True, limits=limits(authority.settings))
    app.add_routes([web.get(HEALTH, show_health), web.get(LIVE, live), web.get("/metrics", expose)])
    if owner:
        app.add_routes([web.get(STATUS, show_status)])
    return app


def _json(document: dict[str, Any], status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )


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
    return {
        "status": status,
        "version": version("digitalid"),
        "feed": feed,
        "authorities": cas,
        "keys_failing": authority.key_watch.failing,
        "keys_age": age(authority.key_watch),
    }


def status(authority: ValidationAuthority) -> dict[str, Any]:
    """The same for its operators, with what keeps each part from its work."""
    return health(authority) | {
        "since": moment(authority.since),
        "home": str(authority.settings.home),
        "keys": authority.keys_note,
        "ending": list(
            soon(
                of_validation_authority(authority),
                authority.clock.now(),
                authority.settings.expiry,
            )
        ),
        "failing": [
            *keys_failing(authority.key_watch),
            *_feed_failing(authority),
            *(_uncertified(*one) for one in authority.uncertified.items()),
            *_each(_crl_failing, authority, authority.sources),
            *_each(_ended, authority, authority.delegates),
        ],
    }


def _each(
    find: Callable[[ValidationAuthority, str, T], Iterator[dict[str, Any]]],
    authority: ValidationAuthority,
    parts: Mapping[str, T],
) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(find(authority, name, part) for name, part in parts.items())


def _feed_failing(authority: ValidationAuthority) -> Iterator[dict[str, Any]]:
    follower = authority.follower
    if follower is None:
        return
    why, cut_off = follower.failing, follower.lag(authority.clock.now()) > _most_lag(authority)
    if why is not None:
        yield failing("feed", why.code, why.detail, stops=cut_off)
    elif authority.retaining:
        yield failing("feed", RESTORED, TO_DO, stops=False)
    if why is None and cut_off:
        detail = "nothing was heard for longer than feed.most_lag; see to the CA's instance"
        yield failing("feed", "status-source-cut-off", detail, stops=True)


def _crl_failing(
    authority: ValidationAuthority, name: str, source: CrlSource
) -> Iterator[dict[str, Any]]:
    head, why = source.current, source.failing
    over = head is None or head.next_update <= authority.clock.now()
    if why is not None:
        yield failing(f"CRL of {foreign.shown(name)}", why.code, why.detail, stops=over)
    elif over:
        detail = "there is no CRL that is still valid; see to the CA that makes it"
        yield failing(f"CRL of {foreign.shown(name)}", "status-outdated", detail, stops=True)


def _ended(
    authority: ValidationAuthority, name: str, delegate: Delegate
) -> Iterator[dict[str, Any]]:
    ends = parse_certificate(delegate.certificate).not_after
    if ends <= authority.clock.now():
        detail = f"its certificate ended at {moment(ends)}; have the CA certify its key anew"
        yield failing(_responder(name), "delegate-expired", detail, stops=True)


def _uncertified(name: str, why: Failure) -> dict[str, Any]:
    return failing(_responder(name), why.code, why.detail, stops=False)


def _responder(name: str) -> str:
    return f"responder for {foreign.shown(name)}"


def _most_lag(authority: ValidationAuthority) -> float:
    return authority.settings.feed.most_lag.total_seconds()


def _feed(authority: ValidationAuthority) -> dict[str, Any] | None:
    settings, follower = authority.settings.feed, authority.follower
    if not settings.url or follower is None:
        return None
    lag = follower.lag(authority.clock.now())
    failing = None if follower.failing is None else follower.failing.code
    if failing is None and authority.retaining:
        failing = RESTORED
    state = "behind" if failing or follower.behind else "ok"
    return {
        "url": settings.url,
        "lag": None if math.isinf(lag) else round(lag, 3),
        "behind": follower.behind,
        "applied": follower.applied,
        "failing": failing,
        "state": "cut off" if lag > _most_lag(authority) else state,
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
    keyless = authority.key_watch.failing.get(foreign.key_of(name))
    if keyless is not None:
        view |= {"failing": keyless, "state": "cut off"}
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
    families: list[Metric] = [ends, crl_ends, key_family(authority.key_watch)]
    families.append(certificate_family(of_validation_authority(authority)))
    follower = authority.follower
    if follower is not None:
        families += [
            GaugeMetricFamily(f"digitalid_feed_{name}", text, value)
            for name, text, value in (
                ("lag_seconds", "Time since all was known.", follower.lag(now)),
                ("behind", "Changes that are still to come.", float(follower.behind)),
                ("applied", "The last change that is in the table.", float(follower.applied)),
                (
                    "restored",
                    "1 while revocations are kept that the CA, which was restored, need not know.",
                    float(authority.retaining),
                ),
            )
        ]
    return families
