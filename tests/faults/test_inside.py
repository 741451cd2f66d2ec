"""Envoys with the service inside, killed, hung, restarted and drained while callers ask."""

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import pytest

from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, put_row, task
from support.load import answers, callers, check_sigterm_lets_calls_finish
from support.running import System, eventually, running_system


def replaced(system: System, victim: psutil.Process) -> bool:
    """Whether as many Envoys as before run and take connections, and ``victim`` is not among them."""
    pids = {line["pid"] for line in system.events("serving inside Envoy")}
    running = {envoy.pid for envoy in system.envoys()}
    return victim.pid not in running and len(running & pids) == 2


def becomes_envoy(process: psutil.Process) -> bool:
    """Whether it is Envoy, or what runs in its place until it begins."""
    try:
        return "--disable-hot-restart" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def listens(envoy: psutil.Process) -> bool:
    """Whether it takes connections of callers."""
    return any(c.status == psutil.CONN_LISTEN for c in envoy.net_connections("tcp"))


def test_killed_worker_is_replaced_and_only_its_own_calls_break(tmp_path: Path) -> None:
    """Under load: the next process serves a second or so later; callers on the other one notice nothing."""
    with running_system(tmp_path / "tasks.db", "--demo", workers=2) as system:
        with callers(system, 16) as outcomes:
            for _ in range(3):
                eventually(lambda: outcomes["ok"] > 200, "calls under way")
                victim = system.envoys()[0]
                victim.kill()
                killed = time.monotonic()
                eventually(lambda victim=victim: replaced(system, victim), "replaced")
                assert time.monotonic() - killed < 10  # a second on an idle machine
                outcomes["ok"] = 1
        # At most one call a caller each time; and one try to connect, where that came just before the socket went.
        refused = outcomes.pop("refused", 0) + outcomes.pop("not accepted", 0)
        assert refused <= 3 * 16, refused
        broken = {kind: count for kind, count in outcomes.items() if kind != "ok"}
        assert all(kind.startswith(("ConnectionReset", "RemoteDisconnected")) for kind in broken), broken
        assert sum(broken.values()) <= 3 * 16, broken
        assert len(system.events("worker gone; replacing it")) == 3


def test_hung_worker_is_noticed_ended_and_replaced(tmp_path: Path) -> None:
    """A stopped process answers nobody and says nothing; new connections are served again seconds later."""
    with running_system(tmp_path / "tasks.db", "--demo", workers=2) as system:
        victim = system.envoys()[0]
        victim.suspend()
        hung = time.monotonic()
        eventually(lambda: replaced(system, victim), "replaced")
        assert time.monotonic() - hung < 10  # two seconds on an idle machine
        (gone,) = system.events("worker gone; replacing it")
        assert gone["problem"] == "it hung, and was ended"
        assert answers(system)


@pytest.mark.parametrize(("transport", "seconds"), [("envoy", 1.3), ("grpcio", 1.7)])
def test_supervisor_that_stood_still_ends_no_process(tmp_path: Path, transport: str, seconds: float) -> None:
    """A machine that was paused, or a supervisor that got no time, is no reason to take processes for hung."""
    with running_system(tmp_path / "tasks.db", "--demo", transport=transport, workers=2) as system:
        before = set(system.family())
        system.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)  # on purpose: it stands still
        system.process.send_signal(signal.SIGCONT)
        time.sleep(1)  # on purpose: it would end them now
        assert set(system.family()) == before
        assert system.events("worker gone; replacing it") == system.events("Envoy gone; replacing it") == []


