"""CPU time and memory of processes."""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from tools.processes import ServerProcess

MEBIBYTE = 1024 * 1024

_CPU_CLOCK = 2
"""CPUCLOCK_SCHED of Linux, the last three bits of a clock ID: nanoseconds that the scheduler gave to a process."""


def cpu_seconds(processes: Iterable[ServerProcess]) -> float:
    """CPU time of servers and all below them since their start, that of what has ended below them included."""
    total = 0.0
    for process in (member for server in processes for member in server.family()):
        with suppress(psutil.NoSuchProcess):  # it has just ended, and its time is in that of who started it
            ended = process.cpu_times()
            total += _cpu(process) + ended.children_user + ended.children_system
    return total


def resident_bytes(server: ServerProcess) -> dict[str, int]:
    """Resident memory by program; several processes of one are added up."""
    memory: dict[str, int] = {}
    for process in server.family():
        with suppress(psutil.NoSuchProcess):
            memory[process.name()] = memory.get(process.name(), 0) + process.memory_info().rss
    return memory


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of all threads, ended ones included."""
    try:
        # /proc/PID/stat counts in hundredths of a second; a round has few of those for servers that have little to do.
        return time.clock_gettime(~process.pid << 3 | _CPU_CLOCK)
    except OSError:  # not Linux
        times = process.cpu_times()
        return float(times.user + times.system)
