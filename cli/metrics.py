"""Prometheus metrics of a running instance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import perf_counter

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from crl.issuer import CrlIssuer
from crl.schedule import Schedule
from pki.log.log import Log


class Metrics:
    """What is counted, and what is read off the instance when somebody asks."""

    def __init__(
        self, log: Log, crls: Mapping[str, CrlIssuer], schedules: Mapping[str, Schedule]
    ) -> None:
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
        leaves = Gauge("digitalid_log_leaves", "Leaves in the log.", registry=self._registry)
        leaves.set_function(lambda: float(log.size))
        entries = self._labelled("digitalid_crl_entries", "Entries of the current CRL.")
        ends = self._labelled("digitalid_crl_next_update_seconds", "nextUpdate of the current CRL.")
        failures = self._labelled("digitalid_crl_failures", "CRLs that could not be made.")
        for name, crl in crls.items():
            entries.labels(name).set_function(partial(_entries, crl))
            ends.labels(name).set_function(partial(_end, crl))
            failures.labels(name).set_function(partial(_failures, schedules[name]))

    def watch(self, app: str) -> Middleware:
        """Middleware that counts and times the requests of ``app``."""
        # Looking a metric up by its labels costs more than counting does.
        children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

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
                counted = children.get((route, status))
                if counted is None:
                    counted = children[route, status] = (
                        self._requests.labels(app, route, status),
                        self._seconds.labels(app, route),
                    )
                counted[0].inc()
                counted[1].observe(perf_counter() - started)

        return count

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def _labelled(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["ca"], registry=self._registry)


def _entries(crl: CrlIssuer) -> float:
    return float(crl.current().count)


def _end(crl: CrlIssuer) -> float:
    return crl.current().next_update.timestamp()


def _failures(schedule: Schedule) -> float:
    return float(schedule.failures)
