"""What is measured once instead of in rounds: importing and starting."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.cases import rest
from bench.errors import BenchError
from bench.processes import LOG_TAIL, ended_children_cpu_seconds, machine_cpu_seconds
from bench.servers import Site, start_taskgate
from bench.targets import check

IMPORT_SECONDS = 1800
"""The longest that an import may take; ten million rows take minutes."""

_MEMORY_POLL_SECONDS = 0.02
_START_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Import:
    """One run of ``taskgate import``, the start of the command included.

    ``other_cores`` is what everything else on the machine used meanwhile, on average.
    """

    tasks: int
    file_bytes: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    other_cores: float = 0.0

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return self.tasks / self.seconds


def import_tasks(database: Path, count: int, write: Callable[[Path], None], *, store: str = "") -> Import:
    """Import the ``count`` tasks that ``write`` writes as NDJSON into a SQLite file, or into the ``store`` of a URL.

    Files that are needed meanwhile lie beside ``database``. Raises BenchError if the command fails.
    """
    source = database.with_suffix(".ndjson")
    write(source)
    size = source.stat().st_size
    log = database.with_suffix(".log")
    url = store or f"sqlite:///{database}"
    command = [sys.executable, "-m", "taskgate", "import", "--quiet", "--store", url, str(source)]
    with log.open("wb") as output:
        started, used, busy = time.monotonic(), ended_children_cpu_seconds(), machine_cpu_seconds()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        peak = _watch_memory(process, started)
        seconds, used = time.monotonic() - started, ended_children_cpu_seconds() - used
    others = max(0.0, (machine_cpu_seconds() - busy - used) / seconds)
    source.unlink()
    if process.returncode != 0:
        raise BenchError(f"taskgate import ended with code {process.returncode}: {log.read_text()[-LOG_TAIL:]}")
    return Import(count, size, seconds, used, peak, others)


def _watch_memory(process: "subprocess.Popen[bytes]", started: float) -> int:
    """Wait until ``process`` has ended; the most resident memory seen until then, with all below it."""
    peak = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            parent = psutil.Process(process.pid)
            peak = max(peak, sum(p.memory_info().rss for p in (parent, *parent.children(recursive=True))))
        if time.monotonic() - started > IMPORT_SECONDS:
            process.kill()
            process.wait()
            raise BenchError(f"taskgate import did not end within {IMPORT_SECONDS} s")
        with suppress(subprocess.TimeoutExpired):
            process.wait(_MEMORY_POLL_SECONDS)
    return peak


def seconds_to_first_answer(site: Site, transport: str, times: int) -> float:
    """Median time from running ``taskgate up`` to its first right answer over REST, on a store that exists."""
    return statistics.median(_start_once(site, transport) for _ in range(times))


def _start_once(site: Site, transport: str) -> float:
    started = time.monotonic()
    server = start_taskgate(site, transport)
    with server.process:
        server.process.wait_until(lambda: check(rest(server.http)), poll_seconds=_START_POLL_SECONDS)
        return time.monotonic() - started
