"""Measure ``taskgate up``: the time until its first right answer, and its memory when idle."""

import statistics
import time

from bench.cases import rest
from bench.measuring import Settings
from bench.report import Aim, Report, Table
from bench.servers import Site, Starter, start_proxied, start_taskgate
from bench.targets import check
from bench.usage import MEBIBYTE, resident_bytes
from tools.servers import Missing

START_AIM = 3.0
IDLE_AIM = 150.0
_STARTS = 3

SETTLE_SECONDS = 1.0
"""Seconds after an answer until the memory of a server counts as that of an idle one."""

_POLL_SECONDS = 0.005

_HOW = {"embedded": start_taskgate, "proxied": start_proxied}


def measure_start(site: Site, settings: Settings, report: Report) -> None:
    """Measure on an existing store: the median of some starts, and the memory of the last one."""
    cells = []
    for how, start in _HOW.items():
        times = settings.rounds_of(_STARTS)
        report.say(f"starting taskgate {how}, {times} times")
        try:
            taken, memory = zip(*(_start_once(site, start) for _ in range(times)), strict=True)
        except Missing as reason:
            report.leave_out(f"taskgate {how}", str(reason))
            continue
        seconds = statistics.median(taken)
        report.aims.append(Aim(f"taskgate {how}, start to first answer", seconds, START_AIM, "s"))
        if how == "embedded":
            envoy = memory[-1]["envoy"] / MEBIBYTE
            report.aims.append(
                Aim("resident memory of one Envoy with the service inside, idle", envoy, IDLE_AIM, "MiB")
            )
        parts = ", ".join(f"{part} {size / MEBIBYTE:,.0f}" for part, size in memory[-1].items())
        cells.append((f"taskgate {how}", f"{seconds:.2f}", parts))
    report.tables.append(Table("Start to first answer, and memory at rest", ("taskgate up", "s", "MiB"), cells))


def _start_once(site: Site, start: Starter) -> tuple[float, dict[str, int]]:
    """Return seconds from running the command to its first right answer over REST, and resident bytes a while later."""
    started = time.monotonic()
    server = start(site)
    with server.process:
        server.process.wait_until(lambda: check(rest(server)), poll_seconds=_POLL_SECONDS)
        taken = time.monotonic() - started
        time.sleep(SETTLE_SECONDS)
        return taken, resident_bytes(server.process)
