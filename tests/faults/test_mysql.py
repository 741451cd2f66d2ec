"""A MariaDB or MySQL server is restarted, killed, paused and locked under load, while the system runs."""

import signal
from collections.abc import Callable, Iterator

import pytest

from support.mysql import PASSWORD, Mariadb, Mysql, MysqlServer, running_mysql
from support.outages import DOCUMENTS, NOT_SERVING, SERVING, callers, check_restart_under_load, health, healthz
from support.running import System, eventually, running_system, taskgate

pytestmark = pytest.mark.needs("mariadbd")

DATABASE = "conductor"


PAIRS = [
    (Mariadb, "embedded"),
    (Mariadb, "proxied"),
    pytest.param((Mysql, "embedded"), marks=pytest.mark.needs("mysqld")),
]
"""The mode does not change what a server does to us: MySQL is tested with the default mode only."""


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1]}")
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[MysqlServer, System]]:
    """A server with imported tasks, by the real command, and a taskgate that reads them there."""
    kind, mode = request.param
    with running_mysql(kind) as server:
        server.execute(f"CREATE DATABASE {DATABASE}")
        url = server.url(DATABASE)
        done = taskgate("import", "-", stdin=b"\n".join(DOCUMENTS.values()), env={"TASKGATE_STORE": url})
        assert done.returncode == 0, done.stderr
        assert f"mysql://127.0.0.1:{server.port}/{DATABASE}: {len(DOCUMENTS)} added" in done.stderr
        assert "horse" not in done.stdout + done.stderr
        with running_system(url, mode=mode, workers=1) as system:
            eventually(lambda: health(system) == SERVING, "SERVING")
            yield server, system


@pytest.fixture(scope="module")
def server(pair: tuple[MysqlServer, System]) -> MysqlServer:
    return pair[0]


@pytest.fixture(scope="module")
def system(pair: tuple[MysqlServer, System]) -> System:
    return pair[1]


def restarted(server: MysqlServer) -> None:
    server.stop()
    server.start()


def killed(server: MysqlServer) -> None:
    server.stop(signal.SIGKILL)
    server.start()


@pytest.mark.parametrize("fault", [restarted, killed], ids=lambda fault: fault.__name__)
def test_restart_under_load(server: MysqlServer, system: System, fault: Callable[[MysqlServer], None]) -> None:
    """No wrong answers; errors only UNAVAILABLE and 503, retryable; recovery in the same processes."""
    times = 2 if isinstance(server, Mysql) else 3  # MySQL takes three seconds to stop under load
    check_restart_under_load(system, lambda: fault(server), times)


def end_a_session(server: MysqlServer) -> bool:
    """End the oldest session of taskgate, even a busy one; False if it had already ended."""
    sessions = server.execute("SELECT id FROM information_schema.processlist WHERE db = %s ORDER BY id", DATABASE)
    return server.kill(sessions[0]["id"])


def test_ended_sessions_fail_no_call(server: MysqlServer, system: System) -> None:
    """An administrator, or a balancer, ends sessions one after another: each is replaced unnoticed."""
    with callers(system, 16) as outcomes:
        for _ in range(10):
            served = outcomes["ok"]
            eventually(lambda served=served: outcomes["ok"] > served + 50, "calls under way")
            eventually(lambda: end_a_session(server), "a session is ended")
    assert set(outcomes) == {"ok"}, outcomes


def test_readiness_follows_the_server(server: MysqlServer, system: System) -> None:
    """``grpc.health.v1`` and ``/healthz`` tell balancers within seconds, both ways, whatever the trouble."""
    for trouble in (server.frozen, lambda: server.session("LOCK TABLES task WRITE", DATABASE)):
        with trouble():
            eventually(lambda: health(system) == NOT_SERVING, "NOT_SERVING")
            eventually(lambda: healthz(system) == 503, "unhealthy")
        eventually(lambda: health(system) == SERVING, "SERVING again")
        eventually(lambda: healthz(system) == 200, "healthy again")


def test_nothing_secret_is_shown(system: System) -> None:
    """The password is in no log line and in no command line of any process."""
    assert system.events("store answers")
    assert not [line for line in system.log if PASSWORD in line or "correct%20horse" in line]
    commands = [" ".join(process.cmdline()) for process in system.family()]
    assert not [command for command in commands if "horse" in command]
