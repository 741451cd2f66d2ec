"""TLS on every listener: who may connect, and certificates that are replaced while calls run."""

import re
import signal
import socket
import ssl
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from support.certificates import (
    Authority,
    Caller,
    Identity,
    MountedSecret,
    ask_channel,
    ask_grpc,
    ask_rest,
    secure_channel,
    serial_shown,
)
from support.clients import CLIENTS
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.running import Running, System, eventually, taskgate

_PAUSE = 0.05
_KEEPING = ("grpc", "grpc-envoy", "rest")
"""Doors whose clients finish a call on a connection that drains; h2's connection is then closed for its caller."""

REFUSED = (httpx.TransportError, grpc.RpcError, ssl.SSLError, ConnectionError)


@dataclass
class Rig:
    """A running ``taskgate up`` with certificates on both sides, in a folder as Kubernetes mounts it."""

    folder: Path
    authority: Authority = field(default_factory=Authority)
    clients: Authority = field(default_factory=Authority)

    def __post_init__(self) -> None:
        self.identity = self.authority.server()
        mounted = self.folder / "mounted"
        mounted.mkdir()
        self.secret = MountedSecret(mounted, **self.files(self.identity))
        self.caller = Caller(self.authority.pem, self.clients.client())
        self.flags = (
            *("--tls-cert", str(self.secret.path("tls_crt")), "--tls-key", str(self.secret.path("tls_key"))),
            *("--tls-client-ca", str(self.secret.path("ca_crt"))),
        )
        self.system: System
        self.workers: int

    def files(self, identity: Identity) -> dict[str, bytes]:
        return {"tls_crt": identity.chain, "tls_key": identity.key, "ca_crt": self.clients.pem}

    def ask(self, client: str, caller: Caller) -> bytes:
        """Ask for the documented task through ``client``, on a new connection; returns its ID or document."""
        if client.startswith("grpc"):
            return ask_grpc(self.system.grpc if client == "grpc" else self.system.http, DOCUMENTED_ID, caller)
        context = caller.context(self.folder)
        return ask_rest(self.system.http, DOCUMENTED_ID, context, http2=client == "rest-h2")

    def listeners(self) -> list[str]:
        """The addresses of all listeners."""
        found = re.search(r"through Envoy; (.*) direct", "\n".join(self.system.out))
        assert found
        return [self.system.http, *found[1].split(", ")]

    def serials(self) -> set[int]:
        """The certificates that new connections get, on every listener and in every process."""
        context = self.caller.context(self.folder, check=False)
        return {serial_shown(address, context) for address in self.listeners() for _ in range(4)}


@pytest.fixture(scope="module", params=("embedded", "proxied"))
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("tls"))
    workers = 1 if request.param == "embedded" else 2
    with System(made.folder / "tasks.db", "--demo", *made.flags, mode=request.param, workers=workers) as system:
        made.system, made.workers = system.wait_ready(), workers
        yield made


@pytest.mark.parametrize("client", CLIENTS)
def test_caller_with_a_certificate_is_served(rig: Rig, client: str) -> None:
    assert rig.ask(client, rig.caller) == (DOCUMENTED_ID.encode() if client.startswith("grpc") else DOCUMENTED_COMPACT)


@pytest.mark.parametrize("client", CLIENTS)
def test_caller_without_a_trusted_certificate_is_refused(rig: Rig, client: str) -> None:
    """None at all, or one of another authority. A caller likewise refuses a server that it does not trust."""
    for caller in (
        Caller(rig.authority.pem),
        Caller(rig.authority.pem, rig.authority.client()),
        Caller(rig.clients.pem, rig.caller.identity),
    ):
        with pytest.raises(REFUSED):
            rig.ask(client, caller)


