"""Run taskgate as a user does: the real command, in its own processes, on free ports."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

START_SECONDS = 90
STOP_SECONDS = 40


_FREE_PORTS = {"TASKGATE_HTTP": "127.0.0.1:0", "TASKGATE_GRPC": "127.0.0.1:0"}
"""In place of the documented ports, which another process may use; flags go before variables."""


def taskgate(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None, timeout: float = 60) -> Any:
    """Run one ``taskgate`` command to its end; the result has text ``stdout``, ``stderr`` and ``returncode``."""
    done: Any = subprocess.run(
        [sys.executable, "-m", "taskgate", *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
        env=_environment(env),
    )
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def _environment(extra: dict[str, str] | None) -> dict[str, str]:
    """This environment without its TASKGATE_ settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TASKGATE_")}
    return kept | (extra or {})


def eventually(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Return the first true value of ``condition``; fail the test after ``seconds`` without one.

    A busy machine needs long for what usually takes a second. A test that promises a time says it itself.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Running:
    """A running ``taskgate up`` or ``serve``; its output is collected while it runs."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        files: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """``files`` is its hard limit of open files, None for that of this process.

        ``prefix`` is a command that ends by executing the rest of the line.
        """
        limited = [] if files is None else ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
        self.process = subprocess.Popen(
            [*prefix, *limited, sys.executable, "-m", "taskgate", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(_FREE_PORTS | (env or {})),
            start_new_session=True,
        )
        self.out: list[str] = []
        self.log: list[str] = []
        self._readers = [self._collect(self.process.stdout, self.out), self._collect(self.process.stderr, self.log)]
        self._family: list[psutil.Process] = []

    @staticmethod
    def _collect(stream: Any, lines: list[str]) -> threading.Thread:
        def read() -> None:
            lines.extend(line.decode(errors="replace").rstrip("\n") for line in stream)
            stream.close()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def find(self, pattern: str, lines: Sequence[str] | None = None) -> re.Match[str] | None:
        """The first match of ``pattern`` in standard output (or ``lines``)."""
        for line in list(self.out if lines is None else lines):
            if match := re.search(pattern, line):
                return match
        return None

    def wait_for(self, pattern: str, *, in_log: bool = False, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait until a line of output (or of the log) matches."""

        def look() -> re.Match[str] | None:
            assert self.process.poll() is None or self.find(pattern, self.log if in_log else self.out), (
                f"ended with {self.process.returncode}: " + "\n".join(self.log)
            )
            return self.find(pattern, self.log if in_log else self.out)

        match = eventually(look, f"a line that matches {pattern!r}", seconds)
        assert isinstance(match, re.Match)
        return match

    def events(self, event: str, since: int = 0) -> list[dict[str, Any]]:
        """The log lines of one kind, from line ``since`` of the log on."""
        lines = [json.loads(line) for line in self.log[since:] if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def family(self) -> list[psutil.Process]:
        """This process and all its descendants; remembered, so that ``assert_gone`` can check each."""
        try:
            parent = psutil.Process(self.process.pid)
            members = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            members = []
        self._family += [member for member in members if member not in self._family]
        return members

    def envoy(self) -> psutil.Process:
        """The Envoy below this process."""
        return self.envoys()[0]

    def envoys(self) -> list[psutil.Process]:
        """All Envoys below this process."""
        return [member for member in self.family() if _command(member).endswith("envoy")]

    def workers(self) -> list[psutil.Process]:
        """The server processes below this process that are not Envoy."""
        return [
            member for member in self.family() if "taskgate.processes.worker_main" in " ".join(command_line(member))
        ]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.family()
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        code = self.process.wait(STOP_SECONDS)
        for reader in self._readers:
            reader.join(5)
        return code

    def assert_gone(self, seconds: float = 5) -> None:
        """Fail if any process of its family still runs."""
        eventually(lambda: not [p for p in self._family if _alive(p)], "all processes gone", seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs, even after a failed test."""
        self.family()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for member in self._family:
            if _alive(member):
                member.kill()
        for reader in self._readers:
            reader.join(5)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def command_line(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it has ended."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


class System(Running):
    """``taskgate up`` on free ports with a store, ready for calls."""

    def __init__(
        self,
        database: Path | str,
        *arguments: str,
        mode: str = "embedded",
        workers: int = 2,
        env: dict[str, str] | None = None,
        files: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """``database`` is a SQLite file, or a store's URL, whose password a flag would show to all users."""
        self.database: Any = database
        self.mode = mode
        store = database if isinstance(database, str) else f"sqlite:///{database}"
        super().__init__(
            "up",
            *("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"),
            *("--mode", mode, "--workers", str(workers)),
            *("--instance", "test-node", "--log-format", "json"),
            *("--drain-delay", "0", *arguments),  # no load balancer has to notice the drain
            env={"TASKGATE_STORE": store} | (env or {}),
            files=files,
            prefix=prefix,
        )

    def wait_ready(self) -> Self:
        """Wait for the banner and read the ports from it."""
        self.http = self.wait_for(r"REST +https?://(\S+)/api/tasks/")[1]
        self.grpc = self.wait_for(r"gRPC .*?; ([^ ,]+)")[1]
        return self

    def healthy_servers(self) -> int:
        """How many workers Envoy considers healthy, by its admin statistics."""
        _, statistics = ask_admin(self.envoy(), "GET", "/stats/prometheus?filter=membership_healthy")
        value = re.search(r"^envoy_cluster_membership_healthy\{[^}]*\} (\d+)$", statistics, re.MULTILINE)
        assert value, statistics
        return int(value[1])


def ask_admin(envoy: psutil.Process, method: str, target: str) -> tuple[int, str]:
    """Status and body of an answer of the admin interface, for any user who may open its socket."""
    command = envoy.cmdline()
    connection = http.client.HTTPConnection("localhost", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    connection.sock.connect(str(Path(command[command.index("-c") + 1]).with_name("admin.sock")))
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@contextmanager
def running_system(database: Path | str, *arguments: str, mode: str = "embedded", workers: int = 2) -> Iterator[System]:
    """A ready ``System`` over ``database`` (see there), stopped at the end."""
    with System(database, *arguments, mode=mode, workers=workers) as system:
        yield system.wait_ready()
