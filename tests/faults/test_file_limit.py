"""More connections than the limit of open files allows: the rest is refused, at no cost, and the log says so."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from support.load import answers
from support.running import Running, System, eventually

HTTP = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
CONNECTIONS = 300


def connected(address: str, first: bytes) -> list[socket.socket]:
    """Many callers that say something and keep their connections."""
    host, _, port = address.rpartition(":")
    sockets = [socket.create_connection((host, int(port)), timeout=20) for _ in range(CONNECTIONS)]
    for one in sockets:
        with suppress(OSError):  # refused already
            one.sendall(first)
    return sockets


def answered(one: socket.socket) -> bool:
    """Whether something comes, and not the end."""
    try:
        return bool(one.recv(1))
    except ConnectionResetError:
        return False


def check(running: Running, address: str, first: bytes) -> None:
    processes = running.family()
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    sockets = connected(address, first)
    outcomes = [answered(one) for one in sockets]  # none waits for ever
    assert 16 <= sum(outcomes) < 128
    time.sleep(4)  # on purpose: with all of them open, next to nothing is done
    used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
    print(  # noqa: T201 - `make faults` shows it
        f"limit 128, {CONNECTIONS} connections: {sum(outcomes)} answered, the rest refused, {used:.2f} s of CPU in 4 s"
    )
    assert used < 1.5  # it was 40 % and more of the time
    for one in sockets:
        one.close()
    warnings = [line for line in running.log if "the limit of open files (ulimit -n) allows fewer connections" in line]
    assert len(warnings) == 1
    assert '"file_limit":128' in warnings[0]


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_gateway(tmp_path: Path, transport: str) -> None:
    with System(tmp_path / "tasks.db", "--demo", transport=transport, workers=1, files=128) as system:
        system.wait_ready()
        check(system, system.http, HTTP)
        eventually(lambda: answers(system), "answers again")
        system.wait_for("connections were refused: as many as are allowed were open", in_log=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_server_alone(tmp_path: Path, workers: int) -> None:
    arguments = ("--store", f"sqlite:///{tmp_path}/tasks.db", "--grpc", "127.0.0.1:0", "--drain-delay", "0")
    arguments += ("--shutdown-grace", "1", "--workers", str(workers), "--log-format", "json")
    with Running("serve", *arguments, files=128) as running:
        eventually(lambda: len(running.events("listening")) == workers, "listening", 20)
        check(running, running.events("listening")[0]["grpc"], HTTP2)


@pytest.mark.parametrize(
    "command", [("up",), ("up", "--transport", "grpcio"), ("serve",), ("serve", "--workers", "2")], ids=" ".join
)
def test_limit_that_leaves_no_room_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    """One sentence with the figures, exit code 2."""
    with Running(*command, "--store", f"sqlite:///{tmp_path}/tasks.db", files=64) as running:
        assert running.wait() == 2
    (line,) = running.log
    assert line.startswith("taskgate: the limit of open files is 64 (ulimit -n), which is too low")
