"""Prometheus metrics of a running instance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from types import MappingProxyType

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

from cli.service.crls import Crls
from cli.service.ending import Certified
from crl.awaited import Awaited
from crl.history import Kind
from infra.errors import Rejected, Unavailable
from ocsp.metrics import BUCKETS, OcspMetrics
from pki.directory.publisher import Standing
from pki.log.log import Log
from pki.signer.watch import KeyWatch


class Metrics:
    """What is counted, and what is read off the instance when somebody asks."""

    def __init__(self, log: Log, crls: Crls, keys: KeyWatch) -> None:
        self._crls = crls
        self._keys = keys
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

    def exposition(
        self,
        ocsp: OcspMetrics | None,
        directories: Mapping[str, Standing] = MappingProxyType({}),
        certificates: Iterable[Certified] = (),
    ) -> bytes:
        """The Prometheus text format; ``ocsp``: of all processes together, if any answers;
        ``directories``: those that are published to; ``certificates``: those in use."""
        read_off = CollectorRegistry()
        if directories:
            read_off.register(Families(directory_families(directories)))
        read_off.register(Families(crl_families(self._crls)))
        read_off.register(Families([key_family(self._keys), certificate_family(certificates)]))
        if ocsp is not None:
            read_off.register(Families(ocsp_families(ocsp)))
        return generate_latest(self._registry) + generate_latest(read_off)


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
        ("turned_away", "Connections that were too many.", ocsp.turned_away),
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


def directory_families(directories: Mapping[str, Standing]) -> list[Metric]:
    def gauge(name: str, text: str, value: Callable[[Standing], float]) -> Metric:
        family = GaugeMetricFamily(f"digitalid_directory_{name}", text, labels=["directory"])
        for directory, standing in directories.items():
            family.add_metric([directory], value(standing))
        return family

    def counter(name: str, text: str, value: Callable[[Standing], float]) -> Metric:
        family = CounterMetricFamily(f"digitalid_directory_{name}", text, labels=["directory"])
        for directory, standing in directories.items():
            family.add_metric([directory], value(standing))
        return family

    return [
        gauge("sequence", "Last change that it shows.", lambda one: one.applied),
        gauge("behind", "Changes that it does not show yet.", lambda one: one.behind),
        gauge("lag_seconds", "Age of the oldest of them.", lambda one: one.lag),
        gauge("failing", "1 while it cannot be written to.", lambda one: bool(one.failing)),
        gauge("refused_entries", "Entries that it does not take.", lambda one: one.refused),
        gauge("left_out_crls", "CRLs too large for it.", lambda one: len(one.left_out)),
        counter("entries", "Entries that were written.", lambda one: one.entries),
        counter("failures", "Writes that failed.", lambda one: one.failures),
    ]


def key_family(keys: KeyWatch) -> Metric:
    available = GaugeMetricFamily(
        "digitalid_key_available", "Whether the key could sign when last looked at.", labels=["key"]
    )
    for name, why in keys.found.items():
        available.add_metric([name], float(why is None))
    return available


def certificate_family(certificates: Iterable[Certified]) -> Metric:
    ends = GaugeMetricFamily(
        "digitalid_certificate_not_after_seconds",
        "notAfter of a certificate in use, in seconds since 1970.",
        labels=["role", "name"],
    )
    for one in certificates:
        ends.add_metric([one.role, one.name], one.not_after.timestamp())
    return ends


def crl_families(crls: Crls) -> list[Metric]:
    labels = ["ca", "kind"]
    entries = GaugeMetricFamily(
        "digitalid_crl_entries", "Entries of the current CRL.", labels=labels
    )
    size = GaugeMetricFamily("digitalid_crl_bytes", "Octets of the current CRL.", labels=labels)
    ends = GaugeMetricFamily(
        "digitalid_crl_next_update_seconds", "nextUpdate of the current CRL.", labels=labels
    )
    failures = CounterMetricFamily(
        "digitalid_crl_failures", "CRLs that could not be made.", labels=["ca"]
    )
    due = GaugeMetricFamily(
        "digitalid_crl_import_due", "Whether a CRL from elsewhere is awaited.", labels=["ca"]
    )
    awaited = crls.awaited
    for kept in crls:
        if isinstance(kept.schedule, Awaited):
            due.add_metric([kept.series.name], float(kept.series.name in awaited))
        failures.add_metric([kept.series.name], kept.schedule.failures)
        for kind in Kind:
            try:
                crl = kept.series.current(kind)
            except (Rejected, Unavailable):
                continue
            labelled = [kept.series.name, kind.value]
            entries.add_metric(labelled, crl.count)
            size.add_metric(labelled, crl.size)
            ends.add_metric(labelled, crl.next_update.timestamp())
    return [entries, size, ends, failures, due]
