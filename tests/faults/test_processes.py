"""Processes that die, are stopped, or cannot start: what callers and operators see of it."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.documents import put_row, task
from support.doors import GrpcDoor
from support.load import accepts, answers, callers, check_sigterm_lets_calls_finish, grpc_callers
from support.running import Running, System, eventually, running_system, taskgate


def kill_a_worker_and_see_it_replaced(system: System) -> None:
    """Returns when Envoy counts on both again: both workers away at once would be another test."""
    victim = system.workers()[0]
    listened = len(system.events("worker listens"))
    victim.kill()
    killed = time.monotonic()
    eventually(lambda: len([w for w in system.workers() if w.pid != victim.pid]) == 2, "two workers again")
    assert time.monotonic() - killed < 10  # a second on an idle machine
    eventually(lambda: len(system.events("worker listens")) > listened, "the new one listens")
    eventually(lambda: system.healthy_servers() == 2, "both healthy to Envoy")


def test_killed_worker_fails_no_rest_call_and_is_replaced(tmp_path: Path) -> None:
    """Under load, a worker is killed three times: no caller notices, and a new one listens on the same port."""
    with running_system(tmp_path / "tasks.db", "--demo", transport="grpcio", workers=2) as system:
        with callers(system, 32) as outcomes:
            for _ in range(3):
                eventually(lambda: outcomes["ok"] > 200, "calls under way")
                kill_a_worker_and_see_it_replaced(system)
                outcomes["ok"] = 1
        assert set(outcomes) == {"ok"}, outcomes
        assert len(system.events("worker gone; replacing it")) == 3
        ports = Counter(event["grpc"] for event in system.events("worker listens"))
        assert sum(ports.values()) == 5
        assert len(ports) == 2


def test_killed_envoy_is_replaced_on_the_same_port(tmp_path: Path) -> None:
    with running_system(tmp_path / "tasks.db", "--demo", transport="grpcio", workers=1) as system:
        first = system.envoy()
        first.kill()
        first.wait(5)
        eventually(lambda: answers(system), "answers again")
        assert system.envoy().pid != first.pid


def test_hung_worker_is_noticed_ended_and_replaced_and_no_call_fails(tmp_path: Path) -> None:
    """Under load: the calls that the stopped process has are answered by the other one."""
    with running_system(tmp_path / "tasks.db", "--demo", transport="grpcio", workers=2) as system:
        with callers(system, 8) as outcomes:
            eventually(lambda: outcomes["ok"] > 100, "calls under way")
            victim = system.workers()[0]
            victim.suspend()
            eventually(lambda: len(system.events("worker listens")) == 3, "replaced")  # 2 s on an idle machine
            eventually(lambda: system.healthy_servers() == 2, "both healthy to Envoy")
        assert set(outcomes) == {"ok"}, outcomes
        (gone,) = system.events("worker gone; replacing it")
        assert gone["problem"] == "it hung, and was ended"
        assert not victim.is_running()


def test_hung_envoy_in_front_of_workers_is_noticed_ended_and_replaced(tmp_path: Path) -> None:
    with running_system(tmp_path / "tasks.db", "--demo", transport="grpcio", workers=1) as system:
        victim = system.envoy()
        victim.suspend()
        eventually(lambda: system.events("Envoy gone; replacing it"), "noticed")  # 1.5 s on an idle machine
        eventually(lambda: answers(system), "answers again")
        (gone,) = system.events("Envoy gone; replacing it")
        assert gone["problem"] == "it hung, and was ended"
        assert system.envoy().pid != victim.pid


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_supervisor_without_files_takes_nothing_for_hung_and_watches_again(tmp_path: Path, transport: str) -> None:
    """It can open none for a while, and so see nothing of Envoy, which goes on; later a hang is noticed as ever."""
    with running_system(tmp_path / "tasks.db", "--demo", transport=transport, workers=1) as system:
        supervisor, envoy = psutil.Process(system.process.pid), system.envoy()
        limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
        eventually(lambda: system.events("Envoy cannot be watched; trying again for as long as it takes"), "no news")
        time.sleep(4)  # on purpose: more than after which Envoy would be taken for hung
        assert answers(system)
        assert not [line for line in system.log if "gone; replacing it" in line]
        assert len(system.events("Envoy cannot be watched; trying again for as long as it takes")) == 1
        supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
        envoy.suspend()
        eventually(lambda: [line for line in system.log if "gone; replacing it" in line], "noticed", 30)
        eventually(lambda: answers(system), "answers again", 30)
        assert not envoy.is_running()


@pytest.mark.parametrize("workers", [1, 2])
def test_restarting_every_worker_in_turn_fails_no_call(tmp_path: Path, workers: int) -> None:
    """SIGHUP under load behind Envoy, over REST and gRPC, on connections kept and new: no call fails."""
    with running_system(tmp_path / "tasks.db", "--demo", transport="grpcio", workers=workers) as system:
        before = {worker.pid for worker in system.workers()}
        envoy = system.envoy().pid
        with (
            callers(system, 4) as kept,
            callers(system, 4, connect_anew=True) as new,
            grpc_callers(system, 4) as grpc_kept,
            grpc_callers(system, 2, connect_anew=True) as grpc_new,
        ):
            everywhere = (kept, new, grpc_kept, grpc_new)
            system.process.send_signal(signal.SIGHUP)
            eventually(lambda: len(system.events("worker restarted")) == workers, "all restarted", 30)
            served = [outcomes["ok"] for outcomes in everywhere]
            eventually(lambda: all(o["ok"] > n + 20 for o, n in zip(everywhere, served, strict=True)), "calls go on")
        for outcomes in everywhere:
            assert set(outcomes) == {"ok"}, everywhere
        assert not before & {worker.pid for worker in system.workers()}
        assert system.envoy().pid == envoy
        ports = Counter(event["grpc"] for event in system.events("worker listens"))
        assert sorted(ports.values()) == [2] * workers


def test_sigterm_during_a_restart_lets_calls_finish_and_leaves_nothing(tmp_path: Path) -> None:
    """Two generations of a worker are there when everything is told to stop."""
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "1", transport="grpcio", workers=2) as system:
        system.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(system.events("worker listens")) == 3, "the first successor")
        check_sigterm_lets_calls_finish(system)


def test_envoy_that_cannot_start_again_yet_is_tried_until_it_can(tmp_path: Path) -> None:
    """Something else holds the port when a killed Envoy is to be replaced: once the port is free, calls succeed."""
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "0", transport="grpcio", workers=1) as system:
        host, _, port = system.http.rpartition(":")
        with socket.socket() as squatter:
            system.process.send_signal(signal.SIGSTOP)  # it shall not be the faster one
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
            system.wait_for("Envoy gone; replacing it", in_log=True)
            eventually(lambda: [line for line in system.log if f"cannot listen on {system.http}" in line], "the reason")
        eventually(lambda: answers(system), "answers again")


def test_sigterm_while_something_is_being_replaced_leaves_nothing(tmp_path: Path) -> None:
    """A worker and Envoy have just died when the whole is told to stop: exit code 0 and no process left."""
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "0", transport="grpcio", workers=2) as system:
        system.workers()[0].kill()
        system.envoy().kill()
        system.wait_for("worker gone; replacing it", in_log=True)
        assert system.stop() == 0
        system.assert_gone()


def test_sigterm_lets_running_calls_finish(tmp_path: Path) -> None:
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "1", transport="grpcio", workers=2) as system:
        check_sigterm_lets_calls_finish(system)


def test_sigterm_lets_a_slow_reader_finish(tmp_path: Path) -> None:
    """An answer of megabytes that is under way when everything is told to stop still arrives whole."""
    database = tmp_path / "tasks.db"
    with running_system(database, "--demo", "--drain-delay", "0", transport="grpcio", workers=1) as system:
        task_id = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
        document = task(task_id, outputData={"text": "x" * 10_000_000})
        put_row(database, task_id, document.decode())
        connection = http.client.HTTPConnection(system.http, timeout=20)
        connection.request("GET", f"/api/tasks/{task_id}")
        response = connection.getresponse()
        received = response.read(100_000)
        system.family()
        system.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(system.http), "the port closed")
        assert received + response.read() == document
        connection.close()
        assert system.wait() == 0
        system.assert_gone()


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """SIGINT to the whole foreground process group, as a terminal sends it: drained, exit code 0, nothing left."""
    with System(tmp_path / "tasks.db", "--demo", "--drain-delay", "0", transport="grpcio") as system:
        system.wait_ready()
        system.family()
        os.killpg(system.process.pid, signal.SIGINT)
        assert system.wait() == 0
        system.assert_gone()
        assert not [line for line in system.log if "Traceback" in line]


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_ctrl_c_while_starting_leaves_no_process(tmp_path: Path, delay: float) -> None:
    """At whatever moment of the start, it ends, alone, and a person who pressed Ctrl-C reads no traceback.

    A traceback through our code means more than ugliness: it is a KeyboardInterrupt from the middle of an import, and
    where that happens inside a callback, Python drops it and the start goes on.

    Named exception: the interpreter's own start, before any line of ours, is Python's to handle.
    """
    with System(tmp_path / "tasks.db", "--drain-delay", "0", transport="grpcio") as system:
        time.sleep(delay)  # on purpose: no event marks these moments
        system.stop(signal.SIGINT)
        system.assert_gone()
        assert not [line for line in system.log if re.search(r'[/\\]taskgate[/\\](__main__|cli)\.py"', line)]


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    with System(tmp_path / "tasks.db", "--drain-delay", "30", transport="grpcio") as system:
        system.wait_ready()
        system.family()
        system.process.send_signal(signal.SIGINT)
        system.wait_for("draining", in_log=True)
        system.process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert system.wait() == 128 + signal.SIGINT
        assert time.monotonic() - started < 5
        system.assert_gone()


def test_killed_supervisor_takes_all_with_it(tmp_path: Path) -> None:
    """Nothing can be done in a killed process; its workers and Envoy end by themselves."""
    with running_system(tmp_path / "tasks.db", "--demo", transport="grpcio", workers=2) as system:
        assert len(system.family()) == 4
        system.process.kill()
        system.process.wait()
        system.assert_gone(seconds=15)


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


def test_two_servers_do_not_share_a_port(tmp_path: Path) -> None:
    """A stale server is found out, although gRPC could share its port."""
    store = f"sqlite:///{tmp_path}/tasks.db"
    with Running("serve", "--store", store, "--grpc", "127.0.0.1:0", "--log-format", "json") as first:
        port = first.wait_for(r'"grpc":"127.0.0.1:(\d+)","event":"listening"', in_log=True)[1]
        done = taskgate("serve", "--store", store, "--grpc", f"127.0.0.1:{port}")
        assert done.returncode == 2
        assert port in done.stderr


def test_serve_with_workers_shares_one_port_and_replaces_the_dead(tmp_path: Path) -> None:
    """Without Envoy: N processes behind one port, kept up, drained at the end."""
    database = tmp_path / "tasks.db"
    arguments = ("--store", f"sqlite:///{database}", "--grpc", "127.0.0.1:0", "--drain-delay", "0")
    with Running("serve", *arguments, "--workers", "3", "--log-format", "json") as running:
        eventually(lambda: len(running.events("worker listens")) == 3, "three workers", 20)
        running.wait_for("no authentication is configured", in_log=True)
        (address,) = {event["grpc"] for event in running.events("worker listens")}
        running.workers()[0].kill()
        eventually(lambda: len(running.events("worker listens")) == 4, "a new worker")
        door = GrpcDoor("grpc", address)
        eventually(lambda: door.get_task_json("x").code == "INVALID_ARGUMENT", "an answer")
        door.close()
        assert running.stop() == 0
        running.assert_gone()


def test_worker_without_a_supervisor_leaves() -> None:
    """A worker whose standard input ends drains and goes."""
    process = subprocess.Popen([sys.executable, "-m", "taskgate.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(
        b'{"grpc":"127.0.0.1:0","drain_delay":0,"store":"sqlite:///nowhere.db","log_level":"error"}\n\n'
    )
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"127.0.0.1:")
    assert psutil.pid_exists(process.pid)
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()
