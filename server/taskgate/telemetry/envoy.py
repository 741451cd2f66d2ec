"""Take the useful part of Envoy's own statistics: requests by route and status, connections, refusals, memory.

Envoy has hundreds of families, most of them about features that are not in use. Those below are passed on; ``filter``
makes Envoy write only them. The sums stay when an Envoy ends, as in ``ledger``, but its counts since the last scrape
are lost.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

from prometheus_client.parser import text_string_to_metric_families

from taskgate.telemetry.block import Family, Totals, add, without_gauges
from taskgate.telemetry.calls import SECONDS

REQUESTS: Final = Family(
    name="http_requests",
    kind="counter",
    help="Requests that Envoy has answered, by route and HTTP status; gRPC calls have the route grpc and status 200.",
    labels=("route", "code"),
)
REQUEST_SECONDS: Final = Family(
    name="http_request_duration_seconds",
    kind="histogram",
    help="Seconds from the first byte of a request to the last byte of its answer; Envoy adds them up every 5 s.",
    labels=("route",),
    buckets=SECONDS,  # those of gateway/metrics.yaml
)

_ROUTES: Final = {
    "get-task": "/api/tasks/{taskId}",
    "get-task-with-body": "/api/tasks/{taskId}",
    "get-task-with-chunked-body": "/api/tasks/{taskId}",
    "get-task-only": "/api/tasks/{taskId}",
    "health": "/healthz",
    "health-only": "/healthz",
    "openapi": "/openapi.json",
    "docs": "/docs",
    "docs-start": "/docs",
    "docs-style": "/docs",
    "docs-script": "/docs",
    "docs-only": "/docs",
    "create-token": "/api/token",
    "create-token-only": "/api/token",
    "create-token-grpc": "grpc",
    "grpc-unary": "grpc",
    "grpc-streams": "grpc",
    "grpc": "grpc",
    "grpc-over-http1": "grpc",
    "grpc-unknown-encoding": "grpc",
    "beside-tasks": "none",
    "no-such-route": "none",
    "-": "none",  # refused before Envoy looked for a route
    "": "none",
    "preflight": "preflight",
}
"""Labels of the routes in ``gateway/``; any other has its own name."""

_MICROSECONDS: Final = 1e-6
_AT_ONCE: Final = 8  # Envoys that are asked together

_REQUESTS, _DURATION = "envoy_taskgate_requests", "envoy_taskgate_request_duration"
"""Envoy's names of what ``gateway/metrics.yaml`` defines."""


_CLUSTER: Final = ("envoy_cluster_name",)


def _passed(name: str, kind: Literal["counter", "gauge"], text: str, *labels: str) -> Family:
    """Return a family under Envoy's name. A counter without the ending that Prometheus wants has no type there."""
    ended = kind == "counter" and name.endswith("_total")
    kept = kind if ended or kind == "gauge" else "untyped"
    return Family(name=name.removesuffix("_total") if ended else name, kind=kept, help=text, labels=labels)


PASSED: Final = {
    family.name: family
    for family in (
        _passed("envoy_http_downstream_cx_total", "counter", "Connections that clients have made."),
        _passed("envoy_http_downstream_cx_active", "gauge", "Connections of clients that are open."),
        _passed("envoy_http_downstream_cx_rx_bytes_total", "counter", "Bytes received from clients."),
        _passed("envoy_http_downstream_cx_tx_bytes_total", "counter", "Bytes sent to clients."),
        _passed("envoy_http_downstream_cx_protocol_error", "counter", "Connections that broke the HTTP protocol."),
        _passed("envoy_http_downstream_rq_active", "gauge", "Requests in flight."),
        _passed("envoy_http_downstream_rq_rx_reset", "counter", "Requests that clients have cancelled."),
        _passed("envoy_http_downstream_rq_timeout", "counter", "Requests that did not arrive in time."),
        _passed("envoy_http_downstream_rq_header_timeout", "counter", "Requests whose headers did not arrive in time."),
        _passed("envoy_http_downstream_rq_idle_timeout", "counter", "Requests ended because they made no progress."),
        _passed("envoy_http_downstream_rq_overload_close", "counter", "Requests refused for lack of memory."),
        _passed("envoy_listener_downstream_global_cx_overflow", "counter", "Connections refused: too many were open."),
        _passed("envoy_server_memory_allocated", "gauge", "Bytes of memory that Envoy uses."),
        _passed("envoy_server_memory_heap_size", "gauge", "Bytes of memory that Envoy has reserved."),
        _passed("envoy_cluster_membership_healthy", "gauge", "Servers that Envoy considers healthy.", *_CLUSTER),
        _passed("envoy_cluster_upstream_rq_retry", "counter", "Calls repeated on another server.", *_CLUSTER),
        _passed("envoy_cluster_upstream_cx_connect_fail", "counter", "Connections to servers that failed.", *_CLUSTER),
        _passed(
            "envoy_cluster_upstream_rq_pending_overflow", "counter", "Calls refused: too many were waiting.", *_CLUSTER
        ),
    )
}
"""What is passed on, by name. Families about clusters are for mode proxied alone."""

