"""More connections than the limit of open files allows: the rest is refused, at no cost, and the log says so."""

import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from support.documents import DOCUMENTED_ID
from support.load import answers
from support.raw_grpc import ConnectionLost, RawGrpc, framed, request_for
from support.running import Running, System, eventually
from taskgate.commands.up import files_of_envoy

pytestmark = pytest.mark.long

HTTP = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
CONNECTIONS = 300
WATCH = "/grpc.health.v1.Health/Watch"
WATCHES = 100
"""The most that one connection may have."""


def connected(address: str, first: bytes) -> list[socket.socket]:
    """Many callers that send something and keep their connections."""
    host, _, port = address.rpartition(":")
    sockets = [socket.create_connection((host, int(port)), timeout=20) for _ in range(CONNECTIONS)]
    for one in sockets:
        with suppress(OSError):  # refused already
            one.sendall(first)
    return sockets


def answered(one: socket.socket) -> bool:
    """Whether bytes arrive before the end."""
    try:
        return bool(one.recv(1))
    except ConnectionResetError:
        return False


def check(running: Running, address: str, first: bytes, files: int) -> None:
    """``files`` is the limit of ``running``."""
    processes = running.family()
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    sockets = connected(address, first)
    outcomes = [answered(one) for one in sockets]  # none waits for ever
    assert 16 <= sum(outcomes) < files
    time.sleep(4)  # on purpose: open connections must cost almost no CPU
    used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
    print(  # noqa: T201 - `make faults` shows it
        f"limit {files}, {CONNECTIONS} connections: {sum(outcomes)} answered, the rest refused, {used:.2f} s of CPU"
    )
    assert used < 1.5  # the bug took 40 % of the time and more
    for one in sockets:
        one.close()
    warnings = [line for line in running.log if "the limit of open files (ulimit -n) allows fewer connections" in line]
    assert len(warnings) == 1
    assert f'"file_limit":{files}' in warnings[0]


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_gateway_out_of_files_refuses_new_connections_and_serves_the_others(tmp_path: Path, mode: str) -> None:
    with System(tmp_path / "tasks.db", "--demo", mode=mode, workers=1, files=320) as system:
        system.wait_ready()
        check(system, system.http, HTTP, 320)
        eventually(lambda: answers(system), "answers again")
        system.wait_for("connections were refused: the allowed number was open", in_log=True)


def watching(stack: ExitStack, address: str, count: int) -> list[RawGrpc]:
    """Those of ``count`` connections that were accepted, each with as many watches as it may have."""
    taken = []
    connections = [stack.enter_context(RawGrpc(address)) for _ in range(count)]
    for connection in connections:
        try:
            watches = [connection.open(WATCH) for _ in range(WATCHES)]
            for watch in watches:
                connection.data(watch, framed(b""), end=True)
            while any(not answer.body for answer in connection.answers.values()):
                assert all(answer.reset is None and not answer.ended for answer in connection.answers.values())
                connection.receive()
        except (ConnectionLost, OSError):
            continue  # refused
        taken.append(connection)
    return taken


def test_connections_full_of_watches_leave_files(tmp_path: Path) -> None:
    """Each takes two from Envoy to a server: only as many are accepted as both have files for, and none breaks."""
    files = files_of_envoy(1) + 81
    with System(tmp_path / "tasks.db", "--demo", mode="proxied", workers=1, files=files) as system:
        system.wait_ready()
        with ExitStack() as stack:
            asking = stack.enter_context(RawGrpc(system.http))
            assert asking.call(request_for(DOCUMENTED_ID)).grpc_status == 0
            taken = watching(stack, system.http, 70)
            shown = f"limit {files}: {len(taken)} of 70 connections have {WATCHES} watches each"
            print(f"{shown}, Envoy {system.envoy().num_fds()} files")  # noqa: T201 - `make faults` shows it
            assert 16 < len(taken) < 27
            assert asking.call(request_for(DOCUMENTED_ID)).grpc_status == 0
            assert all(not connection.lost for connection in taken)
        eventually(lambda: answers(system), "answers again")
        assert not [line for line in system.log if "Too many open files" in line or '"replaced"' in line]


@pytest.mark.parametrize("workers", [1, 2])
def test_server_out_of_files_refuses_new_connections_and_serves_the_others(tmp_path: Path, workers: int) -> None:
    arguments = ("--store", f"sqlite:///{tmp_path}/tasks.db", "--grpc", "127.0.0.1:0", "--drain-delay", "0")
    arguments += ("--shutdown-grace", "1", "--workers", str(workers), "--log-format", "json")
    with Running("serve", *arguments, files=128) as running:
        eventually(lambda: len(running.events("listening")) == workers, "listening")
        check(running, running.events("listening")[0]["grpc"], HTTP2, 128)


@pytest.mark.parametrize(
    "command", [("up",), ("up", "--mode", "proxied"), ("serve",), ("serve", "--workers", "2")], ids=" ".join
)
def test_limit_that_leaves_no_room_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    """One sentence with the figures, exit code 2."""
    with Running(*command, "--store", f"sqlite:///{tmp_path}/tasks.db", files=64) as running:
        assert running.wait() == 2
    (line,) = running.log
    assert line.startswith("taskgate: the limit of open files is 64 (ulimit -n), which is too low")