def test_restarting_every_worker_in_turn_fails_no_call(tmp_path: Path) -> None:
    """SIGHUP under load: all processes are new, and every call on a connection that is kept was answered.

    New connections fail here and there: a socket that closes resets what the kernel had taken for it and nobody had
    accepted.
    """
    with running_system(tmp_path / "tasks.db", "--demo", workers=2) as system:
        before = {envoy.pid for envoy in system.envoys()}
        with callers(system, 8) as kept, callers(system, 8, connect_anew=True) as new:
            eventually(lambda: kept["ok"] > 100 < new["ok"], "calls under way")
            system.process.send_signal(signal.SIGHUP)
            eventually(lambda: len(system.events("worker restarted")) == 2, "both restarted", seconds=30)
            served = kept["ok"], new["ok"]
            eventually(lambda: kept["ok"] > served[0] + 100 and new["ok"] > served[1] + 100, "calls go on")
        assert set(kept) == {"ok"}, kept
        assert set(new) <= {"ok", "not accepted"}, new
        assert new["not accepted"] <= 2 * 8, new  # one for each caller and restart, at the very most
        assert not before & {envoy.pid for envoy in system.envoys()}


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_log_that_nobody_reads_stops_nobody(tmp_path: Path, transport: str) -> None:
    """A collector that hangs, a terminal after Ctrl-S: thousands of calls are answered; so is SIGTERM."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "taskgate", "up", "--demo", "--store", f"sqlite:///{tmp_path}/tasks.db"]
    command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--transport", transport, "--drain-delay", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        assert process.stdout is not None
        url = next(found[1] for line in process.stdout if (found := re.search(r"REST +(http://\S+/api/tasks/)", line)))
        with httpx.Client(timeout=10) as client:
            for _ in range(3_000):  # ten pipes full of lines
                assert client.get(f"{url}{DOCUMENTED_ID}").status_code == 200
        process.terminate()
        assert process.wait(30) == 0
    os.close(reading)
    os.close(writing)


def test_threads_of_envoy_do_not_cut_in_on_each_other(tmp_path: Path) -> None:
    """SCHED_BATCH for each of them from its first moment, unless whoever started taskgate has chosen something else."""
    with System(tmp_path / "tasks.db", workers=1) as system:
        eventually(lambda: any(map(becomes_envoy, system.family())), "a process on its way to become Envoy", 30)
        system.process.send_signal(signal.SIGSTOP)  # it could only come too late
        (envoy,) = eventually(system.envoys, "Envoy")
        eventually(lambda: envoy.num_threads() > 1, "threads")
        system.process.send_signal(signal.SIGCONT)
        system.wait_ready()
        assert {os.sched_getscheduler(thread.id) for thread in envoy.threads()} == {os.SCHED_BATCH}


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_second_sigterm_ends_at_once_and_leaves_nothing(tmp_path: Path, transport: str) -> None:
    """No process, and no folder of Envoy's."""
    folder = Path(tempfile.mkdtemp())  # a short name, so that sockets are made there and nowhere else
    own = {"TMPDIR": str(folder)}
    with System(tmp_path / "tasks.db", "--drain-delay", "60", transport=transport, env=own) as system:
        system.wait_ready()
        assert list(folder.glob("taskgate-*"))
        system.family()
        system.process.send_signal(signal.SIGTERM)
        system.wait_for("draining", in_log=True)
        system.process.send_signal(signal.SIGTERM)
        assert system.wait() == 128 + signal.SIGTERM
        system.assert_gone()
    folder.rmdir()  # which only an empty one lets


def test_sigterm_lets_running_calls_finish(tmp_path: Path) -> None:
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "1", workers=2) as system:
        check_sigterm_lets_calls_finish(system)


def test_sigterm_lets_a_slow_reader_finish(tmp_path: Path) -> None:
    """An answer of megabytes that is under way when everything is told to stop still arrives whole."""
    database = tmp_path / "tasks.db"
    with running_system(database, "--demo", "--drain-delay", "0", workers=1) as system:
        task_id = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
        document = task(task_id, outputData={"text": "x" * 10_000_000})
        put_row(database, task_id, document.decode())
        reader = http.client.HTTPConnection(system.http, timeout=20)
        reader.request("GET", f"/api/tasks/{task_id}")
        response = reader.getresponse()
        received = response.read(100_000)
        system.family()
        system.process.send_signal(signal.SIGTERM)
        system.wait_for("draining", in_log=True)
        time.sleep(0.5)  # on purpose: the reader is slow
        assert received + response.read() == document
        reader.close()
        assert system.wait() == 0
        system.assert_gone()


def test_sigterm_during_a_restart_lets_a_slow_reader_finish(tmp_path: Path) -> None:
    """The predecessor of a process waits for its reader when everything is told to stop: the answer arrives whole."""
    database = tmp_path / "tasks.db"
    with running_system(database, "--demo", "--drain-delay", "0", workers=1) as system:
        task_id = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
        document = task(task_id, outputData={"text": "x" * 10_000_000})
        put_row(database, task_id, document.decode())
        predecessor = system.envoy()
        reader = http.client.HTTPConnection(system.http, timeout=20)
        reader.request("GET", f"/api/tasks/{task_id}")
        response = reader.getresponse()
        received = response.read(100_000)
        system.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(system.events("serving inside Envoy")) == 2, "the successor")
        eventually(lambda: not listens(predecessor), "the predecessor takes no more connections")
        system.process.send_signal(signal.SIGTERM)
        eventually(lambda: system.envoys() == [predecessor], "the successor gone")
        with pytest.raises(subprocess.TimeoutExpired):
            system.process.wait(0.5)  # it ends as soon as its reader has all, and not before
        assert received + response.read() == document
        reader.close()
        assert system.wait() == 0
        system.assert_gone()


