"""Servers killed, hung, restarted and stopped under load: the same tests for both modes, apart from ``Kind``."""

import fcntl
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from support.documents import DOCUMENTED_ID, put_row, task
from support.load import accepts, answers, callers, check_sigterm_lets_calls_finish, grpc_callers
from support.running import System, eventually, running_system


class Kind(NamedTuple):
    """The differences between the modes."""

    mode: str

    servers: Callable[[System], list[psutil.Process]]
    """The processes that answer calls."""

    begun: str
    """The log event when one of them serves."""

    breaks: tuple[str, ...]
    """How a call may end when its server is killed under it: empty where Envoy asks another server."""

    not_taken: frozenset[str]
    """How new connections may end while servers are replaced one after the other.

    A socket that closes resets connections that the kernel had taken for it and the server had not yet accepted.
    """

    processes: int
    """The number of processes with two servers."""


EMBEDDED = Kind(
    mode="embedded",
    servers=System.envoys,
    begun="serving inside Envoy",
    breaks=("ConnectionReset", "RemoteDisconnected", "refused", "not accepted"),
    not_taken=frozenset({"not accepted"}),
    processes=3,
)
PROXIED = Kind(
    mode="proxied",
    servers=System.workers,
    begun="worker listens",
    breaks=(),
    not_taken=frozenset(),
    processes=4,
)

kinds = pytest.mark.parametrize("kind", [EMBEDDED, PROXIED], ids=["embedded", "proxied"])
modes = pytest.mark.parametrize("mode", ["embedded", "proxied"])


def wait_until_replaced(kind: Kind, system: System, victim: psutil.Process, since: int) -> None:
    """Return when as many servers as before serve, without ``victim``, and Envoy considers all of them healthy.

    ``since`` is the length of the log before the fault: waiting keeps two servers from being away at once.
    """
    eventually(lambda: system.events(kind.begun, since), "another one serves")  # a second on an idle machine
    eventually(lambda: victim.pid not in {server.pid for server in kind.servers(system)}, "the victim is gone")
    eventually(lambda: len(kind.servers(system)) == 2, "two servers again")
    if kind is PROXIED:
        eventually(lambda: system.healthy_servers() == 2, "both healthy to Envoy")


def check_only_calls_of_victims_broke(kind: Kind, outcomes: Counter[str], victims: int, count: int) -> None:
    """At most one broken call of each caller for a victim, and one connection attempt just before the socket closed."""
    broken = {outcome: number for outcome, number in outcomes.items() if outcome != "ok"}
    assert all(outcome.startswith(kind.breaks) for outcome in broken), broken
    of_connects = broken.pop("refused", 0) + broken.pop("not accepted", 0)
    assert of_connects <= victims * count, outcomes
    assert sum(broken.values()) <= victims * count, outcomes


@pytest.fixture
def system(kind: Kind, lasting: Callable[..., System]) -> System:
    """A system with two servers, for tests that leave it intact."""
    return lasting(kind.mode, workers=2)


@kinds
def test_killed_server_is_replaced_and_no_call_but_its_own_fails(kind: Kind, system: System) -> None:
    """Under load, three times: callers of the other server notice nothing, and when proxied, no caller does."""
    begun = len(system.log)
    with callers(system, 8) as outcomes:
        for _ in range(3):
            eventually(lambda: outcomes["ok"] > 200, "calls under way")
            victim, since = kind.servers(system)[0], len(system.log)
            victim.kill()
            wait_until_replaced(kind, system, victim, since)
            outcomes["ok"] = 1
    check_only_calls_of_victims_broke(kind, outcomes, 3, 8)
    assert len(system.events("worker gone; replacing it", begun)) == 3
    if kind is PROXIED:  # each on the port of its predecessor
        assert len({event["grpc"] for event in system.events("worker listens")}) == 2
        assert len(system.events("worker listens", begun)) == 3


@kinds
def test_hung_server_is_noticed_ended_and_replaced_and_no_call_but_its_own_fails(kind: Kind, system: System) -> None:
    """A stopped process sends no answers and no heartbeats; when proxied, the other one answers its calls."""
    since = len(system.log)
    with callers(system, 8) as outcomes:
        eventually(lambda: outcomes["ok"] > 100, "calls under way")
        victim = kind.servers(system)[0]
        victim.suspend()
        wait_until_replaced(kind, system, victim, since)  # four seconds on an idle machine
    check_only_calls_of_victims_broke(kind, outcomes, 1, 8)
    (gone,) = system.events("worker gone; replacing it", since)
    assert gone["problem"] == "it hung, and was ended"
    assert not victim.is_running()
    assert answers(system)


