"""A running Conductor server, and its REST API as bytes."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from against_conductor.databases import Database
from tools.conductor_jar import find_jar, find_java
from tools.processes import Failed, ServerProcess, free_port

START_SECONDS = 300.0
"""Seconds until it answers; 20 to 70 on two cores."""

_MEMORY = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""It lives for a minute: compiling well costs more than it gives."""

PAYLOAD_THRESHOLD_KB, PAYLOAD_LIMIT_KB = 24, 96
"""Above the first a payload is moved out of the task, above the second the task fails; 3 and 10 MB by default."""

_SETTINGS = {
    "server.address": "127.0.0.1",
    "conductor.grpc-server.enabled": "true",
    "conductor.integrations.ai.enabled": "false",  # many tasks that are not used here, and a third of the start
    "conductor.scheduler.enabled": "false",
    # How often it looks at workflows for what has timed out; half a minute by default.
    "conductor.app.workflowOffsetTimeout": "1s",
    "conductor.app.taskExecutionPostponeDuration": "1s",
    "conductor.app.systemTaskWorkerCallbackDuration": "1s",
    "conductor.app.taskInputPayloadSizeThreshold": f"{PAYLOAD_THRESHOLD_KB}KB",
    "conductor.app.taskOutputPayloadSizeThreshold": f"{PAYLOAD_THRESHOLD_KB}KB",
    "conductor.app.maxTaskInputPayloadSizeThreshold": f"{PAYLOAD_LIMIT_KB}KB",
    "conductor.app.maxTaskOutputPayloadSizeThreshold": f"{PAYLOAD_LIMIT_KB}KB",
}


@dataclass(frozen=True, slots=True)
class Conductor:
    """Its addresses; every method is one HTTP call."""

    http: str
    grpc: str

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = HTTPConnection(self.http, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def must(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of an answer that is no error."""
        status, answer = self.call(method, path, body)
        if status >= 300:
            raise AssertionError(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return answer

    def ask(self, path: str) -> Any:
        """A JSON answer, parsed."""
        return json.loads(self.must("GET", path))


@contextmanager
def running_conductor(database: Database, folder: Path) -> Iterator[Conductor]:
    """The pinned release on an empty database; stopped at the end. Raises Missing."""
    jar, java = find_jar(), find_java()
    http, grpc = free_port(), free_port()
    conductor = Conductor(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    home = folder / "conductor"
    home.mkdir()
    settings = _SETTINGS | {"server.port": http, "conductor.grpc-server.port": grpc} | database.settings()
    command = [
        *(java, *_MEMORY, f"-Djava.io.tmpdir={home}", "-jar", str(jar.resolve())),
        *(f"--{name}={value}" for name, value in settings.items()),
    ]

    def ask() -> None:
        try:
            conductor.must("GET", "/health")
        except (OSError, AssertionError) as error:
            raise Failed(str(error)) from error

    with ServerProcess(command, folder / "conductor.log", folder=home) as process:
        process.wait_until(ask, poll_seconds=0.5, seconds=START_SECONDS)
        yield conductor


def wait_for(what: str, condition: Any, seconds: float = 60) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
