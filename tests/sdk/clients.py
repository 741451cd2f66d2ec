"""The released SDKs behind one interface: make a client, then ask it for tasks.

Python's runs in this process. The others run in a process of their own, and answer each line of their input with a line
of JSON.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tools import cassandra_jars, sdk_clients

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
"""Has node and go from their wheels, so that the versions are the same on every machine."""

Keys = tuple[str, str]
"""Key ID and secret."""


NAMES = ("python", "javascript", "go", "java", "rust")

SDKS = (
    "python",
    pytest.param("javascript", marks=pytest.mark.needs("npm packages")),
    pytest.param("go", marks=pytest.mark.needs("go modules")),
    pytest.param("java", marks=pytest.mark.needs("java sdk")),
    pytest.param("rust", marks=pytest.mark.needs("rust sdk")),
)
"""Parameters for a test of each SDK, by its name."""


class ClientFailed(Exception):
    """The SDK made no client. ``pauses`` are those between its attempts, in milliseconds."""

    def __init__(self, message: str, pauses: list[int]) -> None:
        super().__init__(message)
        self.pauses = pauses


class Client(Protocol):
    """A client of an SDK."""

    def ask(self, task_id: str) -> dict[str, Any]:
        """Return ``{"task": …}``, or ``{"error": …}`` with the text that a user of the SDK sees."""
        ...


class PythonClient:
    """conductor-python."""

    def __init__(self, base_url: str, keys: Keys | None) -> None:
        # Here, for every process of a run collects this file, and the SDK takes a second to import.
        from conductor.client.configuration.configuration import Configuration  # noqa: PLC0415
        from conductor.client.configuration.settings.authentication_settings import (  # noqa: PLC0415
            AuthenticationSettings,
        )
        from conductor.client.orkes_clients import OrkesClients  # noqa: PLC0415

        settings = AuthenticationSettings(*keys) if keys else None
        configuration = Configuration(server_api_url=base_url, authentication_settings=settings)
        self.sdk: Any = OrkesClients(configuration).get_task_client()

    def ask(self, task_id: str) -> dict[str, Any]:
        """See ``Client``."""
        from conductor.client.http.rest import ApiException  # noqa: PLC0415 - as above

        try:
            return {"task": self.sdk.api_client.sanitize_for_serialization(self.sdk.get_task(task_id))}
        except ApiException as error:
            return {"error": str(error)}


class OtherClient:
    """A client in a process of its own."""

    def __init__(self, command: list[str], *arguments: str) -> None:
        """Start it. Raises ClientFailed."""
        self._process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        first = self._result()
        if first:
            self.close()
            raise ClientFailed(first["error"], first["pauses"])

    def ask(self, task_id: str) -> dict[str, Any]:
        """See ``Client``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task_id}\n")
        self._process.stdin.flush()
        return self._result()

    def close(self) -> None:
        """End the process: its input ends."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _result(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # others are the SDK's own
                result: dict[str, Any] = json.loads(line)
                return result
        raise AssertionError(f"the client has ended: {self._process.wait(10)}")


class Sdks:
    """Makes clients, and ends them in the end."""

    def __init__(self, folder: Path) -> None:
        """``folder`` takes what is built."""
        self._folder = folder
        self._stack = ExitStack()

    def client(self, sdk: str, base_url: str, keys: Keys | None = None) -> Client:
        """Make a client of ``sdk``, one of NAMES. Raises ClientFailed."""
        if sdk == "python":
            return PythonClient(base_url, keys)
        commands = {"javascript": self._javascript, "go": self._go, "java": self._java, "rust": self._rust}
        return self._start(commands[sdk](), base_url, *(keys or ("", "")))

    def grpc_client(self, target: str, token: str = "") -> Client:
        """Make a client of Conductor's Java client for gRPC, which sends the token with each call."""
        return self._start(self._java("java-grpc"), target, *filter(None, [token]))

    def close(self) -> None:
        """End all clients."""
        self._stack.close()

    def _start(self, command: list[str], *arguments: str) -> Client:
        client = OtherClient(command, *arguments)
        self._stack.callback(client.close)
        return client

    def _javascript(self) -> list[str]:
        return [str(BIN / "node"), str(HERE / "javascript/client.mjs")]

    def _go(self) -> list[str]:
        program = self._folder / "go-client"
        if not program.exists():
            subprocess.run(
                [str(BIN / "go"), "build", "-buildvcs=false", "-o", str(program), "."],
                cwd=HERE / "go",
                env=os.environ | {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
                check=True,
                timeout=600,
            )
        return [str(program)]

    def _rust(self) -> list[str]:
        return [str(sdk_clients.RUST_CLIENT)]

    def _java(self, project: str = "java") -> list[str]:
        """Run on the wheel's Java, as the SDK needs 21; its classes may be newer than what a machine's javac reads."""
        classes, jars = self._folder / project, sdk_clients.jars(project)
        java = [
            cassandra_jars.find_java(),
            "-XX:TieredStopAtLevel=1",
            "-cp",
            os.pathsep.join((str(classes), f"{jars}/*")),
        ]
        if not classes.exists():
            compiler = [*java, "org.eclipse.jdt.internal.compiler.batch.Main", "-21", "-proc:none"]
            path, source = os.pathsep.join(map(str, jars.glob("*.jar"))), HERE / project / "Client.java"
            subprocess.run([*compiler, "-cp", path, "-d", str(classes), str(source)], check=True, timeout=120)
        return [*java, "Client"]
