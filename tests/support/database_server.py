"""The common base of the tests' database servers: a process on a free port, whose files outlive it."""

import itertools
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.running import eventually

_LOG_TAIL = 10_000

_FIRST_PORT, _SLICES, _SLICE = 12_000, 40, 500
"""Ports below the range for outgoing connections (32768 and up), which could take a port meanwhile.

Each process of pytest-xdist has a slice of its own.
"""


def _ports() -> Iterator[int]:
    """Cycle through the ports of this process, from a start that depends on its ID, so that runs rarely collide."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = _FIRST_PORT + worker % _SLICES * _SLICE
    for number in itertools.count(os.getpid()):
        yield begin + number % _SLICE


_next_ports = _ports()


def free_port() -> int:
    """A port that is free now, and that a server can bind again after it was stopped."""
    for port in itertools.islice(_next_ports, _SLICE):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port is left for this process of the tests")


class DatabaseServer(ABC):
    """One server process, ended by its process ID, and restarted on the same port and ``folder``."""

    patience = 30.0
    """Seconds that a start or a stop may take."""

    def __init__(self, folder: Path, port: int) -> None:
        """Does not start the server."""
        self.folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server executes requests of clients."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process. Fails unless it runs."""
        assert self._process is not None
        return self._process

    @property
    def runs(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._process is not None

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            # Ctrl-C goes to the tests only, which then stop their servers in order.
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        eventually(self._answers_while_it_runs, f"{type(self).__name__} answers on {self.port}", self.patience)

    def _answers_while_it_runs(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log()[-_LOG_TAIL:]}"
        return self.answers()

    def log(self) -> str:
        """The output of the server."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop by signal ``number``, by default an orderly stop; works on a frozen server too."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(self.patience)
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the server while the block runs."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server while the block runs: it accepts connections and does not answer."""
        process = self.process
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # otherwise one of its threads might still answer
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
