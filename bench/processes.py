"""A server under measurement: started, watched for CPU time and memory, stopped with everything below it."""

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bench.errors import BenchError

START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOG_TAIL = 2000
"""Characters of a server's log that are shown when it fails."""

ENVOY, OTHER = "Envoy", "other"
"""The two kinds of process that CPU time is told apart by; an Envoy may have Python inside."""

_CPU_CLOCK = 2
"""CPUCLOCK_SCHED of Linux, the last three bits of a clock ID: nanoseconds that the scheduler gave to a process."""


@dataclass(frozen=True, slots=True)
class CpuTime:
    """``seconds`` of CPU time by kind of process, and the process IDs of the ``envoys``."""

    seconds: Mapping[str, float]
    envoys: frozenset[int]


class ServerProcess:
    """One command and all processes below it. What it writes goes to the file ``log``; a context manager that stops it.

    Settings of the person who measures (``TASKGATE_*``) do not reach it; ``environment`` does.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        folder: Path | None = None,
    ) -> None:
        """Start it, in ``folder`` if given."""
        self._asleep = False
        self._log = log
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TASKGATE_")}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=kept | dict(environment or {}),
                cwd=folder,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then stops its servers in order
            )

    def wait_until(
        self, answers: Callable[[], object], *, poll_seconds: float = 0.02, seconds: float = START_SECONDS
    ) -> None:
        """Return once ``answers`` no longer raises BenchError; raises it if the server ends or takes ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answers()
            except BenchError as error:
                if self._process.poll() is not None:
                    code = self._process.returncode
                    raise BenchError(f"{self._name} ended with code {code}:\n{self._log_tail()}") from error
                if time.monotonic() > deadline:
                    raise BenchError(f"{self._name} does not answer: {error}\n{self._log_tail()}") from error
                time.sleep(poll_seconds)
            else:
                return

    def cpu_seconds(self) -> CpuTime:
        """CPU time since its start, by kind of process; that of processes that have ended is counted as ``OTHER``."""
        seconds = {ENVOY: 0.0, OTHER: 0.0}
        envoys = set()
        for process in self._family():
            with suppress(psutil.NoSuchProcess):  # it has just ended, and its time is in that of who started it
                kind, times = _kind(process), process.cpu_times()
                seconds[kind] += _cpu(process)
                seconds[OTHER] += times.children_user + times.children_system
                if kind == ENVOY:
                    envoys.add(process.pid)
        return CpuTime({kind: value for kind, value in seconds.items() if value}, frozenset(envoys))

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory by what a process is; several of one kind are added up."""
        memory: dict[str, int] = {}
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                label = describe_command(process.cmdline())
                memory[label] = memory.get(label, 0) + process.memory_info().rss
        return memory

    def sleep(self) -> None:
        """Freeze it, for servers that keep themselves busy, until ``awake``."""
        self._process.send_signal(signal.SIGSTOP)
        self._asleep = True

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run for a while if it is frozen."""
        asleep = self._asleep
        self._wake()
        try:
            yield
        finally:
            if asleep:
                self.sleep()

    def stop(self) -> None:
        """Ask it to stop, wait, and end whatever is left of it."""
        self._wake()
        family = self._family() if self._process.poll() is None else []
        if family:
            self._process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for process in left:
            process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wake(self) -> None:
        if self._asleep:
            self._process.send_signal(signal.SIGCONT)
            self._asleep = False

    @property
    def _name(self) -> str:
        return describe_command([str(argument) for argument in self._process.args])  # type: ignore[union-attr]

    def _family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise BenchError(f"{self._name} has ended:\n{self._log_tail()}") from error

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL:]


def cpu_spent(before: CpuTime, after: CpuTime) -> dict[str, float]:
    """Seconds by kind of process between two looks. Raises BenchError if an Envoy ended or appeared in between.

    Other processes may come and go: taskgate converts large tasks in processes of their own.
    """
    if before.envoys != after.envoys:
        raise BenchError("an Envoy ended while it was measured")
    return {kind: seconds - before.seconds.get(kind, 0.0) for kind, seconds in after.seconds.items()}


def ended_children_cpu_seconds() -> float:
    """CPU time of all processes that we started and that have ended, and of theirs: for a difference of two looks.

    Servers do not disturb it, since they live until the measurement is over.
    """
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def machine_cpu_seconds() -> float:
    """CPU time that all programs of this machine have used, and that its host has taken away."""
    times = psutil.cpu_times()
    # Interrupts are left out: the kernel answers the loopback network there, on behalf of no program.
    return float(sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "steal")))


def describe_command(command: Sequence[str]) -> str:
    """What a process is, in a word or two: ``envoy``, ``taskgate up``, a module of taskgate, ``uvicorn``, ``java``."""
    if not command:
        return "?"
    if "-m" not in command:
        return Path(command[0]).name
    module, *arguments = command[command.index("-m") + 1 :]
    return f"{module} {arguments[0]}" if module == "taskgate" and arguments else module


def free_port() -> int:
    """A TCP port that is free now, for servers that have to be told one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _kind(process: psutil.Process) -> str:
    return ENVOY if process.name().startswith("envoy") else OTHER


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of all threads, ended ones included."""
    try:
        # /proc/PID/stat counts in hundredths of a second; a round has few of those for servers that have little to do.
        return time.clock_gettime(~process.pid << 3 | _CPU_CLOCK)
    except OSError:  # not Linux
        times = process.cpu_times()
        return float(times.user + times.system)
