"""Run a server in a process of its own, for tests and the benchmark, and stop it with all its child processes."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOG_TAIL = 2000
"""Characters of a server's log that are shown when it fails."""


class Failed(Exception):
    """A program does not do what it must; the message is a sentence."""


class ServerProcess:
    """One command and all its child processes; a context manager that stops them. Output goes to the file ``log``.

    The command gets ``environment``, without the ``TASKGATE_*`` settings of the person who runs it.
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
        self._frozen = False
        self._name = Path(command[0]).name
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
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops all servers in order
            )

    def wait_until(
        self, answers: Callable[[], object], *, poll_seconds: float = 0.02, seconds: float = START_SECONDS
    ) -> None:
        """Return once ``answers`` no longer raises Failed; raises it if the server ends or takes ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answers()
            except Failed as error:
                if (code := self._process.poll()) is not None:
                    raise Failed(f"{self._name} ended with code {code}:\n{self.log_tail()}") from error
                if time.monotonic() > deadline:
                    raise Failed(f"{self._name} does not answer: {error}\n{self.log_tail()}") from error
                time.sleep(poll_seconds)
            else:
                return

    def wait(self, seconds: float) -> int | None:
        """Wait for the exit code; None if the process still runs after ``seconds``."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def family(self) -> list[psutil.Process]:
        """Return it and all its child processes. Raises Failed if it has ended."""
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise Failed(f"{self._name} has ended:\n{self.log_tail()}") from error

    def freeze(self) -> None:
        """Freeze it until it is ``awake``: for servers that use CPU while idle."""
        self._process.send_signal(signal.SIGSTOP)
        self._frozen = True

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run within the context if it is frozen."""
        frozen = self._frozen
        self._thaw()
        try:
            yield
        finally:
            if frozen:
                self.freeze()

    def stop(self) -> None:
        """Ask it to stop, wait, and kill the processes that are left."""
        self._thaw()
        family = self.family() if self._process.poll() is None else []
        if family:
            self._process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for process in left:
            process.kill()
        self._process.wait()

    def log_tail(self) -> str:
        """Return the end of its output."""
        return self._log.read_text(errors="replace")[-LOG_TAIL:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _thaw(self) -> None:
        if self._frozen:
            self._process.send_signal(signal.SIGCONT)
            self._frozen = False


def free_port() -> int:
    """Return a TCP port that is free now, for servers that cannot choose one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def free_address() -> str:
    """Return a HOST:PORT on the loopback interface that is free now."""
    return f"127.0.0.1:{free_port()}"
