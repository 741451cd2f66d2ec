"""The clients in examples/, each built with its ecosystem's own tools, against live servers."""

import base64
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import wrappers_pb2

from support import golden
from support.access import create_keys
from support.certificates import Authority, Caller
from support.documented import blocks_of
from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID
from support.running import System, running_system
from taskgate.access.roles import Role
from tools import debian, maven, stubs

EXAMPLES = stubs.EXAMPLES
BIN = Path(sys.executable).parent
TRY_LATER = 75

_BUILD_SECONDS = 1500
"""Rust's, on a busy machine, from nothing."""

pytestmark = pytest.mark.timeout(_BUILD_SECONDS + 300)


def _go() -> Mapping[str, str]:
    return {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}


def _maven() -> Mapping[str, str]:
    return {"PATH": _on_path(Path(maven.find_maven()).parent)}


def _cpp() -> Mapping[str, str]:
    return {**debian.cpp_environment(), "CXXFLAGS": "-Werror"}


def _on_path(*folders: Path) -> str:
    return os.pathsep.join((*map(str, folders), str(BIN), os.environ["PATH"]))


LANGUAGES: dict[str, Callable[[], Mapping[str, str]]] = {
    "python": dict,
    "go": _go,
    "typescript": dict,
    "java": _maven,
    "kotlin": _maven,
    "rust": dict,
    "cpp": _cpp,
    "ruby": debian.ruby_environment,
}
"""The environment in which the page of each language is followed."""

_NOT_SHOWN = {("cpp", "deepest"): "Max recursion depth reached"}
"""What a language decodes and cannot write as JSON: libprotobuf 3.21 stops at 31 lists inside one another."""

_ALSO = {"java": ["jdk"], "kotlin": ["jdk"], "cpp": ["cpp grpc"], "ruby": ["ruby grpc"]}
"""Parts that a client needs beside its stubs."""


@dataclass(frozen=True)
class Program:
    """The client of a language, built as its README says."""

    language: str
    words: list[str]
    environment: Mapping[str, str]

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Start it as its README says, with other ``arguments``."""
        return subprocess.run(
            [*self.words, *arguments],
            cwd=EXAMPLES / self.language,
            env={**self.environment, **variables},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )


def build(language: str) -> Program:
    """Follow examples/LANGUAGE/README.md, from after ``make stubs`` on."""
    folder = EXAMPLES / language
    pages = [block.text.splitlines() for block in blocks_of(folder / "README.md") if block.language == "sh"]
    server, (stubs_first, enter, *commands), (call,) = pages
    assert (server, stubs_first) == (["make up"], f"make stubs LANGUAGES={language}")
    assert enter == f"cd examples/{language}"
    *words, command, address, task_id = shlex.split(call)
    assert (command, address, task_id) == ("get", "127.0.0.1:8080", DOCUMENTED_ID)
    environment = {**os.environ, "PATH": _on_path(), **LANGUAGES[language]()}
    environment.pop("TASKGATE_CA", None)
    for line in commands:
        done = subprocess.run(
            shlex.split(line),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return Program(language, words, environment)


@pytest.fixture(scope="module")
def built() -> Callable[[str], Program]:
    """Builds the client of a language, once."""
    return cache(build)


@pytest.fixture(
    params=[
        pytest.param(language, marks=pytest.mark.needs(stubs.part_of(language), *_ALSO.get(language, ())))
        for language in LANGUAGES
    ],
)
def program(request: pytest.FixtureRequest, built: Callable[[str], Program]) -> Program:
    """Each client."""
    return built(request.param)


class Servers:
    """``taskgate up`` with TLS and keys: one that is well, and one whose store is damaged."""

    def __init__(self, folder: Path) -> None:
        authority, self.folder = Authority(), folder
        self.authority = folder / "ca.crt"
        self.authority.write_bytes(authority.pem)
        self._certificate = authority.server().save(folder, "server")
        self._caller = Caller(authority.pem)
        self._keys = f"sqlite:///{folder / 'keys.db'}"
        self._key = create_keys(self._keys, example=(Role.READER, None))["example"]

    def start(self, name: str) -> System:
        cert, key = map(str, self._certificate)
        flags = ("--demo", "--auth", "keys", "--auth-store", self._keys, "--tls-cert", cert, "--tls-key", key)
        return System(self.folder / f"{name}.db", *flags, workers=1)

    def token(self, system: System) -> str:
        """A token, as an application gets it."""
        with httpx.Client(verify=self._caller.context(self.folder), trust_env=False) as client:
            answer = client.post(f"https://{system.http}/api/token", json=self._key.request)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["token"]
        return token


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """Runs a client's ``get``; with ``damaged`` for the server without a store."""
    servers = Servers(tmp_path_factory.mktemp("examples"))
    with servers.start("well") as well, servers.start("damaged") as damaged:
        well.wait_ready()
        damaged.wait_ready().database.write_bytes(b"damaged" * 1000)
        token = servers.token(well)

        def run(
            program: Program, task_id: str, *, token: str = token, system: System = well, command: str = "get"
        ) -> "subprocess.CompletedProcess[str]":
            variables = {"TASKGATE_CA": str(servers.authority), "TASKGATE_TOKEN": token}
            return program.run(command, system.http, task_id, **variables)

        run.damaged = damaged  # type: ignore[attr-defined] # for tests to name
        yield run


