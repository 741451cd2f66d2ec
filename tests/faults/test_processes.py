"""Faults in mode proxied, and of servers without Envoy: processes that die, are stopped, or cannot start."""

import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from support.clients import GrpcClient
from support.documents import put_row, task
from support.load import answers, check_sigterm_lets_calls_finish, in_threads
from support.running import Running, System, eventually, running_system, taskgate


@pytest.fixture
def system(lasting: Callable[..., System]) -> System:
    """One server behind Envoy, for tests that leave it intact."""
    return lasting("proxied", workers=1)


def test_killed_envoy_is_replaced_on_the_same_port(system: System) -> None:
    first = system.envoy()
    first.kill()
    first.wait(5)
    eventually(lambda: answers(system), "answers again")
    assert system.envoy().pid != first.pid


def test_hung_envoy_in_front_of_workers_is_noticed_ended_and_replaced(system: System) -> None:
    victim, since = system.envoy(), len(system.log)
    victim.suspend()
    eventually(lambda: system.events("Envoy gone; replacing it", since), "noticed")  # 3.5 s on an idle machine
    eventually(lambda: answers(system), "answers again")
    (gone,) = system.events("Envoy gone; replacing it", since)
    assert gone["problem"] == "it hung, and was ended"
    assert system.envoy().pid != victim.pid


@pytest.mark.long
def test_restarts_break_off_no_large_answer(tmp_path: Path) -> None:
    """Envoy may hold back the end of an answer that is over for the server: eight callers of 2 MB, eight restarts."""
    large_id, database = "65fc73fe-0586-11f1-8b8d-000000000001", tmp_path / "tasks.db"
    rows = [{"id": n, "name": f"user {n}", "tags": ["a", "b"]} for n in range(40_000)]
    outcomes: Counter[str] = Counter()
    with ExitStack() as stack:
        system = stack.enter_context(running_system(database, "--demo", mode="proxied", workers=2))
        put_row(database, large_id, task(large_id, outputData={"rows": rows}).decode())

        def call(_: int, stop: threading.Event) -> None:
            with closing(GrpcClient("gRPC through Envoy", system.http)) as client:
                while not stop.is_set():
                    outcomes[client.get_task_json(large_id).code] += 1

        stack.enter_context(in_threads(8, call))
        for restarts in range(1, 9):
            before = outcomes.total()
            eventually(lambda before=before: outcomes.total() > before + 80, "calls under way", 60)  # type: ignore[misc]
            system.process.send_signal(signal.SIGHUP)
            expected = 2 * restarts
            eventually(lambda n=expected: len(system.events("worker restarted")) == n, "all restarted", 60)  # type: ignore[misc]
    assert set(outcomes) == {"OK"}, outcomes


def test_sigterm_during_a_restart_lets_calls_finish_and_leaves_nothing(tmp_path: Path) -> None:
    """Two generations of a worker exist when everything receives SIGTERM."""
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "1", mode="proxied", workers=2) as system:
        system.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(system.events("worker listens")) == 3, "the first successor")
        check_sigterm_lets_calls_finish(system)


def test_envoy_that_cannot_start_again_yet_is_tried_until_it_can(system: System) -> None:
    """Another program holds the port when a killed Envoy is to be replaced: once the port is free, calls succeed."""
    host, _, port = system.http.rpartition(":")
    since = len(system.log)
    with socket.socket() as squatter:
        system.process.send_signal(signal.SIGSTOP)  # it must not be faster
        system.envoy().kill()
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def takes_the_port() -> bool:
            try:
                squatter.bind((host, int(port)))
            except OSError:
                return False
            squatter.listen()
            return True

        eventually(takes_the_port, "the port taken from Envoy")
        system.process.send_signal(signal.SIGCONT)
        eventually(lambda: system.events("Envoy gone; replacing it", since), "noticed")
        eventually(lambda: [line for line in system.log if f"cannot listen on {system.http}" in line], "the reason")
    eventually(lambda: answers(system), "answers again")


