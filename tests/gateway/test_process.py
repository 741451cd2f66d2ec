"""Envoy's process: it is started, found, drained and stopped, and never left behind."""

import asyncio
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import uvloop

from gateway.channels import method, open_channel
from gateway.running import Gateway, StubServer, active, counted
from gateway.stub_server import DOCUMENT
from gateway.wire import Answer, Ask, Http1, ask_over, assert_error
from support.raw_grpc import RawGrpc, framed
from support.running import eventually
from taskgate.base.addresses import Address
from taskgate.processes.envoy import EnvoyProcess, GatewayError, GatewaySettings
from taskgate.processes.envoy.probes import probe_listener
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

PATH = "/api/tasks/"
ANY_PORT = Address("127.0.0.1", 0)


def refused(address: Address) -> bool:
    """Whether the address has no listener."""
    with socket.socket() as probe:
        return probe.connect_ex(address) != 0


class TestStart:
    @pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    def test_envoy_starts_under_asyncio_and_uvloop(self, stub: StubServer, runner: Callable[..., int]) -> None:
        async def scenario() -> int:
            envoy = EnvoyProcess(GatewaySettings(listen=ANY_PORT, upstreams=(stub.address,)), on_log=lambda *_: None)
            address = await envoy.start()
            assert address.port > 0
            answer = await asyncio.to_thread(ask_over("http1", address), f"{PATH}stub.document")
            assert answer.body == DOCUMENT
            await envoy.drain(0)
            await envoy.stop()
            assert envoy.pid is None
            return await envoy.wait()

        assert runner(scenario()) == 0

    def test_taken_port_is_named_with_its_setting(self, stub: StubServer) -> None:
        """Envoy by itself would share the port (SO_REUSEPORT) and get half of the connections."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with (
                pytest.raises(GatewayError, match=f"http: cannot listen on 127.0.0.1:{port}: Address already in use"),
                Gateway(stub, listen=Address("127.0.0.1", port)),
            ):
                pass

    def test_port_of_another_gateway_is_taken(self, gateway: Gateway, stub: StubServer) -> None:
        with pytest.raises(GatewayError, match="http: cannot listen on"), Gateway(stub, listen=gateway.address):
            pass

    def test_envoys_reason_when_it_does_not_start(self, stub: StubServer) -> None:
        missing = Gateway(stub, changes=[("taskgate.binpb", "no.binpb")])
        with pytest.raises(GatewayError, match=r"Envoy did not start\..*no\.binpb"), missing:
            pass

    def test_servers_need_not_be_there_yet(self, start_stub: Callable[..., StubServer]) -> None:
        with socket.socket() as later:
            later.bind(("127.0.0.1", 0))
            port = later.getsockname()[1]
        with Gateway(Address("127.0.0.1", port)) as gateway:
            ask = ask_over("http1", gateway.address)
            assert ask(f"{PATH}a").status == 503
            start_stub(port)
            eventually(lambda: ask(f"{PATH}a").status == 200, "served", 8)

    def test_several_gateways_run_on_one_machine(self, stub: StubServer, gateway: Gateway) -> None:
        with Gateway(stub) as second:
            assert second.address != gateway.address
            assert ask_over("http1", second.address)(f"{PATH}a").status == 200

    def test_a_terminals_interrupt_does_not_reach_it(self, gateway: Gateway) -> None:
        assert gateway.envoy.pid is not None
        assert os.getsid(gateway.envoy.pid) == gateway.envoy.pid

    def test_access_log_line_names_the_path_without_its_query(self, stub: StubServer, tmp_path: Path) -> None:
        log = tmp_path / "access.log"
        with Gateway(stub, access_log=str(log)) as gateway:
            ask_over("http1", gateway.address)(f"{PATH}stub.document?token=secret", headers=[("x-request-id", "r-1")])
            ask_over("http1", gateway.address)("/nope?token=secret")
        lines = log.read_text()
        assert '"path":"/api/tasks/stub.document"' in lines
        assert '"path":"/nope"' in lines
        assert '"request_id":"r-1"' in lines
        assert "secret" not in lines


class TestEnd:
    def test_stop_leaves_no_process_port_or_file(self, stub: StubServer) -> None:
        with Gateway(stub) as gateway:
            process = psutil.Process(gateway.envoy.pid)
            config = Path(process.cmdline()[process.cmdline().index("-c") + 1])
            assert config.is_file()
            gateway.run(gateway.envoy.stop())
            assert not process.is_running()
            assert refused(gateway.address)
            assert not config.parent.exists()
            gateway.run(gateway.envoy.stop())  # a second time does nothing

    def test_a_crash_is_noticed_and_start_takes_the_same_port_again(self, stub: StubServer) -> None:
        with Gateway(stub) as gateway:
            before = gateway.address
            assert gateway.envoy.pid is not None
            os.kill(gateway.envoy.pid, signal.SIGKILL)
            assert gateway.run(gateway.envoy.wait()) == -signal.SIGKILL
            assert gateway.envoy.pid is None
            assert gateway.run(gateway.envoy.start()) == before
            assert ask_over("http1", before)(f"{PATH}stub.document").body == DOCUMENT

    def test_it_does_not_outlive_a_killed_supervisor(self) -> None:
        """On Linux; other kernels cannot end a process with its parent, so it has to be killed by hand there."""
        script = Path(__file__).with_name("hold_envoy.py")
        with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as supervisor:
            assert supervisor.stdout is not None
            envoy = psutil.Process(int(supervisor.stdout.readline()))
            assert envoy.name() == "envoy"
            supervisor.kill()
        if sys.platform != "linux":
            envoy.kill()
        eventually(lambda: not envoy.is_running() or envoy.status() == psutil.STATUS_ZOMBIE, "Envoy gone", 5)


class TestDrain:
    def test_http1_callers_are_asked_to_leave_and_none_is_dropped(
        self, start_gateway: Callable[..., Gateway], stub: StubServer
    ) -> None:
        gateway = start_gateway(stub)
        with Http1(gateway.address) as kept, Http1(gateway.address) as running:
            assert kept.ask(f"{PATH}stub.document").header("connection") is None
            running.send(f"GET {PATH}stub.sleep.1.5 HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            eventually(lambda: active(gateway) == 1, "the call is under way")
            drain = gateway.begin(gateway.envoy.drain(60))
            ask = ask_over("http1", gateway.address)
            assert_error(eventually(lambda: unhealthy(ask), "draining"), 503, retryable=True)
            last = kept.ask(f"{PATH}stub.document")
            assert (last.body, last.header("connection")) == (DOCUMENT, "close")
            assert ask(f"{PATH}stub.document").body == DOCUMENT

            drain.cancel()
            gateway.run(gateway.envoy.drain(0))
            eventually(lambda: refused(gateway.address), "the listener is closed")
            stop = in_thread(lambda: gateway.run(gateway.envoy.stop(5)))
            assert running.answer().body == DOCUMENT
            stop.join()

    def test_http2_callers_move_without_noticing(self, start_gateway: Callable[..., Gateway], stub: StubServer) -> None:
        """They receive GOAWAY, open new connections, and lose no call.

        The client has gRPC's default: a call withdrawn from a connection before it was sent goes to the next.
        """
        gateway = start_gateway(stub)
        request = GetTaskJsonRequest(task_id="stub.sleep.0.02").SerializeToString()
        with open_channel(gateway.address, retries=True) as channel:
            call = method(channel)
            call(request, timeout=5)
            before = connections(gateway)
            drain = gateway.begin(gateway.envoy.drain(60))

            def moved() -> bool:
                call(request, timeout=5)
                return connections(gateway) > before

            eventually(moved, "a new connection")
            for _ in range(20):
                call(request, timeout=5)
            drain.cancel()

    def test_calls_already_on_their_way_get_in(self, start_gateway: Callable[..., Gateway], stub: StubServer) -> None:
        """The first GOAWAY refuses nothing: a call sent before its client has seen it is answered."""
        gateway = start_gateway(stub)
        message = framed(GetTaskJsonRequest(task_id="stub.document").SerializeToString())
        with RawGrpc(str(gateway.address)) as connection:
            connection.ignore_goaway()
            drain = gateway.begin(gateway.envoy.drain(60))
            while connection.goaway is None:
                assert connection.call(message).grpc_status == 0
            assert connection.goaway.last_stream_id > len(connection.answers) * 2
            for _ in range(3):  # not more: a second later, the last GOAWAY may refuse calls
                answer = connection.call(message)
                assert (answer.grpc_status, len(answer.messages)) == (0, 1)
            drain.cancel()

    def test_grpc_call_in_flight_ends_well(self, start_gateway: Callable[..., Gateway], stub: StubServer) -> None:
        gateway = start_gateway(stub)
        request = GetTaskJsonRequest(task_id="stub.sleep.1.0").SerializeToString()
        with open_channel(gateway.address) as channel:
            future = method(channel).future(request, timeout=10)
            eventually(lambda: active(gateway) == 1, "the call is under way")
            gateway.run(gateway.envoy.stop(5))
            assert DOCUMENT in future.result()

    def test_stop_waits_for_a_slow_reader(self, start_gateway: Callable[..., Gateway], stub: StubServer) -> None:
        """Envoy counts a call as done when its answer is in a buffer; the reader does not have it by then."""
        gateway = start_gateway(stub)
        size = 8 << 20
        with Http1(gateway.address) as connection:
            connection.send(f"GET {PATH}stub.size.{size} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            eventually(lambda: counted(gateway, "downstream_cx_tx_bytes_buffered") > 0, "the answer in a buffer")
            stop = in_thread(lambda: gateway.run(gateway.envoy.stop(20)))
            received = 0
            while data := connection.read_slowly(1 << 18):
                received += len(data)
                time.sleep(0.02)
            stop.join()
        assert received > size

    def test_stop_does_not_wait_beyond_its_grace(self, start_gateway: Callable[..., Gateway], stub: StubServer) -> None:
        gateway = start_gateway(stub)
        with Http1(gateway.address) as connection:
            connection.send(f"GET {PATH}stub.sleep.90.0 HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            eventually(lambda: active(gateway) == 1, "the call is under way")
            started = time.monotonic()
            gateway.run(gateway.envoy.stop(0.5))
            assert 0.4 < time.monotonic() - started < 10  # the call itself would take 16 s, to its timeout


class TestWatch:
    def test_no_thread_to_look_with_is_no_news(
        self, start_gateway: Callable[..., Gateway], stub: StubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The test simulates the fault: where tests run as root, the kernel does not limit threads."""

        def refuse(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        gateway = start_gateway(stub)
        assert gateway.envoy.pid is not None
        watch = gateway.begin(gateway.envoy.hung())
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "to_thread", refuse)
            time.sleep(3)  # on purpose: twice the time after which Envoy would count as hung
            assert not watch.done()
        os.kill(gateway.envoy.pid, signal.SIGSTOP)
        assert watch.result(30).what == "it hung"
        os.kill(gateway.envoy.pid, signal.SIGCONT)

    @pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    def test_listener_for_which_many_wait_may_be_busy(
        self, tmp_path: Path, runner: Callable[..., tuple[bool, bool]]
    ) -> None:
        """It counts as one that does not answer, once time is up; before that, it may accept them all."""

        async def scenario(listener: socket.socket, opened: ExitStack) -> tuple[bool, bool]:
            look = asyncio.create_task(probe_listener(tmp_path / "full"))
            await asyncio.sleep(0.3)
            assert not look.done()
            for _ in range(3):  # two waiting ones, and the probe
                taken, _ = await asyncio.to_thread(listener.accept)
                opened.enter_context(taken).sendall(b"x")
            return await asyncio.wait_for(look, 10)

        with ExitStack() as opened:
            listener, *waiting = (opened.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4))
            listener.bind(str(tmp_path / "full"))
            listener.listen(1)
            listener.settimeout(10)
            for caller in waiting:
                caller.setblocking(False)
            assert [caller.connect_ex(str(tmp_path / "full")) for caller in waiting] == [0, 0, errno.EAGAIN]
            assert runner(scenario(listener, opened)) == (True, True)


