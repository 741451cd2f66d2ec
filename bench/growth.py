"""Test whether memory grows: measure it after 32 clients have read a task of 10 MB, run after run."""

import statistics
import time

from bench.cases import SERVERS, rest
from bench.loads import Load, run
from bench.measuring import Settings
from bench.report import Aim, Report, Table
from bench.servers import Site, running
from bench.starting import SETTLE_SECONDS
from bench.targets import check
from bench.tasks import LARGE
from bench.usage import MEBIBYTE, resident_bytes
from tools.processes import Failed

CLIENTS = 32

GROWTH_AIM = 1.10
"""Counts as no growth: equal runs differ by chance."""

_RUNS, _QUICK_RUNS = 8, 4


def measure_growth(site: Site, settings: Settings, report: Report) -> None:
    """Compare the two halves of the runs: single runs differ by chance, but a leak in every run shows."""
    runs, found = (_QUICK_RUNS if settings.quick else _RUNS), []
    with running(SERVERS, ["embedded"], site, report.leave_out) as servers:
        for server in servers.values():
            target = rest(server, LARGE)
            server.process.wait_until(lambda target=target: check(target))  # type: ignore[misc]
            for number in range(runs):
                result = run(target, Load(CLIENTS, 1.0, 3 * CLIENTS))
                if result.errors:
                    raise Failed(f"{result.errors:,} reads of 10 MB failed, {result.requests:,} did not")
                time.sleep(SETTLE_SECONDS)
                found.append(sum(resident_bytes(server.process).values()) / MEBIBYTE)
                report.say(f"run {number + 1} of {runs}: {CLIENTS} clients read 10 MB: {found[-1]:,.0f} MiB afterwards")
    title = f"Memory after {CLIENTS} clients have read 10 MB, run after run"
    report.tables.append(
        Table(
            title,
            ("MiB, all processes", *map(str, range(1, runs + 1))),
            [("taskgate embedded", *(f"{size:,.0f}" for size in found))],
        )
    )
    if half := len(found) // 2:
        growth = statistics.median(found[-half:]) / statistics.median(found[:half])
        report.aims.append(
            Aim(f"memory after {CLIENTS} clients have read 10 MB, later runs ÷ earlier", growth, GROWTH_AIM)
        )
