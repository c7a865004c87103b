"""Prometheus metrics of a running instance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from time import perf_counter

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from crl.issuer import CrlIssuer
from crl.schedule import Schedule
from ocsp.metrics import BUCKETS, OcspMetrics
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
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        leaves = Gauge("digitalid_log_leaves", "Leaves in the log.", registry=self._registry)
        leaves.set_function(lambda: float(log.size))
        entries = self._labelled("digitalid_crl_entries", "Entries of the current CRL.")
        ends = self._labelled("digitalid_crl_next_update_seconds", "nextUpdate of the current CRL.")
        failures = self._labelled("digitalid_crl_failures", "CRLs that could not be made.")
        for name, crl in crls.items():
            entries.labels(name).set_function(partial(_entries, crl))
            ends.labels(name).set_function(partial(_end, crl))
            failures.labels(name).set_function(partial(_failures, schedules[name]))

    def count(self, app: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        # Looking a metric up by its labels costs more than counting does.
        counted = self._children.get((app, route, status))
        if counted is None:
            counted = self._children[app, route, status] = (
                self._requests.labels(app, route, status),
                self._seconds.labels(app, route),
            )
        counted[0].inc()
        counted[1].observe(seconds)

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
                self.count(app, route, status, perf_counter() - started)

        return count

    def exposition(self, ocsp: OcspMetrics | None) -> bytes:
        """The Prometheus text format; ``ocsp``: of all processes together, if any answers."""
        if ocsp is None:
            return generate_latest(self._registry)
        with_ocsp = CollectorRegistry()
        with_ocsp.register(Families(ocsp_families(ocsp)))
        return generate_latest(self._registry) + generate_latest(with_ocsp)

    def _labelled(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["ca"], registry=self._registry)


class Families(Collector):
    """Families that were counted elsewhere."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def ocsp_families(ocsp: OcspMetrics) -> list[Metric]:
    answers = CounterMetricFamily(
        "digitalid_ocsp_answers", "OCSP answers, by status.", labels=["status"]
    )
    for status, count in sorted(ocsp.answers.items()):
        answers.add_metric([status], count)
    refusals = CounterMetricFamily(
        "digitalid_ocsp_refusals", "OCSP requests that got an error, by its code.", labels=["code"]
    )
    for code, count in sorted(ocsp.refusals.items()):
        refusals.add_metric([code], count)
    total = 0
    buckets: list[tuple[str, float]] = []
    for end, count in zip((*map(str, BUCKETS), "+Inf"), ocsp.signing, strict=True):
        total += count
        buckets.append((end, total))
    signing = HistogramMetricFamily(
        "digitalid_ocsp_signing_seconds",
        "Time from a request that no kept answer fits to its signed answer.",
        buckets=buckets,
        sum_value=ocsp.signing_seconds,
    )
    plain = (
        ("cache_hits", "Answers that were kept already.", ocsp.hits),
        ("not_modified", "Answers that the asker had already (304).", ocsp.unchanged),
        ("signed", "Answers that were signed because somebody asked.", ocsp.signed),
        ("refreshed", "Answers that were signed before they aged.", ocsp.refreshed),
    )
    now = (
        ("kept", "Answers that are kept.", ocsp.kept),
        ("oldest_seconds", "Age of the oldest answer that is kept.", ocsp.oldest),
        ("source_lag_seconds", "Time since the statuses were surely right.", ocsp.lag),
        ("connections", "Connections that are open.", ocsp.connections),
    )
    return [
        answers,
        refusals,
        signing,
        *(CounterMetricFamily(f"digitalid_ocsp_{name}", text, n) for name, text, n in plain),
        *(GaugeMetricFamily(f"digitalid_ocsp_{name}", text, n) for name, text, n in now),
    ]


def _entries(crl: CrlIssuer) -> float:
    return float(crl.current().count)


def _end(crl: CrlIssuer) -> float:
    return crl.current().next_update.timestamp()


def _failures(schedule: Schedule) -> float:
    return float(schedule.failures)
