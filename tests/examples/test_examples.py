"""The clients in examples/, each built with its ecosystem's own tools, against live servers."""

import base64
import json
import math
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
from google.protobuf import wrappers_pb2
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from support import golden
from support.access import create_keys
from support.certificates import Authority, Caller
from support.documented import blocks_of
from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID
from support.running import System, eventually, running_system
from taskgate.access.roles import Role
from taskgate.base.errors import ERROR_DOMAIN, STATUS_OF, TOKEN_MISSING
from taskgate.v1.task_service_pb2 import GetTaskRequest
from tools import debian, maven, stubs

EXAMPLES = stubs.EXAMPLES
BIN = Path(sys.executable).parent
TRY_LATER = 75
ATTEMPTS = 4
AWAY = "Try again later: the server is unavailable: "

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
    for name in ("TASKGATE_CA", "TASKGATE_TOKEN"):
        environment.pop(name, None)
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


def test_server_that_is_away_may_come_back(program: Program) -> None:
    """No process listens on the port: no reason is sent, and the code is enough."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens
        done = program.run("get", f"127.0.0.1:{closed.getsockname()[1]}", DOCUMENTED_ID)
    assert (done.returncode, done.stdout) == (TRY_LATER, "")
    assert done.stderr.startswith(AWAY)


class Refusing(grpc.GenericRpcHandler):
    """A server that refuses each call with the error that the task ID names: ``CODE DOMAIN REASON`` or ``CODE``.

    ``silent`` says for how many seconds it is silent first; -1 for ever. Each call takes the next one, if there is one.
    """

    def __init__(self, *silent: float) -> None:
        self.headers: list[dict[str, str | bytes]] = []
        """The metadata of each call."""
        self._silent = list(silent)
        self._stopped = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers([self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        self.headers.append(dict(handler_call_details.invocation_metadata))
        return grpc.unary_unary_rpc_method_handler(self._refuse, GetTaskRequest.FromString)

    def _refuse(self, request: GetTaskRequest, context: grpc.ServicerContext) -> None:
        if self._silent:
            self._stopped.wait(None if (seconds := self._silent.pop(0)) < 0 else seconds)
        code, *info = request.task_id.split()
        number, _ = grpc.StatusCode[code].value
        if info:
            details = status_pb2.Status(code=number, message="refused")
            details.details.add().Pack(ErrorInfo(domain=info[0], reason=info[1]))
            context.set_trailing_metadata((("grpc-status-details-bin", details.SerializeToString()),))
        context.abort(grpc.StatusCode[code], "refused")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.stop(None).wait()


def test_deadline_is_that_of_all_attempts(program: Program) -> None:
    """The server refuses the call shortly before it, and is silent at last: pauses use up what is left."""
    with Refusing(9.8, 0, 0, -1) as server:
        began = time.monotonic()
        done = program.run("get", server.address, "UNAVAILABLE")
        assert 9 < time.monotonic() - began < 20
    assert (done.returncode, done.stdout) == (TRY_LATER, "")
    assert done.stderr.startswith(("Try again later: no answer in time", AWAY))


REFUSALS = {
    "UNAVAILABLE": f"{AWAY}.*refused",
    "DEADLINE_EXCEEDED": "Try again later: no answer in time",
    "RESOURCE_EXHAUSTED other.example ERROR_REASON_OVERLOADED": "(?!Try).+: refused",
    "INTERNAL": "(?!Try).+: refused",
}
"""What clients say of an error without a reason of taskgate. They have their own names for codes."""


def test_only_what_may_pass_is_to_be_tried_again(program: Program, subtests: pytest.Subtests) -> None:
    """By the reason if it is taskgate's, else by the code; the names are those of the server's own table."""
    expected = REFUSALS.copy()
    for row in STATUS_OF.values():
        said = f"Try again later: {row.reason}" if row.retryable else f"{row.reason}: refused"
        call = f"{row.grpc_code} {ERROR_DOMAIN} {row.reason}"
        expected[call] = f"There is no task {call}" if row.grpc_code == "NOT_FOUND" else said
    with Refusing() as server, ThreadPoolExecutor(4) as threads:
        runs = threads.map(lambda call: program.run("get", server.address, call), expected)
        for done, (call, said) in zip(runs, expected.items(), strict=True):
            with subtests.test(call):
                assert (done.returncode, done.stdout) == (TRY_LATER if said.startswith("Try again later") else 1, "")
                assert re.fullmatch(said, done.stderr.strip()), done.stderr


def test_empty_variables_are_as_unset_ones(program: Program) -> None:
    """Plain text without TASKGATE_CA, and no header without TASKGATE_TOKEN."""
    with Refusing() as server:
        for variables in ({}, {"TASKGATE_CA": "", "TASKGATE_TOKEN": ""}, {"TASKGATE_TOKEN": "example"}):
            assert program.run("get", server.address, "INTERNAL", **variables).returncode == 1
    sent = [call.get("authorization") for call in server.headers]
    assert sent == [None, None, "Bearer example"]


def test_errors_are_told_apart_by_their_reasons(program: Program, get: Any, subtests: pytest.Subtests) -> None:
    """No such task, a refused token, and an error that may pass, which alone has an exit code that says so."""
    with subtests.test("not found"):
        done = get(program, UNKNOWN_ID)
        assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", f"There is no task {UNKNOWN_ID}")
    with subtests.test("no token"):
        done = get(program, DOCUMENTED_ID, token="")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.strip() == f"ERROR_REASON_TOKEN_INVALID: {TOKEN_MISSING}"
    with subtests.test("store unavailable"):
        since = len(get.damaged.log)
        done = get(program, DOCUMENTED_ID, system=get.damaged)
        later = "Try again later: ERROR_REASON_STORE_UNAVAILABLE"
        assert (done.returncode, done.stdout, done.stderr.strip()) == (TRY_LATER, "", later)
        # gRPC ignores a policy whose names it does not know, so that the server has to say that there were retries.
        eventually(lambda: len(get.damaged.events("call", since)) >= ATTEMPTS, "all attempts")
        assert [call["code"] for call in get.damaged.events("call", since)] == ["UNAVAILABLE"] * ATTEMPTS


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


class Page(BaseHTTPRequestHandler):
    """Answers by what the path ends with: a proxy's page, or JSON of another kind than taskgate's."""

    def do_GET(self) -> None:
        status, body = {"page": (502, b"<html>"), "list": (502, b"[]"), "empty": (200, b"{}")}[Path(self.path).name]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.parametrize("program", [pytest.param("python", marks=pytest.mark.needs("python stubs"))], indirect=True)
def test_rest_says_each_failure_in_a_sentence(program: Program, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Only a server that is away or silent may come back."""
    authority = tmp_path / "ca.crt"
    authority.write_bytes(Authority().pem)
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server, socket.socket() as closed:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        closed.bind(("127.0.0.1", 0))  # and never listens
        here, away = (f"127.0.0.1:{port}" for port in (server.server_port, closed.getsockname()[1]))
        tls = {"TASKGATE_CA": str(authority)}
        for name, target, variables, code, out, said in (
            ("page", here, {}, 1, "", "The answer is no JSON: HTTP status 502"),
            ("list", here, {}, 1, "", "HTTP status 502"),
            ("empty", here, {}, 0, "\n{}\n", ""),
            ("no TLS", here, tls, 1, "", "The call fails: [SSL"),
            ("no authority", here, {"TASKGATE_CA": "/missing"}, 1, "", "The call fails: [Errno 2]"),
            ("no host", "unknown.invalid:1", {}, 1, "", "The call fails: [Errno -"),
            ("away", away, {}, TRY_LATER, "", AWAY),
        ):
            with subtests.test(name):
                done = program.run("rest", target, name, **variables)
                assert (done.returncode, done.stdout) == (code, out), done.stderr
                assert done.stderr.startswith(said)
                assert done.stderr.count("\n") <= 1  # no traceback
        server.shutdown()


@pytest.mark.parametrize(
    "program", [pytest.param("cpp", marks=pytest.mark.needs("cpp stubs", "cpp grpc"))], indirect=True
)
def test_cmake_says_how_to_make_the_stubs(program: Program, tmp_path: Path) -> None:
    command = ["cmake", "-S", ".", "-B", str(tmp_path / "build"), f"-DSTUBS={tmp_path}"]
    done = subprocess.run(
        command,
        cwd=EXAMPLES / "cpp",
        env={**os.environ, **program.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "make stubs LANGUAGES=cpp" in done.stderr


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