def test_versions_before_tls_1_2_are_refused_by_every_listener(rig: Rig) -> None:
    context = rig.caller.context(rig.folder)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    for address in rig.listeners():
        # gRPC closes the connection without an alert.
        with pytest.raises((ssl.SSLError, ConnectionResetError), match=r"(?i)alert.protocol.version|EOF|reset"):
            serial_shown(address, context)
        context_of_12 = rig.caller.context(rig.folder)
        context_of_12.maximum_version = ssl.TLSVersion.TLSv1_2
        assert serial_shown(address, context_of_12) == rig.identity.serial


def test_application_protocols_of_every_listener(rig: Rig) -> None:
    """HTTP/2 and HTTP/1.1 at Envoy, HTTP/2 at the others."""
    for address in rig.listeners():
        for offered in ("h2", "http/1.1"):
            context = rig.caller.context(rig.folder)
            context.set_alpn_protocols([offered])
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), 10) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname=host) as connection:
                        chosen = connection.selected_alpn_protocol()
                except ssl.SSLError:
                    chosen = None
            if offered == "h2" or address == rig.system.http or rig.system.mode == "embedded":
                assert chosen == offered


def test_plain_text_on_a_tls_port_is_closed_without_an_answer(rig: Rig) -> None:
    for address in rig.listeners():
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            received = b""
            try:
                while data := connection.recv(4096):
                    received += data
            except ConnectionResetError:
                pass
            assert b"HTTP" not in received


def test_only_the_listeners_are_open_and_all_else_is_private(rig: Rig) -> None:
    """The admin interface and the servers' own sockets are Unix sockets in folders of this user alone."""
    family = rig.system.family()
    open_ports = {
        connection.laddr[1]
        for member in family
        for connection in member.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert open_ports == {int(address.rpartition(":")[2]) for address in rig.listeners()}
    sockets = {
        Path(connection.laddr)
        for member in family
        for connection in member.net_connections("unix")
        if isinstance(connection.laddr, str) and connection.laddr.startswith("/")
    }
    assert any(path.name == "admin.sock" for path in sockets)
    for path in sockets:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path


@pytest.mark.long_in("proxied")
def test_certificates_are_replaced_while_calls_run(rig: Rig) -> None:
    """An expired one is used and warned of, the next one takes its place, and one without its key is refused.

    No call fails meanwhile: on kept connections, on new ones, and while all processes are replaced.
    """
    system = rig.system
    failures: list[BaseException] = []
    done = threading.Event()
    threads = [threading.Thread(target=_call_until, args=(rig, client, done, failures)) for client in _KEEPING]
    expired, good = rig.authority.server(ended=timedelta(hours=1)), rig.authority.server()
    for thread in threads:
        thread.start()
    try:
        _replace(rig, expired)
        told = "a certificate has expired, clients refuse it: replace its file, no restart is needed"
        (warning,) = eventually(lambda: system.events(told), "a warning")
        assert (warning["level"], warning["setting"]) == ("warning", "tls_cert")
        _replace(rig, good)
        rig.secret.replace(**rig.files(Identity(expired.chain, good.key)))
        refused = "the new certificate is not used; the previous one stays"
        (warning,) = eventually(lambda: system.events(refused), "the wrong key is refused", 20)
        assert re.fullmatch(r"tls_key: /\S+ is not the key of the first certificate in /\S+", warning["reason"])
        system.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(system.events("worker restarted")) == rig.workers, "all are replaced", 60)
        assert rig.serials() == {good.serial}
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert not failures
    if system.mode == "proxied":
        system.workers()[0].kill()
        eventually(lambda: system.events("worker replaced"), "a new worker", 60)
        eventually(lambda: system.healthy_servers() == 2, "Envoy finds it at the path of the old one", 60)
    for client in CLIENTS:
        rig.ask(client, rig.caller)


