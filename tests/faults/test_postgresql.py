"""PostgreSQL is restarted, killed, paused and locked under load, while the system runs."""

import signal
from collections.abc import Callable, Iterator

import pytest

from support.clients import open_client
from support.lateness import in_time
from support.outages import (
    DOCUMENTS,
    NOT_SERVING,
    SERVING,
    callers,
    check_restart_under_load,
    health,
    healthz,
    kind_of,
)
from support.pgbouncer import running_pgbouncer
from support.postgresql import PASSWORD, PostgresqlServer, running_postgresql
from support.running import System, eventually, running_system, taskgate
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with running_postgresql() as running:
        with open_writer(running.url()) as writer:
            writer.write([StoredTask(task_id, 1, document) for task_id, document in DOCUMENTS.items()])
        yield running


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(request: pytest.FixtureRequest, server: PostgresqlServer) -> Iterator[System]:
    with running_system(server.url(), mode=request.param, workers=1) as running:
        eventually(lambda: health(running) == SERVING, "SERVING")
        yield running


def killed_backends(server: PostgresqlServer) -> None:
    """As after a crash of one session: the server ends all of them, and recovers."""
    server.stop(signal.SIGQUIT)
    server.start()


def restarted(server: PostgresqlServer) -> None:
    server.stop()
    server.start()


def end_sessions(server: PostgresqlServer) -> int:
    """End the sessions that are not new, and return their number.

    Ending one in its very first read would be another fault: that read already had a new session, and fails.
    """
    ended = server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'taskgate' AND backend_start < clock_timestamp() - interval '1 s'"
    )
    return len(ended)


@pytest.mark.long_in("proxied-restarted")
@pytest.mark.parametrize("fault", [restarted, killed_backends], ids=lambda fault: fault.__name__)
def test_restart_under_load(
    server: PostgresqlServer, system: System, fault: Callable[[PostgresqlServer], None]
) -> None:
    """No wrong answers; errors only UNAVAILABLE and 503, retryable; recovery in the same processes."""
    check_restart_under_load(system, lambda: fault(server))


def test_ended_sessions_fail_no_call(server: PostgresqlServer, system: System) -> None:
    """An administrator, or a balancer, ends sessions one after another: each is replaced unnoticed."""
    with callers(system, 8) as outcomes:
        for _ in range(5):
            served = outcomes["ok"]
            eventually(lambda served=served: outcomes["ok"] > served + 50, "calls under way")
            eventually(lambda: end_sessions(server), "sessions that can be ended")
    assert set(outcomes) == {"ok"}, outcomes


def test_readiness_follows_the_server(server: PostgresqlServer, system: System) -> None:
    """``grpc.health.v1`` and ``/healthz`` tell balancers within seconds, both ways, whatever the trouble."""
    for trouble in (server.frozen, lambda: server.transaction("LOCK TABLE task", "postgres")):
        with trouble():
            eventually(lambda: health(system) == NOT_SERVING, "NOT_SERVING")
            eventually(lambda: healthz(system) == 503, "unhealthy")
        eventually(lambda: health(system) == SERVING, "SERVING again")
        eventually(lambda: healthz(system) == 200, "healthy again")


def test_only_one_call_waits_for_a_paused_server(server: PostgresqlServer, system: System) -> None:
    """Once the outage is known, most calls are refused at once, and none takes three seconds."""
    client = open_client("grpc", system.http, system.grpc)
    with server.frozen():
        eventually(lambda: health(system) == NOT_SERVING, "NOT_SERVING")
        with callers(system, 8) as outcomes:
            with in_time(3):
                assert kind_of(client.get_task_json(next(iter(DOCUMENTS))), b"") == "unavailable"
            eventually(lambda: outcomes["unavailable"] > 500, "refused calls")  # 80 or so if each waited 2 s
        assert set(outcomes) == {"unavailable"}, outcomes
    client.close()
    eventually(lambda: health(system) == SERVING, "SERVING again")


def test_nothing_secret_is_shown(system: System) -> None:
    """The password is in no log line and in no command line of any process."""
    assert system.events("store answers")
    assert not [line for line in system.log if PASSWORD in line or "correct%20horse" in line]
    commands = [" ".join(process.cmdline()) for process in system.family()]
    assert not [command for command in commands if "horse" in command]


def test_import_says_nothing_secret(server: PostgresqlServer) -> None:
    """``taskgate import`` names the store without user and password."""
    stdin = next(iter(DOCUMENTS.values()))
    done = taskgate("import", "-", stdin=stdin, env={"TASKGATE_STORE": server.url()})
    assert done.returncode == 0, done.stderr
    assert f"postgresql://127.0.0.1:{server.port}/postgres: 0 added" in done.stderr
    assert "horse" not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
@pytest.mark.needs("pgbouncer")
def test_pgbouncer_in_front(server: PostgresqlServer, mode: str) -> None:
    """Reads succeed over many connections of a pooler, even when the server's end, and when the pooler restarts."""
    # By default it retries a server that was away only after 15 s.
    with running_pgbouncer(server, server_login_retry="1") as port:
        url = server.url(hosts=f"127.0.0.1:{port}")
        with running_system(url, mode=mode, workers=1) as system:
            eventually(lambda: health(system) == SERVING, "SERVING")
            with callers(system, 8) as outcomes:
                eventually(lambda: outcomes["ok"] > 1000, "calls under way")
            assert set(outcomes) == {"ok"}, outcomes
            with callers(system, 8) as outcomes:
                eventually(lambda: outcomes["ok"] > 200, "calls under way")
                restarted(server)
                served = outcomes["ok"]
                eventually(lambda: outcomes["ok"] > served + 200, "calls again")
            assert set(outcomes) <= {"ok", "unavailable"}, outcomes