def check_documented_task(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr
    status, output = done.stdout.splitlines()
    documented = json.loads(DOCUMENTED)
    assert (status, json.loads(output)) == (documented["status"], documented["outputData"])


def test_prints_status_and_output(program: Program, get: Callable[..., Any]) -> None:
    check_documented_task(get(program, DOCUMENTED_ID))


def test_page_leads_to_a_first_answer(program: Program, tmp_path: Path) -> None:
    """Without TLS and token, from a server as ``make up`` starts it."""
    with running_system(tmp_path / "tasks.db", "--demo", workers=1) as system:
        check_documented_task(program.run("get", system.http, DOCUMENTED_ID))


def test_call_ends_by_its_deadline(program: Program) -> None:
    """Ten seconds after it began, if the server accepts the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        done = program.run("get", f"127.0.0.1:{silent.getsockname()[1]}", DOCUMENTED_ID)
        assert time.monotonic() - began > 9
    assert (done.returncode, done.stdout, done.stderr.strip()) == (TRY_LATER, "", "Try again later: no answer in time")


def test_errors_are_told_apart_by_their_reasons(program: Program, get: Any, subtests: pytest.Subtests) -> None:
    """No such task, a refused token, and an error that may pass, which alone has an exit code that says so."""
    with subtests.test("not found"):
        done = get(program, UNKNOWN_ID)
        assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", f"There is no task {UNKNOWN_ID}")
    with subtests.test("no token"):
        done = get(program, DOCUMENTED_ID, token="")
        assert (done.returncode, done.stdout) == (1, "")
        assert "ERROR_REASON_TOKEN_INVALID" in done.stderr
    with subtests.test("store unavailable"):
        done = get(program, DOCUMENTED_ID, system=get.damaged)
        later = "Try again later: ERROR_REASON_STORE_UNAVAILABLE"
        assert (done.returncode, done.stdout, done.stderr.strip()) == (TRY_LATER, "", later)


@pytest.mark.parametrize("program", [pytest.param("python", marks=pytest.mark.needs("python stubs"))], indirect=True)
def test_rest_does_as_get_does(program: Program, get: Any) -> None:
    check_documented_task(get(program, DOCUMENTED_ID, command="rest"))
    for arguments, code, said in (
        ({}, 1, f"There is no task {UNKNOWN_ID}"),
        ({"token": ""}, 1, "The call needs a token: "),
        ({"system": get.damaged}, TRY_LATER, "Try again later: The store is unavailable"),
    ):
        done = get(program, UNKNOWN_ID, command="rest", **arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(said)


def test_golden_bytes_are_read_as_everywhere(program: Program, subtests: pytest.Subtests) -> None:
    """Each language reads the same values, unset fields and all, from what a server sent."""
    done = program.run("read", str(golden.FOLDER))
    assert done.returncode == 0, done.stderr
    found = {line.pop("name"): line for line in map(json.loads, done.stdout.split("\n")[:-1])}
    expected = {name: task for name, (_, task) in golden.saved().items()}
    assert found.keys() == expected.keys()
    for name, task in expected.items():
        with subtests.test(name):
            if problem := _NOT_SHOWN.get((program.language, name)):
                assert problem in found[name]["error"]
            else:
                assert _exact(found[name]["task"]) == _exact(task)


def _exact(value: Any) -> Any:
    """The value with numbers as doubles with their signs: languages write them in their own ways, 3 or 3.0."""
    if isinstance(value, dict):
        if value.keys() == {"typeUrl", "value"}:  # Rust's pbjson shows an Any as a message, where others look into it
            held = wrappers_pb2.StringValue.FromString(base64.b64decode(value["value"])).value
            return {"@type": value["typeUrl"], "value": held}
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), math.copysign(1, value)
    return value