class TestAdmin:
    def test_admin_answers_health_statistics_and_listeners(self, gateway: Gateway) -> None:
        for path in ("/ready", "/stats/prometheus", "/stats/prometheus?usedonly", "/listeners"):
            with Http1(gateway.admin) as connection:
                connection.send(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
                assert (path, connection.read_slowly(15)) == (path, b"HTTP/1.1 200 OK")

    def test_admin_refuses_everything_else(self, gateway: Gateway, subtests: pytest.Subtests) -> None:
        for path in (
            "/quitquitquit",
            "/config_dump",
            "/",
            "/clusters",
            "/certs",
            "/logging?level=trace",
            "/runtime_modify?a=b",
            "/stats",
            "/healthcheck/ok",
            "/reset_counters",
            "/cpuprofiler?enable=y",
            "/server_info",
            "/init_dump",
            "/ready/../config_dump",
        ):
            for verb in ("GET", "POST"):
                with subtests.test(path, method=verb), Http1(gateway.admin) as connection:
                    head = "HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close"
                    connection.send(f"{verb} {path} {head}\r\n\r\n".encode())
                    assert connection.read_slowly(12) == b"HTTP/1.1 403"

    def test_admin_changes_nothing_on_get(self, gateway: Gateway) -> None:
        for path in ("/healthcheck/fail", "/drain_listeners"):
            with Http1(gateway.admin) as connection:
                connection.send(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
                assert (path, connection.read_slowly(12)) == (path, b"HTTP/1.1 405")

    def test_admin_can_be_reached_by_its_user_alone(self, gateway: Gateway) -> None:
        """A socket in a folder, neither of which others may open; on TCP, Envoy listens on the gateway's port alone."""
        listening = [
            c for c in psutil.Process(gateway.envoy.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN
        ]
        assert {connection.laddr for connection in listening} == {gateway.address}
        assert gateway.admin.is_socket()
        assert [stat.S_IMODE(path.stat().st_mode) for path in (gateway.admin, gateway.admin.parent)] == [0o600, 0o700]


def connections(gateway: Gateway) -> int:
    """The number of connections so far."""
    return counted(gateway, "downstream_cx_total")


def unhealthy(ask: Ask) -> Answer | None:
    """Return the answer of /healthz once it is not 200."""
    answer = ask("/healthz")
    return answer if answer.status != 200 else None


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
