"""``taskgate.client``, as programs use it: one body for ``Client`` and ``AsyncClient``, against real servers."""

import asyncio
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from support.access import create_keys, minter_of
from support.certificates import Authority
from support.documented import blocks
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID, put_row, task
from support.in_process import asked
from support.running import Running, System, eventually, running_system
from taskgate.access.roles import Role
from taskgate.client import (
    AsyncClient,
    CallError,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    Key,
    NotFound,
    ResourceExhausted,
    Tls,
    Unauthenticated,
    Unavailable,
)
from taskgate.client.channels import MAX_MESSAGE_BYTES
from taskgate.documents import document
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask
from taskgate.v1.task_pb2 import Task

LARGE_ID = "00000000-0000-4000-8000-000000000004"


class Threads:
    """``Client``, and calls at the same time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = Client(*args, **kwargs)

    def get_task(self, task_id: str, **kwargs: float) -> Task:
        return self._client.get_task(task_id, **kwargs)

    def get_task_json(self, task_id: str, **kwargs: float) -> bytes:
        return self._client.get_task_json(task_id, **kwargs)

    def at_once(self, task_id: str, count: int) -> list[Task]:
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(self._client.get_task, [task_id] * count))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._client:
            pass


class Loop:
    """``AsyncClient`` behind the same methods."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = AsyncClient(*args, **kwargs)
        self._loop = asyncio.Runner()

    def get_task(self, task_id: str, **kwargs: float) -> Task:
        return self._loop.run(self._client.get_task(task_id, **kwargs))

    def get_task_json(self, task_id: str, **kwargs: float) -> bytes:
        return self._loop.run(self._client.get_task_json(task_id, **kwargs))

    def at_once(self, task_id: str, count: int) -> list[Task]:
        async def ask() -> list[Task]:
            return await asyncio.gather(*(self._client.get_task(task_id) for _ in range(count)))

        return self._loop.run(ask())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            async with self._client:
                pass

        self._loop.run(close())
        self._loop.close()


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """``taskgate up`` that asks for nothing."""
    with running_system(tmp_path_factory.mktemp("open") / "tasks.db", "--demo", mode=request.param, workers=1) as open_:
        yield open_


each = pytest.mark.parametrize("kind", [Threads, Loop], ids=["sync", "async"])


@each
@pytest.mark.parametrize("door", ["grpc", "http"])
def test_get_task_and_its_document(system: System, kind: type[Threads | Loop], door: str) -> None:
    """Typed, and byte for byte, also beyond gRPC's own limit for messages; by several forms of a target."""
    put_row(system.database, LARGE_ID, task(LARGE_ID, inputData={"text": "x" * (5 << 20)}).decode())
    address = getattr(system, door)
    for target in (address, f"dns:///{address}", f"ipv4:{address}"):
        with kind(target) as client:
            found = client.get_task(DOCUMENTED_ID)
            assert isinstance(found, Task)
            assert (found.task_id, found.status) == (DOCUMENTED_ID, Task.COMPLETED)
            assert client.get_task_json(DOCUMENTED_ID) == DOCUMENTED_COMPACT
    with kind(address) as client:
        assert len(client.get_task_json(LARGE_ID)) > 5 << 20
    assert MAX_MESSAGE_BYTES == document.MAX_MESSAGE_BYTES


@each
def test_errors_have_a_class_and_what_the_server_says(system: System, kind: type[Threads | Loop]) -> None:
    """Reason, metadata, request ID. A key for a server without keys does no harm."""
    with kind(system.http, key=Key("no", "matter")) as client:
        with pytest.raises(NotFound) as absent:
            client.get_task(UNKNOWN_ID)
        with pytest.raises(InvalidArgument) as malformed:
            client.get_task_json("no ID")
    error = absent.value
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "ERROR_REASON_TASK_NOT_FOUND")
    assert (error.metadata, error.retryable, error.retry_after) == ({"task_id": UNKNOWN_ID}, False, None)
    assert str(error) == f"NOT_FOUND: Task not found for taskId: {UNKNOWN_ID}"
    line = eventually(lambda: call_of(system, error.request_id), "the log line of the call")
    assert line["task_id"] == UNKNOWN_ID
    assert malformed.value.reason == "ERROR_REASON_INVALID_TASK_ID"


def call_of(system: System, request_id: str) -> dict[str, Any] | None:
    return next((line for line in system.events("call") if line["request_id"] == request_id), None)


