"""Prometheus metrics of a running instance."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from cli.compose import Instance


class Metrics:
    """What is counted, and what is read off the instance when somebody asks."""

    def __init__(self, instance: Instance) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "digitalid_http_requests",
            "Requests answered.",
            ["app", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "digitalid_http_request_seconds",
            "Time from a request's header to its answer.",
            ["app", "route"],
            registry=self._registry,
        )
        self._gauge("digitalid_log_leaves", "Leaves in the log.", lambda: float(instance.log.size))
        revoked = self._labelled("digitalid_crl_entries", "Entries of the current CRL.")
        ends = self._labelled("digitalid_crl_next_update_seconds", "nextUpdate of the current CRL.")
        failures = self._labelled("digitalid_crl_failures", "CRLs that could not be made.")
        for name, crl in instance.crls.items():
            revoked.labels(name).set_function(lambda crl=crl: float(crl.current().count))
            ends.labels(name).set_function(lambda crl=crl: crl.current().next_update.timestamp())
            schedule = instance.schedules[name]
            failures.labels(name).set_function(lambda schedule=schedule: float(schedule.failures))

    def watch(self, app: str) -> Middleware:
        """Middleware that counts and times the requests of ``app``."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = perf_counter()
            # The pattern, not the path: that one holds serial numbers.
            resource = request.match_info.route.resource
            route = "unknown" if resource is None else resource.canonical
            status = 500
            try:
                response = await handler(request)
                status = response.status
                return response
            except web.HTTPException as answer:
                status = answer.status
                raise
            finally:
                self._requests.labels(app, route, status).inc()
                self._seconds.labels(app, route).observe(perf_counter() - started)

        return count

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str, read: object) -> None:
        Gauge(name, text, registry=self._registry).set_function(read)  # type: ignore[arg-type]

    def _labelled(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["ca"], registry=self._registry)