def test_sigterm_while_a_successor_starts_cuts_no_call(tmp_path: Path) -> None:
    """Under load, in the middle of a restart: the successor does not take calls that nobody lets it finish."""
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "1", workers=1) as system:
        with callers(system, 8) as outcomes:
            eventually(lambda: outcomes["ok"] > 100, "calls under way")
            system.process.send_signal(signal.SIGHUP)
            eventually(lambda: len(system.envoys()) == 2, "the successor on its way")
            system.process.send_signal(signal.SIGTERM)
            assert system.wait() == 0
        assert set(outcomes) <= {"ok", "refused", "not accepted"}, outcomes
        system.assert_gone()


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """SIGINT to the whole foreground process group, as a terminal sends it: drained, exit code 0, nothing left."""
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "0", workers=2) as system:
        system.family()
        os.killpg(system.process.pid, signal.SIGINT)
        assert system.wait() == 0
        system.assert_gone()
        assert not [line for line in system.log if "Traceback" in line]


@pytest.mark.parametrize("delay", [0.3, 0.6, 0.9, 1.2])
def test_ctrl_c_while_starting_leaves_no_process(tmp_path: Path, delay: float) -> None:
    """At whatever moment of the start, it ends, and nothing is left."""
    with System(tmp_path / "tasks.db", "--drain-delay", "0") as system:
        time.sleep(delay)  # on purpose: no event marks these moments
        system.stop(signal.SIGINT)
        system.assert_gone()


def test_killed_supervisor_takes_all_with_it(tmp_path: Path) -> None:
    with running_system(tmp_path / "tasks.db", "--demo", workers=2) as system:
        assert len(system.family()) == 3
        system.process.kill()
        system.process.wait()
        system.assert_gone(seconds=15)


@pytest.fixture
def without_libpython(tmp_path: Path) -> dict[str, str]:
    """An environment in which the interpreter's shared library is not to be found."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "find_libpython.py").write_text("def candidate_paths():\n    return []\n")
    return {"PYTHONPATH": str(tmp_path / "site")}


def test_without_a_shared_libpython_it_runs_behind_envoy_and_says_why(
    tmp_path: Path, without_libpython: dict[str, str]
) -> None:
    """One line of the log has the reason; everything answers as usual."""
    with System(tmp_path / "tasks.db", "--demo", workers=1, env=without_libpython) as system:
        system.wait_ready()
        (reason,) = [line for line in system.log if "--transport grpcio" in line]
        assert "libpython" in reason
        assert len(system.workers()) == 1
        assert answers(system)


def test_processes_hold_no_connection_or_memory_of_calls_that_ended(tmp_path: Path) -> None:
    """After many calls an idle process has the memory and descriptors of before."""
    with running_system(tmp_path / "tasks.db", "--demo", workers=1) as system:
        envoy = system.envoy()
        with callers(system, 8) as outcomes:
            eventually(lambda: outcomes["ok"] > 500, "warm")
        eventually(envoy.num_fds, "counted")
        descriptors, memory = envoy.num_fds(), envoy.memory_info().rss
        with callers(system, 8) as outcomes:
            eventually(lambda: outcomes["ok"] > 3000, "many calls")
        eventually(lambda: envoy.num_fds() <= descriptors + 2, "descriptors given back")
        assert envoy.memory_info().rss < memory + 20_000_000


def test_modules_in_the_working_directory_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called like a module that the service needs is no reason to run it; relative paths work all the same."""
    for name in ("msgspec", "structlog", "json", "taskgate"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger was loaded')\n")
    monkeypatch.chdir(tmp_path)
    command = [str(Path(sys.executable).with_name("taskgate")), "up", "--demo", "--store", "sqlite:///here.db"]
    command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--drain-delay", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base = next(match[1] for line in process.stdout if (match := re.search(r"REST +(http://\S+)/api", line)))
        answer = httpx.get(f"{base}/api/tasks/{DOCUMENTED_ID}")
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert answer.content == DOCUMENTED_COMPACT
    assert "stranger" not in log
    assert (tmp_path / "here.db").is_file()
