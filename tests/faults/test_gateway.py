"""Gateways that run and accept no new callers, and folders without an owner: detected, and repaired."""

import ctypes
import os
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.clients import GrpcClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, put_row, task
from support.load import answers, callers
from support.running import System, ask_admin, eventually

MODES = pytest.mark.parametrize("mode", ["embedded", "proxied"])


def problems(system: System, since: int) -> list[str]:
    """The problem of each process that was replaced after the first ``since`` lines of the log."""
    return [
        event["problem"]
        for kind in ("worker gone; replacing it", "Envoy gone; replacing it")
        for event in system.events(kind, since)
    ]


@pytest.fixture
def system(mode: str, lasting: Callable[..., System]) -> System:
    """A system with one server, for tests that leave it intact."""
    return lasting(mode, workers=1)


@MODES
def test_listeners_that_were_closed_from_elsewhere_are_opened_again(system: System) -> None:
    """As by ``/drain_listeners``: running calls finish, and new ones are answered seconds later."""
    before, since = system.envoy(), len(system.log)
    assert ask_admin(before, "POST", "/drain_listeners") == (200, "OK\n")
    eventually(lambda: problems(system, since), "noticed")
    assert problems(system, since) == ["it accepted no connections, and was ended"]
    eventually(lambda: answers(system), "answers again")
    assert system.envoy() != before


def test_a_process_whose_listeners_were_closed_is_told_from_those_on_the_same_port(
    lasting: Callable[..., System],
) -> None:
    """Of two processes that share a port one is closed: that one is replaced, and callers notice nothing."""
    system = lasting("embedded", workers=2)
    closed, other = system.envoys()
    with callers(system, 4, connect_anew=True) as outcomes:
        eventually(lambda: outcomes["ok"] > 50, "calls under way")
        ask_admin(closed, "POST", "/drain_listeners")
        eventually(lambda: closed not in system.envoys() and len(system.envoys()) == 2, "replaced")
    assert other in system.envoys()
    assert set(outcomes) <= {"ok", "not accepted"}, outcomes  # accepted by the kernel for the closed one


@MODES
def test_health_check_that_was_failed_from_elsewhere_is_mended(system: System) -> None:
    """As by ``/healthcheck/fail``: load balancers would avoid a node that serves, for ever."""
    since = len(system.log)
    ask_admin(system.envoy(), "POST", "/healthcheck/fail")
    eventually(lambda: problems(system, since), "noticed")
    assert problems(system, since) == ["another program had failed its health check, and was ended"]

    def healthy() -> bool:
        try:
            urllib.request.urlopen(f"http://{system.http}/healthz", timeout=5).close()
        except OSError:
            return False
        return True

    eventually(healthy, "healthy")


_ALL_KINDS = 0x40000000  # __WALL: threads of others too


def stand_still(thread: int) -> None:
    """Stop one thread of another process, as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    attach = 16
    assert libc.ptrace(attach, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(thread, _ALL_KINDS)


def let_go(thread: int) -> None:
    """Collect its exit status, if it has ended: until then the process would not count as ended."""
    with suppress(ChildProcessError):
        os.waitpid(thread, _ALL_KINDS | os.WNOHANG)


@pytest.mark.long
@MODES
def test_gateway_whose_threads_stand_still_is_replaced(system: System) -> None:
    """The kernel accepts connections for it, its main thread is well, and no caller is answered."""
    envoy, since = system.envoy(), len(system.log)
    names = {t.id: Path(f"/proc/{envoy.pid}/task/{t.id}/comm").read_text() for t in envoy.threads()}
    serving = [thread for thread, name in names.items() if name.startswith("wrk:")]
    assert serving
    for thread in serving:
        stand_still(thread)
    eventually(lambda: [*map(let_go, serving)] and problems(system, since), "noticed")
    assert problems(system, since) == ["it did not answer on a new connection, and was ended"]
    eventually(lambda: answers(system), "answers again")


def private_folders(parent: Path) -> list[Path]:
    return list(parent.glob("taskgate-*"))


@pytest.mark.long
@MODES
def test_folder_of_a_killed_supervisor_is_removed_by_the_next(tmp_path: Path, mode: str) -> None:
    """The folder of a live supervisor stays, and so does anything that only has such a name."""
    with tempfile.TemporaryDirectory() as short:
        temporary = Path(short)
        strangers = [temporary / "taskgate-backup", temporary / "taskgate-file"]
        strangers[0].mkdir(mode=0o700)
        strangers[1].touch()
        own = {"TMPDIR": short}
        arguments = {"mode": mode, "workers": 1, "env": own}
        each = 1 if mode == "embedded" else 2  # Envoy's, and that of the sockets between Envoy and servers
        with System(tmp_path / "tasks.db", "--demo", **arguments) as living:
            living.wait_ready()
            with System(tmp_path / "tasks.db", **arguments) as killed:
                killed.wait_ready()
                put_row(
                    tmp_path / "tasks.db", DOCUMENTED_ID, task(DOCUMENTED_ID, outputData={"a": "b" * 20_000}).decode()
                )
                client = GrpcClient("grpc", killed.grpc)
                assert client.get_task(DOCUMENTED_ID)[1] is not None  # converted in its own process
                client.close()
                assert len(killed.family()) == (3 if mode == "embedded" else 4)
                put_row(tmp_path / "tasks.db", DOCUMENTED_ID, DOCUMENTED_COMPACT.decode())
                killed.process.kill()
                killed.process.wait()
                killed.assert_gone(seconds=15)
            assert len(private_folders(temporary)) == 2 * each + len(strangers)
            with System(tmp_path / "tasks.db", **arguments) as next_one:
                next_one.wait_ready()
                assert len(private_folders(temporary)) == 2 * each + len(strangers)
                assert answers(living)
                assert ask_admin(living.envoy(), "GET", "/ready") == (200, "LIVE\n")
                assert next_one.stop() == 0
            assert living.stop() == 0
        assert sorted(private_folders(temporary)) == sorted(strangers)


@MODES
def test_temporary_directory_with_a_name_too_long_for_a_socket(tmp_path: Path, mode: str) -> None:
    """A shorter one is used; if none is possible, ``PrivateFolder`` says so."""
    temporary = tmp_path / ("long" * 30)
    temporary.mkdir()
    own = {"TMPDIR": str(temporary)}
    with System(tmp_path / "tasks.db", "--demo", mode=mode, workers=1, env=own) as system:
        system.wait_ready()
        assert answers(system)
        assert ask_admin(system.envoy(), "GET", "/ready") == (200, "LIVE\n")