@pytest.mark.parametrize(("kind", "seconds"), [(EMBEDDED, 1.3), (PROXIED, 1.7)], ids=["embedded", "proxied"])
def test_supervisor_that_stood_still_ends_no_process(system: System, seconds: float) -> None:
    """A paused machine or a supervisor without CPU time does not make processes count as hung."""
    before, since = set(system.family()), len(system.log)
    system.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)  # on purpose: the supervisor is stopped
    system.process.send_signal(signal.SIGCONT)
    time.sleep(1)  # on purpose: it would end them now
    assert set(system.family()) == before
    assert system.events("worker gone; replacing it", since) == system.events("Envoy gone; replacing it", since) == []


@modes
def test_supervisor_without_files_takes_nothing_for_hung_and_watches_again(
    lasting: Callable[..., System], mode: str
) -> None:
    """It can open no files for a while and so cannot probe Envoy, which keeps running; later it notices a hang."""
    system = lasting(mode, workers=1)
    supervisor, envoy, since = psutil.Process(system.process.pid), system.envoy(), len(system.log)

    def replaced() -> list[str]:
        return [line for line in system.log[since:] if "gone; replacing it" in line]

    def unwatched() -> list[object]:
        return [*system.events("Envoy cannot be probed; trying again", since)]

    limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
    eventually(unwatched, "no news")
    time.sleep(4)  # on purpose: longer than a hung Envoy is tolerated
    assert answers(system)
    assert not replaced()
    assert len(unwatched()) == 1
    supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
    envoy.suspend()
    eventually(replaced, "noticed")
    eventually(lambda: answers(system), "answers again")
    assert not envoy.is_running()


@pytest.mark.long_in("two workers")
@pytest.mark.parametrize(
    ("kind", "workers"),
    [(EMBEDDED, 2), (PROXIED, 1), (PROXIED, 2)],
    ids=["embedded", "proxied with one worker", "proxied with two workers"],
)
def test_restarting_every_server_in_turn_fails_no_call(
    lasting: Callable[..., System], kind: Kind, workers: int
) -> None:
    """SIGHUP under load: all servers are new, and every call on a connection that is kept was answered.

    When proxied, so was each on a new connection, over REST and gRPC.
    """
    system = lasting(kind.mode, workers=workers)
    before, envoy, since = {server.pid for server in kind.servers(system)}, system.envoy().pid, len(system.log)
    with ExitStack() as calls:
        kept = [calls.enter_context(callers(system, 8))]
        new = [calls.enter_context(callers(system, 8, connect_anew=True))]
        if kind is PROXIED:
            kept.append(calls.enter_context(grpc_callers(system, 4)))
            new.append(calls.enter_context(grpc_callers(system, 2, connect_anew=True)))
        eventually(lambda: all(outcomes["ok"] > 50 for outcomes in kept + new), "calls under way")
        system.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(system.events("worker restarted", since)) == workers, "all restarted")
        served = [outcomes["ok"] for outcomes in kept + new]
        eventually(lambda: all(o["ok"] > n + 50 for o, n in zip(kept + new, served, strict=True)), "calls go on")
    assert [set(outcomes) for outcomes in kept] == [{"ok"}] * len(kept), kept
    for outcomes in new:
        assert set(outcomes) <= {"ok"} | kind.not_taken, new
        assert outcomes.total() - outcomes["ok"] <= 8 * workers, new  # one for each caller and restart, at most
    assert not before & {server.pid for server in kind.servers(system)}
    if kind is PROXIED:
        assert system.envoy().pid == envoy
        ports = {event["grpc"] for event in system.events("worker listens", since)}
        assert ports == {event["grpc"] for event in system.events("worker listens")}
        assert len(system.events("worker listens", since)) == len(ports) == workers


@modes
def test_sigterm_lets_running_calls_finish(tmp_path: Path, mode: str) -> None:
    with running_system(tmp_path / "tasks.db", "--demo", "--drain-delay", "1", mode=mode, workers=1) as system:
        check_sigterm_lets_calls_finish(system)