def test_sigterm_while_something_is_being_replaced_leaves_nothing(tmp_path: Path) -> None:
    """A worker and Envoy have just died when everything receives SIGTERM: exit code 0 and no process left."""
    with running_system(tmp_path / "tasks.db", "--demo", mode="proxied", workers=2) as system:
        system.workers()[0].kill()
        system.envoy().kill()
        system.wait_for("worker gone; replacing it", in_log=True)
        assert system.stop() == 0
        system.assert_gone()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "setting"),
    [(("serve",), "grpc"), (("serve", "--workers", "2"), "grpc"), (("up",), "grpc"), (("up",), "http")],
    ids=["serve", "serve with workers", "up, grpc", "up, http"],
)
def test_port_in_use_is_an_error_that_names_it(
    tmp_path: Path, taken_port: int, command: tuple[str, ...], setting: str
) -> None:
    """Exit code 2 and one sentence with the setting and the address; no second server on a shared port."""
    addresses = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"} | {setting: f"127.0.0.1:{taken_port}"}
    if command[0] == "serve":
        del addresses["http"]
    flags = [part for key, value in addresses.items() for part in (f"--{key}", value)]
    done = taskgate(*command, "--store", f"sqlite:///{tmp_path}/tasks.db", *flags)
    assert done.returncode == 2, done.stderr
    sentence = next(line for line in done.stderr.splitlines() if line.startswith("taskgate: "))
    assert f"{setting}: cannot listen on 127.0.0.1:{taken_port}" in sentence
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("mode", "find", "reason"),
    [
        ("embedded", Running.envoys, "Envoy did not start."),
        ("proxied", Running.workers, "a server process ended with code -9 before it could listen"),
    ],
    ids=["embedded", "proxied"],
)
def test_a_start_that_was_killed_may_be_tried_again(
    tmp_path: Path, mode: str, find: Callable[[Running], list[psutil.Process]], reason: str
) -> None:
    """Exit code 1 and one sentence: after 2, a service manager does not start it again (deploy/systemd)."""
    addresses = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    with Running("up", "--mode", mode, "--store", f"sqlite:///{tmp_path}/tasks.db", *addresses) as running:
        eventually(lambda: find(running), "a process that starts")[0].kill()
        assert running.wait() == 1
    (sentence,) = [line for line in running.log if line.startswith("taskgate: ")]
    assert reason in sentence


def test_two_servers_do_not_share_a_port(tmp_path: Path) -> None:
    """A stale server is detected, although gRPC could share its port."""
    store = f"sqlite:///{tmp_path}/tasks.db"
    with Running("serve", "--store", store, "--grpc", "127.0.0.1:0", "--log-format", "json") as first:
        port = first.wait_for(r'"grpc":"127.0.0.1:(\d+)","event":"listening"', in_log=True)[1]
        done = taskgate("serve", "--store", store, "--grpc", f"127.0.0.1:{port}")
        assert done.returncode == 2
        assert port in done.stderr


def test_serve_with_workers_shares_one_port_and_replaces_the_dead(tmp_path: Path) -> None:
    """Without Envoy: N processes behind one port, kept running, drained at the end."""
    database = tmp_path / "tasks.db"
    arguments = ("--store", f"sqlite:///{database}", "--grpc", "127.0.0.1:0", "--drain-delay", "0")
    with Running("serve", *arguments, "--workers", "3", "--log-format", "json") as running:
        eventually(lambda: len(running.events("worker listens")) == 3, "three workers")
        running.wait_for("no authentication is configured", in_log=True)
        (address,) = {event["grpc"] for event in running.events("worker listens")}
        running.workers()[0].kill()
        eventually(lambda: len(running.events("worker listens")) == 4, "a new worker")
        client = GrpcClient("grpc", address)
        eventually(lambda: client.get_task_json("x").code == "INVALID_ARGUMENT", "an answer")
        client.close()
        assert running.stop() == 0
        running.assert_gone()


def test_worker_without_a_supervisor_leaves() -> None:
    """A worker whose standard input ends drains and exits."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskgate.processes.worker_main"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(
        b'{"grpc":"127.0.0.1:0","drain_delay":0,"store":"sqlite:///nowhere.db","log_level":"error"}\n\n\n\n0\n'
    )
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"127.0.0.1:")
    assert psutil.pid_exists(process.pid)
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()
