"""/metrics for Prometheus: requests as this process counts them, everything else from Postgres at each scrape.

Inference runs in worker processes, so its numbers are those kept with its results: there is no second truth. No label
holds an identity or a study key.
"""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medai_pipeline.errors import MedaiError
from medai_pipeline.services import Services
from medai_pipeline.storage.observed import Observed, Tally, observe
from medai_pipeline.web.access import Needs, Permission
from medai_pipeline.web.middleware import route_template

KEPT_S = 5.0  # two scrapers at once cost one look
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

router = APIRouter(include_in_schema=False)


class Scraper(Needs):
    """Who may scrape: who sends MEDAI_METRICS_TOKEN; without such a setting this machine itself, not by way of a proxy;
    else who is logged in and has the permission."""

    async def __call__(self, request: Request) -> Any:
        token = request.app.state.services.settings.metrics_token
        if token:
            given = request.headers.get("authorization", "")
            if hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                return None
        elif _is_here(request):
            return None
        return await super().__call__(request)


@router.get("/metrics")
def metrics(request: Request, may: Annotated[Any, Depends(Scraper(Permission.METRICS_READ))]) -> Response:
    """In Prometheus' text format."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


def install(app: FastAPI, services: Services) -> None:
    """The registry of this application, and the counting of its requests."""
    registry = CollectorRegistry()
    labels = ("method", "endpoint")
    requests = Counter("http_requests_total", "Requests by route and status", (*labels, "status"), registry=registry)
    spent = Histogram("http_request_duration_seconds", "Time from request to answer", labels, registry=registry)
    registry.register(FromPostgres(services))
    app.state.metrics = registry
    app.add_middleware(Counting, requests=requests, spent=spent)


class Counting:
    """Counts every request by the route as it was declared: a path may name a study, a template does not."""

    def __init__(self, app: ASGIApp, requests: Counter, spent: Histogram) -> None:
        self.app = app
        self.requests = requests
        self.spent = spent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            endpoint = route_template(scope)
            self.requests.labels(method, endpoint, str(status)).inc()
            self.spent.labels(method, endpoint).observe(time.perf_counter() - began)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class FromPostgres(Collector):
    """What `storage.observed` sees, as metric families. A database that does not answer is told as medai_up 0."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._guard = threading.Lock()
        self._seen: tuple[float, Observed] | None = None

    def describe(self) -> list[Any]:
        return []  # nothing is asked of Postgres when the application is made

    def collect(self) -> Iterator[Any]:
        up = GaugeMetricFamily("medai_up", "Whether Postgres answered this scrape")
        try:
            seen = self._look()
        except MedaiError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _gauges(seen)
        yield from _counters(seen.tallies)

    def _look(self) -> Observed:
        with self._guard:
            if self._seen is None or time.monotonic() - self._seen[0] > KEPT_S:
                services = self._services
                found = observe(services.engine, services.now(), services.settings.overdue_seconds)
                self._seen = (time.monotonic(), found)
            return self._seen[1]


def _gauges(seen: Observed) -> Iterator[GaugeMetricFamily]:
    by_label = (
        (
            "medai_studies",
            "Studies by the state of their latest revision",
            "state",
            {s.value: n for s, n in seen.studies.items()},
        ),
        ("medai_studies_failed", "Studies that failed and wait for a person, by stage", "stage", seen.failed),
        ("medai_deliveries", "Results on their way to the PACS, by state", "state", seen.deliveries),
    )
    for name, words, label, values in by_label:
        family = GaugeMetricFamily(name, words, labels=[label])
        for value, count in values.items():
            family.add_metric([value], count)
        yield family
    plain = (
        ("medai_queue_age_seconds", "How long the study waits that has been ready longest", seen.queue_age_s),
        (
            "medai_unreported_age_seconds",
            "Since the first image of the oldest study without a report",
            seen.unreported_age_s,
        ),
        ("medai_studies_overdue", "Studies without a report for longer than MEDAI_OVERDUE_SECONDS", seen.overdue),
        ("medai_sensor_lag_seconds", "Since the sensor last looked at the PACS and was answered", seen.sensor_age_s),
        ("medai_daemon_heartbeat_age_seconds", "Since Dagster's daemon last said that it lives", seen.daemon_age_s),
    )
    for name, words, number in plain:
        family = GaugeMetricFamily(name, words)
        family.add_metric([], float("inf") if number is None else number)
        yield family


def _counters(tallies: Sequence[Tally]) -> Iterator[Any]:
    said = CounterMetricFamily("ml_inferences", "Answers of models that were kept", labels=["model"])
    took = HistogramMetricFamily("ml_inference_duration_seconds", "A study's share of its batch", labels=["model"])
    reported = HistogramMetricFamily(
        "medai_arrival_to_report_seconds", "From the first image seen to a revision's first report", labels=["priority"]
    )
    failures = CounterMetricFamily("medai_failures", "Attempts that failed, by stage", labels=["stage"])
    for label, rows in _grouped(tallies, "inference"):
        said.add_metric([label], sum(row.count for row in rows))
        _add_histogram(took, label, rows)
    for label, rows in _grouped(tallies, "report"):
        _add_histogram(reported, label, rows)
    for label, rows in _grouped(tallies, "failure"):
        failures.add_metric([label], sum(row.count for row in rows))
    yield from (said, took, reported, failures)


def _grouped(tallies: Iterable[Tally], name: str) -> Iterator[tuple[str, list[Tally]]]:
    groups: defaultdict[str, list[Tally]] = defaultdict(list)
    for row in tallies:
        if row.name == name:
            groups[row.label].append(row)
    yield from groups.items()


def _add_histogram(family: HistogramMetricFamily, label: str, rows: Sequence[Tally]) -> None:
    """Buckets in Prometheus hold all that is at most their bound; those in the table only what is in no smaller one."""
    timed = sorted((row for row in rows if row.bound >= 0), key=lambda row: row.bound)
    total, buckets = 0, []
    for row in timed:
        total += row.count
        if row.bound != float("inf"):
            buckets.append((repr(row.bound), float(total)))
    buckets.append(("+Inf", float(total)))
    family.add_metric([label], buckets, sum(row.sum for row in timed))


def _is_here(request: Request) -> bool:
    """The caller is this machine, and nobody says to speak for another."""
    host = request.client.host if request.client else ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return loopback and not any(name in request.headers for name in _FORWARDED)