@modes
def test_sigterm_lets_a_slow_reader_finish(tmp_path: Path, mode: str) -> None:
    """An answer of megabytes that is in flight when everything receives SIGTERM still arrives whole."""
    database = tmp_path / "tasks.db"
    with running_system(database, mode=mode, workers=1) as system:
        document = task(DOCUMENTED_ID, outputData={"text": "x" * 10_000_000})
        put_row(database, DOCUMENTED_ID, document.decode())
        reader = http.client.HTTPConnection(system.http, timeout=20)
        reader.request("GET", f"/api/tasks/{DOCUMENTED_ID}")
        response = reader.getresponse()
        received = response.read(100_000)
        system.family()
        system.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(system.http), "the port closed")
        assert received + response.read() == document
        reader.close()
        assert system.wait() == 0
        system.assert_gone()


@pytest.mark.parametrize(("mode", "number"), [("embedded", signal.SIGTERM), ("proxied", signal.SIGINT)])
def test_second_signal_ends_at_once_and_leaves_nothing(tmp_path: Path, mode: str, number: signal.Signals) -> None:
    """No process remains, and no folder of Envoy's."""
    folder = Path(tempfile.mkdtemp())  # a short name, so that sockets are made there and nowhere else
    own = {"TMPDIR": str(folder)}
    arguments = {"mode": mode, "workers": 1, "env": own}
    with System(tmp_path / "tasks.db", "--drain-delay", "60", **arguments) as system:
        system.wait_ready()
        assert list(folder.glob("taskgate-*"))
        system.family()
        system.process.send_signal(number)
        system.wait_for("draining", in_log=True)
        system.process.send_signal(number)
        assert system.wait() == 128 + number  # wait() has a shorter timeout than the delay
        system.assert_gone()
    folder.rmdir()  # fails unless the folder is empty


@modes
def test_ctrl_c_leaves_no_process(tmp_path: Path, mode: str) -> None:
    """SIGINT to the whole foreground process group, as a terminal sends it: drained, exit code 0, no process left."""
    with running_system(tmp_path / "tasks.db", mode=mode, workers=1) as system:
        system.family()
        os.killpg(system.process.pid, signal.SIGINT)
        assert system.wait() == 0
        system.assert_gone()
        assert not [line for line in system.log if "Traceback" in line]


MOMENTS: dict[str, Callable[[System], object]] = {
    "it imports": lambda system: system.family()[0].cpu_times().user > 0.1,
    "it has started a process": lambda system: system.family()[1:],
    "Envoy is there": System.envoys,
}


@modes
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_ctrl_c_while_starting_leaves_no_process(tmp_path: Path, mode: str, moment: Callable[[System], object]) -> None:
    """At any moment of the start, the process ends, alone, and a person who pressed Ctrl-C sees no traceback.

    A traceback through our code is more than ugly: it is a KeyboardInterrupt from the middle of an import. Inside a
    callback, Python drops it and the start continues.

    Named exception: the interpreter's own start, before any line of ours, is Python's to handle.
    """
    with System(tmp_path / "tasks.db", mode=mode, workers=1) as system:
        eventually(lambda: moment(system), "the moment")
        system.stop(signal.SIGINT)
        system.assert_gone()
        assert not [line for line in system.log if re.search(r'[/\\]taskgate[/\\](__main__|cli)\.py"', line)]


@kinds
def test_killed_supervisor_takes_all_with_it(tmp_path: Path, kind: Kind) -> None:
    """A killed process can do nothing; its servers and Envoy end by themselves."""
    with running_system(tmp_path / "tasks.db", mode=kind.mode, workers=2) as system:
        assert len(system.family()) == kind.processes
        system.process.kill()
        system.process.wait()
        system.assert_gone(seconds=15)


@pytest.mark.long_in("proxied")
@modes
def test_calls_are_answered_while_the_log_is_not_read(tmp_path: Path, mode: str) -> None:
    """With a hung log collector, or a terminal after Ctrl-S, calls are still answered, and SIGTERM works."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)  # the minimum for a pipe
    command = [sys.executable, "-m", "taskgate", "up", "--demo", "--store", f"sqlite:///{tmp_path}/tasks.db"]
    command += [
        "--http",
        "127.0.0.1:0",
        "--grpc",
        "127.0.0.1:0",
        "--mode",
        mode,
        "--drain-delay",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        assert process.stdout is not None
        url = next(found[1] for line in process.stdout if (found := re.search(r"REST +(http://\S+/api/tasks/)", line)))
        with httpx.Client(timeout=10) as client:
            for _ in range(300):  # ten pipes full of lines
                assert client.get(f"{url}{DOCUMENTED_ID}").status_code == 200
        process.terminate()
        assert process.wait(30) == 0
    os.close(reading)
    os.close(writing)
