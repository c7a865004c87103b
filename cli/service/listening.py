"""Where an instance listens, its two ports and its owner's socket, and what it serves there."""

from __future__ import annotations

import ssl
from collections import ChainMap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from cli.service import api
from cli.service.from_settings import limits, url_of
from cli.service.issuing import issuing_front
from cli.service.parts import Instance
from cli.service.validation import RELAY, Apart, Here
from crl.http import STATUSES as CRL_STATUSES
from crl.http import crl_routes
from infra.http.app import bind_shared, make_app, serve_app, serve_unix
from infra.http.auth import Callers, Scope, TokenFolder, authenticate
from infra.http.front import Front
from ocsp.feed_http import FOLLOWER_MAY, responder_route
from ocsp.feed_http import STATUSES as FEED_STATUSES
from ocsp.request import MAX_REQUEST
from ocsp.server import PREFIXES as OCSP_PREFIXES
from ocsp.server import routes as ocsp_routes
from pki.repository import STATUSES as REPOSITORY_STATUSES
from pki.repository import repository_routes

FOLLOWERS: Final = Path("secrets", "followers")
"""Where, in the state folder, the tokens of validation authorities on other hosts are."""


@asynccontextmanager
async def listening(
    instance: Instance, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[str, str]]:
    """The two ports; yields their URLs. Errors: those of ``infra.http.app.Serving.listen``."""
    settings, http = instance.settings, instance.settings.http
    async with AsyncExitStack() as stack:
        front = issuing_front(instance, Callers(instance.token, [_followers(instance)]))
        app = admin_app(instance)
        application = await serve_app(app, http.app_host, http.app_port, tls=tls, front=front)
        stack.push_async_callback(application.stop)
        assert instance.statuses is not None  # noqa: S101 - it serves
        table = instance.statuses.reader()
        stack.callback(table.close)
        here = Here.start(settings, instance.delegates, table, instance.clock)
        where = _apart if settings.ocsp.workers else _here
        yield application.urls[0], await where(instance, here, stack)


async def _here(instance: Instance, here: Here, stack: AsyncExitStack) -> str:
    """Public validation in this process; returns its URL."""
    http, most = instance.settings.http, limits(instance.settings, MAX_REQUEST)
    stack.push_async_callback(here.stop)
    front = Front(here.server.answer, OCSP_PREFIXES, limits=most)
    here.front = front
    app = validation_app(instance, here)
    serving = await serve_app(app, http.validation_host, http.validation_port, front=front)
    stack.push_async_callback(serving.stop)
    instance.ocsp = here
    return serving.urls[0]


async def _apart(instance: Instance, here: Here, stack: AsyncExitStack) -> str:
    """Public validation by processes of its own, which bring us what is not OCSP."""
    settings, http = instance.settings, instance.settings.http
    behind = await serve_unix(validation_app(instance, here), settings.home / RELAY)
    stack.push_async_callback(behind.stop)
    host, port = http.validation_host, http.validation_port
    sockets = await bind_shared(host, port, settings.ocsp.workers, limits(settings))
    url = url_of(host, sockets[0][0].getsockname()[1])
    apart = await Apart.start(settings, instance.delegates, sockets, here=here, most_lag=None)
    stack.push_async_callback(apart.stop)
    instance.ocsp = apart
    return url


def admin_app(instance: Instance) -> web.Application:
    """The API for the owner of the state folder and the bearer of its token."""
    app = make_app(
        {**api.STATUSES, **FEED_STATUSES},
        private=True,
        limits=limits(instance.settings),
        middlewares=[
            instance.metrics.watch("application"),
            authenticate(instance.token, open_paths=api.OPEN_PATHS, scopes=[_followers(instance)]),
        ],
    )
    app.add_routes(api.routes(instance, instance.metrics))
    if instance.feed is not None:
        instance.feed.install(app)
        lifetime = instance.settings.ocsp.responder_lifetime
        app.add_routes([responder_route(instance.hierarchy, lifetime)])
    return app


def validation_app(instance: Instance, here: Here) -> web.Application:
    """What relying parties ask: OCSP, CRLs and CA certificates."""
    app = make_app(
        {**CRL_STATUSES, **REPOSITORY_STATUSES},
        private=False,
        limits=limits(instance.settings),
        middlewares=[instance.metrics.watch("validation")],
    )
    # On connections that asked for something else before.
    app.add_routes(ocsp_routes(here.server))
    max_age = instance.settings.crl.cache
    app.add_routes(crl_routes(instance.crls.series, instance.clock, max_age=max_age))
    app.add_routes(repository_routes(ChainMap(instance.issuers, instance.crl_issuers)))
    return app


def _followers(instance: Instance) -> Scope:
    """Validation authorities on other hosts."""
    return Scope("follower", TokenFolder(instance.settings.home / FOLLOWERS), FOLLOWER_MAY)