@each
def test_a_call_ends_with_its_time(kind: type[Threads | Loop]) -> None:
    """At a server that takes the connection and does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        address = f"127.0.0.1:{hung.getsockname()[1]}"
        with kind(address, timeout=0.2) as client, pytest.raises(DeadlineExceeded) as late:
            client.get_task(DOCUMENTED_ID)
        assert (late.value.reason, late.value.retryable) == ("", True)


@each
def test_an_unavailable_call_is_sent_again_within_its_deadline(tmp_path: Path, kind: type[Threads | Loop]) -> None:
    """Until the store is there; as often as it may; not beyond the time of the call."""
    ready = tmp_path / "ready.db"
    with open_writer(f"sqlite:///{ready}") as writer:
        writer.write([StoredTask(DOCUMENTED_ID, 1, DOCUMENTED_COMPACT)])
    store = ("--store", f"sqlite:///{tmp_path}/tasks.db", "--grpc", "127.0.0.1:0", "--drain-delay", "0")
    with Running("serve", *store, "--log-format", "json") as server:
        address = server.wait_for(r'"grpc":"(127.0.0.1:\d+)","event":"listening"', in_log=True)[1]
        with kind(address, attempts=3) as client, pytest.raises(Unavailable) as refused:
            client.get_task(DOCUMENTED_ID)
        assert refused.value.reason == "ERROR_REASON_STORE_UNAVAILABLE"
        eventually(lambda: len(server.events("call")) >= 3, "three attempts in the log")
        assert len(server.events("call")) == 3
        with kind(address, timeout=0.5) as client, pytest.raises(DeadlineExceeded):
            client.get_task(DOCUMENTED_ID)
        with kind(address) as client, ThreadPoolExecutor(1) as thread:
            asked_for = thread.submit(client.get_task, DOCUMENTED_ID)
            time.sleep(0.1)  # the first attempt is refused, and the last one is 3 s away
            ready.rename(tmp_path / "tasks.db")
            assert asked_for.result().status == Task.COMPLETED


@dataclass
class Guarded:
    """A system that asks for a certificate and a token, and what opens it."""

    system: System
    folder: Path
    tls: Tls
    key: Key
    auth_store: str

    def tokens_given(self) -> int:
        return sum(line["method"].endswith("CreateToken") for line in self.system.events("call"))


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority, clients = Authority(), Authority()
    cert, key = authority.server().save(folder, "server")
    caller = clients.client().save(folder, "caller")
    (folder / "ca.crt").write_bytes(authority.pem)
    (folder / "clients.crt").write_bytes(clients.pem)
    url = f"sqlite:///{folder}/keys.db"
    (made,) = create_keys(url, reader=(Role.READER, None)).values()
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(folder / "clients.crt"))
    keys = ("--auth", "keys", "--auth-store", url, "--token-lifetime", "1", "--demo")
    with running_system(folder / "tasks.db", *options, *keys, mode=request.param, workers=1) as system:
        tls = Tls(folder / "ca.crt", caller[0], caller[1].read_bytes())
        yield Guarded(system, folder, tls, Key(made.key_id, made.secret), url)


@pytest.mark.parametrize(("kind", "door"), [(Threads, "grpc"), (Loop, "http")], ids=["sync", "async"])
def test_a_key_gives_tokens_that_are_renewed(guarded: Guarded, kind: type[Threads | Loop], door: str) -> None:
    """One token for calls at the same time, and no call fails while tokens of a second expire. With a certificate."""
    before = guarded.tokens_given()
    with kind(getattr(guarded.system, door), tls=guarded.tls, key=guarded.key) as client:
        assert {found.task_id for found in client.at_once(DOCUMENTED_ID, 8)} == {DOCUMENTED_ID}
        eventually(lambda: guarded.tokens_given() > before, "the first token in the log")
        assert guarded.tokens_given() == before + 1

        def renewed() -> bool:
            assert client.get_task_json(DOCUMENTED_ID) == DOCUMENTED_COMPACT
            return guarded.tokens_given() >= before + 3

        eventually(renewed, "two renewals")


def refusal(client: Threads | Loop) -> CallError | None:
    """The error that is no refusal of credentials any more."""
    with pytest.raises(CallError) as refused:
        client.get_task(DOCUMENTED_ID)
    return None if isinstance(refused.value, Unauthenticated) else refused.value


@each
def test_refusals_of_a_server_that_asks_who_is_there(guarded: Guarded, kind: type[Threads | Loop]) -> None:
    """No token, one that is none, a wrong secret: each with its reason; no certificate: no answer at all."""
    address = guarded.system.http
    for more, reason in (
        ({}, "ERROR_REASON_TOKEN_INVALID"),
        ({"token": lambda: "no.such.token"}, "ERROR_REASON_TOKEN_INVALID"),
        ({"key": Key(guarded.key.id, "wrong")}, "ERROR_REASON_CREDENTIALS_INVALID"),
    ):
        with kind(address, tls=guarded.tls, **more) as client, pytest.raises(Unauthenticated) as refused:
            client.get_task(DOCUMENTED_ID)
        assert (refused.value.reason, refused.value.retryable) == (reason, False)
    with kind(address, tls=guarded.tls, key=Key(f"guessed by {kind.__name__}", "wrong")) as client:
        limited = eventually(lambda: refusal(client), "a limit of attempts")
    assert isinstance(limited, ResourceExhausted)
    assert limited.reason == "ERROR_REASON_TOO_MANY_ATTEMPTS"
    assert limited.retryable
    assert 0 < limited.retry_after <= 60
    for tls in (Tls(guarded.tls.ca), True, False):
        with kind(address, tls=tls, key=guarded.key, attempts=1) as client, pytest.raises(Unavailable):
            client.get_task(DOCUMENTED_ID)


def test_get_sends_the_token_of_a_flag_a_variable_or_a_file(guarded: Guarded) -> None:
    """Over TLS with a certificate; without a token it says what the server asks for."""
    folder, system = guarded.folder, guarded.system
    (folder / "caller.pem").write_bytes(guarded.tls.key if isinstance(guarded.tls.key, bytes) else b"")
    command = ("get", DOCUMENTED_ID, "--server", system.http, "--tls-ca", str(folder / "ca.crt"))
    command = (*command, "--tls-cert", str(guarded.tls.cert), "--tls-key", str(folder / "caller.pem"))
    minter = minter_of(guarded.auth_store, guarded.key.id)
    token = minter.token()
    file = folder / "token.txt"
    file.write_text(token + "\n")
    for arguments, variables in (
        (("--token", token), {}),
        ((), {"TASKGATE_TOKEN": token}),
        ((), {"TASKGATE_TOKEN_FILE": str(file)}),
    ):
        done = asked(*command, *arguments, env=variables)
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        assert "COMPLETED" in done.stdout
    without = asked(*command)
    assert (without.exit_code, without.stdout) == (1, "")
    assert "UNAUTHENTICATED: The call needs a token" in without.stderr
    odd = asked(*command, "--token", "secret\nsecret")
    assert (odd.exit_code, odd.stdout) == (2, "")
    assert odd.stderr.startswith("taskgate: token: ")
    assert "secret" not in odd.stderr


def test_the_documented_client_for_a_network_runs(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/client.md has it; the other snippets there run with those of all documents."""
    (block,) = [block for block in blocks("python") if "tasks.internal" in block.text]
    text = block.text.replace("tasks.internal:8443", guarded.system.http)
    cert, key = guarded.tls.cert, guarded.folder / "caller.key"
    text = text.replace('ca="ca.crt"', f'ca="ca.crt", cert="{cert}", key="{key}"')
    environment = {**os.environ, "KEY_ID": guarded.key.id, "KEY_SECRET": guarded.key.secret}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=guarded.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"Task not found for taskId: {UNKNOWN_ID} {UNKNOWN_ID}\n", "")


def test_it_is_light_to_import() -> None:
    """grpcio, protobuf and the stubs: nothing of the server, and nothing that only the server needs."""
    program = "import sys; before = set(sys.modules); import taskgate.client; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    of_others = {re.split(r"[._]", name.lstrip("_"))[0] for name in loaded - set(sys.stdlib_module_names)}
    assert of_others - sys.stdlib_module_names == {"cython", "google", "grpc", "taskgate"}
    ours = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("taskgate.")}
    assert ours == {"taskgate.client", "taskgate.v1"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"attempts": 6}, "attempts: 6 is not from 1 to 5"),
        ({"timeout": 0}, "timeout: 0 is not a number of seconds above 0"),
        ({"timeout": math.inf}, "timeout: inf is not a number of seconds above 0"),
        ({"token": "a b"}, "token: it has a space"),
        ({"token": "a", "key": Key("a", "b")}, "token and key: give one of them"),
        ({"tls": Tls(cert=b"")}, "cert and key: each needs the other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_cannot_be_used_is_refused_at_once(
    kind: type[Client | AsyncClient], arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind("127.0.0.1:1", **arguments)
