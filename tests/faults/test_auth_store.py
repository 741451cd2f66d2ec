"""The store of the keys is away, while the system runs and when it starts, at every front door."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from support.access import Credentials, create_keys, minter_of
from support.clients import CLIENTS, GrpcClient, Outcome, RestClient, open_client
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.postgresql import PostgresqlServer, running_postgresql
from support.public_words import assert_public
from support.running import System, eventually, running_system, taskgate
from support.scrapes import metrics_address, scrape
from support.tokens import Minter
from taskgate.access.roles import Role
from taskgate.transports.reflection import PATHS


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with running_postgresql() as running:
        yield running


def ask(system: System, token: str) -> list[Outcome]:
    """Ask for a task at each front door, on new connections."""
    outcomes = []
    for name in CLIENTS:
        client = open_client(name, system.http, system.grpc)
        outcomes.append(client.get_task_json(DOCUMENTED_ID, x_authorization=token))
        client.close()
    return outcomes


def check_ok(system: System, token: str) -> None:
    assert [outcome.document for outcome in ask(system, token)] == [DOCUMENTED_COMPACT] * len(CLIENTS)


def ready(system: System) -> set[int]:
    """The status of /healthz, and of grpc.health.v1 at a server: 200 for SERVING."""
    with closing(RestClient("rest", system.http)) as rest, closing(GrpcClient("grpc", system.grpc)) as server:
        _, answer = server.call("/grpc.health.v1.Health/Check", b"", {})
        serving = HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING
        return {rest.get("/healthz").status, 200 if serving else 503}


def unreadable(system: System) -> float:
    return scrape(metrics_address(system)).sum("taskgate_auth_keys_unreadable")


def create_token(system: System, request: dict[str, str]) -> Outcome:
    rest = RestClient("rest", system.http)
    try:
        return rest.post("/api/token", json.dumps(request).encode())
    finally:
        rest.close()


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_known_keys_and_tokens_go_on_without_the_store(server: PostgresqlServer, tmp_path: Path, mode: str) -> None:
    """Before the keys have been read, every call is refused as retryable; then calls go on while the store is away.

    Known keys still get tokens. Of unknown ones it cannot be told whether they exist: retryable. Reflection is off.
    """
    server.execute(f"CREATE DATABASE {mode}")
    url = server.url(mode)
    (key,) = create_keys(url, app=(Role.READER, None)).values()
    options = ("--demo", "--auth", "keys", "--reflection", "off", "--metrics", "127.0.0.1:0")
    early = Minter.new("kid", iss="taskgate", sub=key.key_id)
    server.stop()
    try:
        environment = {"TASKGATE_AUTH_STORE": url}
        with System(tmp_path / "tasks.db", *options, mode=mode, workers=1, env=environment) as system:
            check_outages(system.wait_ready(), server, url, key, early.token())
    finally:
        if not server.runs:
            server.start()


def becomes(condition: Callable[[], bool], what: str) -> None:
    """Wait for ``condition``, with pauses: each look makes calls."""
    eventually(lambda: (time.sleep(0.3), condition())[1], what)


def check_outages(system: System, server: PostgresqlServer, url: str, key: Credentials, early: str) -> None:
    assert ready(system) == {503}
    for outcome in (*ask(system, early), create_token(system, key.request)):
        assert outcome.status == 503, outcome
        assert outcome.message == "The store is unavailable: the keys cannot be read now"
        assert outcome.retryable in {None, True}
    server.start()
    becomes(lambda: create_token(system, key.request).status == 200, "a token")
    minter = minter_of(url, key.key_id)
    becomes(lambda: {outcome.status for outcome in ask(system, minter.token())} == {200}, "calls")
    used = minter.token()
    check_ok(system, used)
    becomes(lambda: ready(system) == {200}, "ready")
    becomes(lambda: unreadable(system) == 0, "the metric")
    server.stop()
    system.wait_for("the store of the keys does not answer", in_log=True)
    becomes(lambda: create_token(system, {"keyId": "0" * 24, "keySecret": key.secret}).status == 503, "noticed")
    check_ok(system, used)
    check_ok(system, minter.token(jti="never seen"))
    assert create_token(system, key.request).status == 200
    assert create_token(system, key.request | {"keySecret": "x" * 43}).status == 401
    unknown = create_token(system, {"keyId": "0" * 24, "keySecret": key.secret})
    assert (unknown.status, unknown.retryable) == (503, True)
    assert_public(unknown.message)
    assert ready(system) == {200}
    becomes(lambda: unreadable(system) == 1, "the metric")
    for address in (system.grpc, system.http):
        client = GrpcClient("grpc", address)
        for path in PATHS:
            assert client.call(path, b"", {})[0].code == "UNIMPLEMENTED"
        client.close()
    server.start()
    (new,) = create_keys(url, new=(Role.READER, None)).values()
    becomes(lambda: create_token(system, new.request).status == 200, "a token for a new key")
    assert not [line for line in system.log if "Traceback" in line or "horse" in line]


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_a_replaced_process_creates_no_keyring(tmp_path: Path, mode: str) -> None:
    """The file of the keys is moved away and a process killed: its successor is not ready, and refuses as retryable.

    Meanwhile nothing is written. When the file is back, tokens of before are valid in it.
    """
    keys, aside = tmp_path / "keys.db", tmp_path / "aside.db"
    (key,) = create_keys(f"sqlite:///{keys}", app=(Role.READER, None)).values()
    options = ("--demo", "--auth", "keys", "--auth-store", f"sqlite:///{keys}")
    with running_system(tmp_path / "tasks.db", *options, mode=mode, workers=1) as system:
        token = json.loads(create_token(system, key.request).document)["token"]
        check_ok(system, token)
        becomes(lambda: ready(system) == {200}, "ready")
        keys.rename(aside)
        (process,) = system.envoys() if mode == "embedded" else system.workers()
        since = len(system.log)
        process.kill()
        eventually(lambda: system.events("worker replaced", since), "replaced")
        becomes(lambda: ready(system) == {503}, "not ready")
        for outcome in (*ask(system, token), create_token(system, key.request)):
            assert (outcome.status, outcome.retryable) in {(503, True), (503, None)}, outcome
            assert outcome.message == "The store is unavailable: the keys cannot be read now"
        assert not keys.exists()
        aside.rename(keys)
        becomes(lambda: {outcome.status for outcome in ask(system, token)} == {200}, "the same token")
        becomes(lambda: ready(system) == {200}, "ready")
        assert not [line for line in system.log if "a keyring was created" in line]


@pytest.mark.long
@pytest.mark.alone  # the five seconds are promised, and the processes need some of them on a busy machine
def test_a_disabled_key_is_refused_within_5_seconds_on_every_node(server: PostgresqlServer, tmp_path: Path) -> None:
    """Nodes that share the store of the keys, in both modes, on each of their workers."""
    server.execute("CREATE DATABASE nodes")
    url = server.url("nodes")
    key = create_keys(url, app=(Role.READER, None))["app"]
    options = ("--demo", "--auth", "keys", "--auth-store", url)
    with (
        running_system(tmp_path / "one.db", *options, mode="embedded", workers=2) as one,
        running_system(tmp_path / "two.db", *options, mode="proxied", workers=2) as two,
    ):
        token = json.loads(create_token(one, key.request).document)["token"]
        for node in (one, two):
            check_ok(node, token)
        assert taskgate("keys", "disable", key.name, "--auth-store", url).returncode == 0
        disabled = time.monotonic()
        last_accepted = disabled
        while time.monotonic() < max(disabled + 5, last_accepted + 2):
            if any(outcome.document for node in (one, two) for _ in range(5) for outcome in ask(node, token)):
                last_accepted = time.monotonic()
        print(f"refused after {last_accepted - disabled:.1f} s")  # noqa: T201 - a figure to look at
        assert last_accepted - disabled <= 5
