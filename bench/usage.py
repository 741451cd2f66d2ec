"""Measure CPU time and memory of processes."""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from tools.processes import ServerProcess

MEBIBYTE = 1024 * 1024

_CPU_CLOCK = 2
"""CPUCLOCK_SCHED of Linux, the last three bits of a clock ID: nanoseconds that the scheduler gave to a process."""


def cpu_seconds(processes: Iterable[ServerProcess]) -> float:
    """Return the CPU time of servers and their child processes since their start, including those that have ended."""
    total = 0.0
    for process in (member for server in processes for member in server.family()):
        with suppress(psutil.NoSuchProcess):  # it has just ended, and its time counts for its parent
            ended = process.cpu_times()
            total += _cpu(process) + ended.children_user + ended.children_system
    return total


def resident_bytes(server: ServerProcess) -> dict[str, int]:
    """Return resident memory by program, summed over its processes."""
    memory: dict[str, int] = {}
    for process in server.family():
        with suppress(psutil.NoSuchProcess):
            memory[process.name()] = memory.get(process.name(), 0) + process.memory_info().rss
    return memory


def _cpu(process: psutil.Process) -> float:
    """Return CPU seconds of all threads, including those that have ended."""
    try:
        # /proc/PID/stat counts in hundredths of a second, too coarse for a round of a server with little to do.
        return time.clock_gettime(~process.pid << 3 | _CPU_CLOCK)
    except OSError:  # not Linux
        times = process.cpu_times()
        return float(times.user + times.system)