def test_authorities_of_callers_are_replaced_too(rig: Rig) -> None:
    """New connections of a caller whose authority is gone are refused."""
    others = Authority()
    newcomer = Caller(rig.authority.pem, others.client())

    def refused(client: str, caller: Caller) -> bool:
        try:
            rig.ask(client, caller)
        except REFUSED:
            return True
        return False

    rig.secret.replace(**rig.files(rig.identity) | {"ca_crt": others.pem})
    try:
        for client in CLIENTS:
            eventually(lambda name=client: not refused(name, newcomer), f"{client} takes the new authority", 20)
            eventually(lambda name=client: refused(name, rig.caller), f"{client} refuses the old one", 20)
    finally:
        rig.secret.replace(**rig.files(rig.identity))
    for client in CLIENTS:
        eventually(lambda name=client: not refused(name, rig.caller), f"{client} takes the old one again", 20)


def _replace(rig: Rig, identity: Identity) -> None:
    """Replace the certificate, and wait until all listeners show it."""
    rig.secret.replace(**rig.files(identity))
    eventually(lambda: rig.serials() == {identity.serial}, "the new certificate is shown", 20)
    rig.identity = identity


def _call_until(rig: Rig, client: str, done: threading.Event, failures: list[BaseException]) -> None:
    """Call through ``client`` on one connection until ``done``, and over REST also on a new one for each call."""
    context = rig.caller.context(rig.folder, check=False)
    try:
        if client.startswith("grpc"):
            with secure_channel(rig.system.grpc if client == "grpc" else rig.system.http, rig.caller) as channel:
                while not done.wait(_PAUSE):
                    ask_channel(channel, DOCUMENTED_ID)
            return
        with httpx.Client(verify=context, timeout=20, trust_env=False) as kept:
            while not done.wait(_PAUSE):
                assert kept.get(f"https://{rig.system.http}/api/tasks/{DOCUMENTED_ID}").status_code == 200
                _ask_on_a_new_connection(rig, context)
    except Exception as error:  # noqa: BLE001 - the test shows it
        failures.append(error)


def _ask_on_a_new_connection(rig: Rig, context: ssl.SSLContext) -> None:
    """Call; once more if the socket of a replaced Envoy reset a connection before taking it (gateway/README.md).

    No call was sent on it: clients reconnect.
    """
    try:
        ask_rest(rig.system.http, DOCUMENTED_ID, context, http2=False)
    except httpx.ConnectError:
        if rig.system.mode == "proxied":
            raise
        ask_rest(rig.system.http, DOCUMENTED_ID, context, http2=False)


@pytest.mark.long_in("[1]")
@pytest.mark.parametrize("workers", [1, 2])
def test_serve_speaks_tls_and_follows_its_certificate(tmp_path: Path, workers: int) -> None:
    """Without Envoy, in one process and in several. It starts with an expired one, and says so."""
    authority = Authority()
    first, second = authority.server(ended=timedelta(days=1)), authority.server()
    cert, key = first.save(tmp_path, "tls")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    arguments = ("--store", f"sqlite:///{tmp_path}/tasks.db", "--grpc", "127.0.0.1:0", "--drain-delay", "0")
    tls = ("--tls-cert", str(cert), "--tls-key", str(key), "--workers", str(workers), "--log-format", "json")
    with Running("serve", *arguments, *tls) as running:
        address = running.wait_for(r'"grpc":"(127.0.0.1:\d+)","event":"listening"', in_log=True)[1]
        running.wait_for("a certificate has expired", in_log=True)
        context = Caller(authority.pem).context(tmp_path)
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
            serial_shown(address, context)
        for path, new in zip((cert, key), second.save(tmp_path, "new"), strict=True):
            new.rename(path)
        running.wait_for("certificate replaced", in_log=True)

        def shown() -> set[int]:
            unchecked = Caller(authority.pem).context(tmp_path, check=False)
            return {serial_shown(address, unchecked) for _ in range(4)}

        eventually(lambda: shown() == {second.serial}, "the new certificate", 20)
        asked = taskgate("get", DOCUMENTED_ID, "--server", address, "--tls-ca", str(tmp_path / "ca.crt"))
        assert "The store is unavailable" in asked.stderr  # an answer of the server: the handshake is over
        assert len(running.events("certificate replaced")) == 1
        assert running.stop() == 0