TARGET: Final = "/stats/prometheus?filter=(^taskgate[.]|{})".format(
    "|".join(
        rf"[.]{name.split('_', 2)[2]}{'_total' if family.kind == 'counter' else ''}$" for name, family in PASSED.items()
    )
)
"""The path that asks Envoy for them: ``envoy_http_downstream_cx_total`` is ``http.….downstream_cx_total`` there."""


class EnvoyLedger:
    """The statistics of a node's Envoys, for any thread."""

    def __init__(self, *, servers_behind: bool) -> None:
        """``servers_behind`` says whether Envoy has servers behind it."""
        self._families = {name: family for name, family in PASSED.items() if servers_behind or not family.labels}
        self._lock = threading.Lock()
        self._last: dict[Path, Totals] = {}
        self._ended: Totals = {}
        self._threads = ThreadPoolExecutor(_AT_ONCE, "envoy-statistics")

    def read(self, ask: Mapping[Path, Callable[[], str | None]]) -> tuple[Totals, int]:
        """Return the sums over all Envoys, and how many did not answer: for them, their last answer counts.

        ``ask`` has a function for each running Envoy, by its admin socket; it returns the text, or None in time.
        """
        with self._lock:
            answers = dict(zip(ask, self._threads.map(lambda each: each(), ask.values()), strict=True))
            self._last |= {path: self._parse(text) for path, text in answers.items() if text is not None}
            for path in [path for path in self._last if path not in ask]:
                add(self._ended, without_gauges(self._last.pop(path)))
            sums: Totals = {}
            add(sums, self._ended)
            for totals in self._last.values():
                add(sums, totals)
            return sums, sum(text is None for text in answers.values())

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)

    def _parse(self, text: str) -> Totals:
        totals: Totals = {family.name: (family, {}) for family in (REQUESTS, REQUEST_SECONDS)}
        buckets: dict[str, list[tuple[float, float]]] = defaultdict(list)
        sums: dict[str, float] = {}
        for parsed in text_string_to_metric_families(text):
            for sample, labels, value, *_ in parsed.samples:
                name = sample.removesuffix("_total")  # the library adds the ending to counters that lack it
                if family := self._families.get(name):
                    if labels.get("envoy_http_conn_manager_prefix", "taskgate") == "taskgate":
                        key = tuple(labels[label] for label in family.labels)
                        add(totals, {family.name: (family, {key: [value]})})
                elif name == _REQUESTS:
                    key = _label(labels["route"]), labels["code"]
                    add(totals, {REQUESTS.name: (REQUESTS, {key: [value]})})
                elif name == f"{_DURATION}_bucket":
                    buckets[labels["route"]].append((float(labels["le"]), value))
                elif name == f"{_DURATION}_sum":
                    sums[labels["route"]] = value * _MICROSECONDS
        for route, cumulative in buckets.items():
            numbers = [*_separate(cumulative), sums.get(route, 0.0)]
            add(totals, {REQUEST_SECONDS.name: (REQUEST_SECONDS, {(_label(route),): numbers})})
        return totals


def _label(route: str) -> str:
    return _ROUTES.get(route, route)


def _separate(cumulative: list[tuple[float, float]]) -> list[float]:
    """Return how many values each bucket has alone; Prometheus counts in each those of the smaller ones, too."""
    counts = [count for _, count in sorted(cumulative)]
    return [count - before for before, count in zip([0.0, *counts], counts, strict=False)]
