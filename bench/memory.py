"""Resident memory: of servers at rest, and while 32 clients read a task of 10 MB, run after run."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.cases import rest
from bench.errors import BenchError
from bench.loads import Generator, Load
from bench.processes import ServerProcess
from bench.servers import Server
from bench.tasks import LARGE

CLIENTS = 32
READS = 3 * CLIENTS
"""Reads in each run; a generator that cannot count goes on for so many seconds instead."""

SETTLE_SECONDS = 1.0
"""How long a server that has just answered is left alone before its memory counts as that of an idle one."""

GROWING_SERVERS = {
    "taskgate-envoy": "taskgate inside Envoy",
    "taskgate-grpcio": "taskgate on grpcio",
    "go": "Go: grpc-gateway over gRPC",
}
"""Names of servers, and titles of those whose growth is measured."""

_POLL_SECONDS = 0.02


@dataclass(slots=True)
class Growth:
    """Bytes of a server's processes, by run: the most during the run, and what is left ``SETTLE_SECONDS`` after it."""

    server: str
    peaks: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """The median peak of the later half of the runs, divided by that of the earlier half; None for too few.

        Peaks of single runs differ by chance; memory that is lost in every run shows in the halves all the same.
        """
        return later_by_earlier(self.peaks)


def later_by_earlier(values: Sequence[float]) -> float | None:
    """The median of the second half of ``values`` over that of the first, the one in the middle left out."""
    half = len(values) // 2
    return statistics.median(values[-half:]) / statistics.median(values[:half]) if half else None


def idle_memory(servers: Mapping[str, Server]) -> dict[str, dict[str, int]]:
    """Resident bytes of each server by what its processes are; to be called before there is load."""
    time.sleep(SETTLE_SECONDS)
    return {name: server.process.resident_bytes() for name, server in servers.items()}


def measure_growth(
    servers: Mapping[str, Server], generator: Generator, runs: int, seconds: float, progress: Callable[[str], None]
) -> list[Growth]:
    """Every run of every server that is there; what fails is kept as a problem."""
    found = {name: Growth(name) for name in GROWING_SERVERS if name in servers}
    for number in range(runs):
        for name, growth in found.items():
            try:
                _one_run(growth, servers[name], generator, seconds)
            except BenchError as error:
                growth.problems.append(f"run {number + 1}: {error}")
            else:
                peak = growth.peaks[-1] >> 20
                progress(f"run {number + 1} of {runs}: {name}, {CLIENTS} clients read 10 MB: at most {peak:,} MiB")
    return list(found.values())


def _one_run(growth: Growth, server: Server, generator: Generator, seconds: float) -> None:
    watch = _Watch(server.process)
    watch.start()
    try:
        result = generator.run(rest(server.http, LARGE), Load(CLIENTS, seconds, READS))
    finally:
        watch.end()
    if result.errors or not result.requests:
        growth.problems.append(f"{result.errors:,} reads failed, {result.requests:,} did not")
    growth.peaks.append(watch.peak)
    time.sleep(SETTLE_SECONDS)
    growth.settled.append(total(server.process))


def total(process: ServerProcess) -> int:
    """Resident bytes of all of a server's processes."""
    return sum(process.resident_bytes().values())


class _Watch(threading.Thread):
    """The most memory that a server has had since ``start`` when ``end`` returns."""

    def __init__(self, process: ServerProcess) -> None:
        super().__init__()
        self._process = process
        self._over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            self.peak = max(self.peak, total(self._process))

    def end(self) -> None:
        self._over.set()
        self.join()
