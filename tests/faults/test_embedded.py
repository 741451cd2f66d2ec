"""Faults in mode embedded: their start, and stops with several generations."""

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, put_row, task
from support.load import answers, callers
from support.running import System, eventually, running_system


def becomes_envoy(process: psutil.Process) -> bool:
    """Whether the process is Envoy, or will become it."""
    try:
        return "--disable-hot-restart" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def listens(envoy: psutil.Process) -> bool:
    """Whether it accepts connections of callers."""
    return any(c.status == psutil.CONN_LISTEN for c in envoy.net_connections("tcp"))


def test_threads_of_envoy_do_not_cut_in_on_each_other(tmp_path: Path) -> None:
    """SCHED_BATCH for each thread from its first moment, unless the user who started taskgate chose another policy."""
    with System(tmp_path / "tasks.db", workers=1) as system:
        eventually(lambda: any(map(becomes_envoy, system.family())), "a process on its way to become Envoy")
        system.process.send_signal(signal.SIGSTOP)  # it could only set the policy too late
        (envoy,) = eventually(system.envoys, "Envoy")
        eventually(lambda: envoy.num_threads() > 1, "threads")
        system.process.send_signal(signal.SIGCONT)
        system.wait_ready()
        assert {os.sched_getscheduler(thread.id) for thread in envoy.threads()} == {os.SCHED_BATCH}


def test_sigterm_during_a_restart_lets_a_slow_reader_finish(tmp_path: Path) -> None:
    """The predecessor of a process waits for its reader when everything receives SIGTERM: the answer arrives whole."""
    database = tmp_path / "tasks.db"
    with running_system(database, "--demo", workers=1) as system:
        task_id = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
        document = task(task_id, outputData={"text": "x" * 30_000_000})
        put_row(database, task_id, document.decode())
        predecessor = system.envoy()
        reader = http.client.HTTPConnection(system.http, timeout=20)
        reader.request("GET", f"/api/tasks/{task_id}")
        response = reader.getresponse()
        received = bytearray(response.read(100_000))

        def while_reading(condition: Callable[[], Any]) -> Any:
            received.extend(response.read(10_000))  # 500 KB/s: progress that Envoy sees, yet not all in a minute
            return condition()

        system.process.send_signal(signal.SIGHUP)
        eventually(lambda: while_reading(lambda: len(system.events("serving inside Envoy")) == 2), "the successor")
        eventually(lambda: while_reading(lambda: not listens(predecessor)), "the predecessor takes no connections")
        system.process.send_signal(signal.SIGTERM)
        eventually(lambda: while_reading(lambda: system.envoys() == [predecessor]), "the successor gone")
        with pytest.raises(subprocess.TimeoutExpired):
            system.process.wait(0.5)  # it ends as soon as its reader has all, and not before
        assert received + response.read() == document
        reader.close()
        assert system.wait() == 0
        system.assert_gone()


def test_sigterm_while_a_successor_starts_cuts_no_call(tmp_path: Path) -> None:
    """Under load, in the middle of a restart: the successor does not accept calls that it could not finish."""
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "1", workers=1) as system:
        with callers(system, 8) as outcomes:
            eventually(lambda: outcomes["ok"] > 100, "calls under way")
            system.process.send_signal(signal.SIGHUP)
            eventually(lambda: len(system.envoys()) == 2, "the successor on its way")
            system.process.send_signal(signal.SIGTERM)
            assert system.wait() == 0
        assert set(outcomes) <= {"ok", "refused", "not accepted"}, outcomes
        system.assert_gone()


@pytest.fixture
def without_libpython(tmp_path: Path) -> dict[str, str]:
    """An environment in which the interpreter's shared library cannot be found."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "find_libpython.py").write_text("def candidate_paths():\n    return []\n")
    return {"PYTHONPATH": str(tmp_path / "site")}


def test_without_a_shared_libpython_up_runs_proxied_and_says_why(
    tmp_path: Path, without_libpython: dict[str, str]
) -> None:
    """One line of the log has the reason; everything answers as usual."""
    with System(tmp_path / "tasks.db", "--demo", workers=1, env=without_libpython) as system:
        system.wait_ready()
        (reason,) = [line for line in system.log if "--mode proxied" in line]
        assert "libpython" in reason
        assert len(system.workers()) == 1
        assert answers(system)


@pytest.mark.long
def test_processes_hold_no_connection_or_memory_of_calls_that_ended(tmp_path: Path) -> None:
    """After many calls an idle process has as much memory and as many descriptors as before."""
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
    """A file named like a module that the service needs is not run; relative paths work as usual."""
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
