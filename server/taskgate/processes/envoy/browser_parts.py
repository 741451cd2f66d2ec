"""Add the parts of ``gateway/browser.yaml`` to Envoy's configuration: CORS and gRPC-Web, for pages of some origins."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from taskgate.base.origins import ANY_ORIGIN
from taskgate.processes.envoy.nodes import ENABLED, find

_CORS = "envoy.filters.http.cors"
_GRPC_WEB = ("taskgate.grpc-web-status", "envoy.filters.http.grpc_web")
_FAULT = "envoy.filters.http.fault"
_SERVICE = "taskgate.python"
_HOST = "route_config/virtual_hosts/taskgate"
_OF_GRPC_OVER_HTTP2 = (":method", "x-taskgate-protocol")


def add_browser(manager: Any, parts: Any, origins: Sequence[str]) -> None:
    """Let pages of ``origins`` read answers and call by gRPC-Web. To be added last: it copies the routes of gRPC."""
    host = find(manager, _HOST)
    enabled = [*_GRPC_WEB, *_add_mark(manager, parts["mark"])]
    web = [_web(route, parts["match"], enabled) for route in host["routes"] if _is_grpc(route)]
    delay = find(host, f"routes/no-such-route/typed_per_filter_config/{_FAULT}")
    host["routes"][:0] = [{**parts["preflight"], "typed_per_filter_config": {_FAULT: delay}}, *web]
    policy = {**parts["policy"], "allow_origin_string_match": [{"exact": origin} for origin in origins]}
    host["typed_per_filter_config"] = {_CORS: policy}
    _add_filters(manager["http_filters"], parts["filters"], policy["expose_headers"], origins)


def _add_mark(manager: Any, mark: Any) -> list[str]:
    """Let calls of gRPC-Web be marked if the service is inside Envoy; return the filters that a route must enable."""
    filters = manager["http_filters"]
    service = next((index for index, known in enumerate(filters) if known["name"] == _SERVICE), None)
    if service is None:
        return []
    filters.insert(service, mark["filter"])
    manager["early_header_mutation_extensions"].append(mark["early_header_mutation"])
    return [mark["filter"]["name"]]


def _add_filters(filters: Any, parts: Any, exposed: str, origins: Sequence[str]) -> None:
    of_envoys_answers, *others = parts
    listed = "true" if ANY_ORIGIN in origins else f"request.headers['origin'] in {list(origins)!r}"
    for mutation in find(of_envoys_answers, "typed_config/mutations/response_mutations"):
        header = mutation["append"]["header"]
        header["value"] = header["value"].replace("LISTED", listed).replace("EXPOSED", exposed)
    fault = find(filters, _FAULT)
    filters.remove(fault)
    filters[:0] = [of_envoys_answers, fault, *others]


def _is_grpc(route: Any) -> bool:
    return "grpc" in route["match"] and route["name"] != "grpc-over-http1"


def _web(route: Any, match: Any, enabled: Sequence[str]) -> Any:
    """Return a copy of ``route`` that takes what ``match`` describes in place of gRPC over HTTP/2."""
    path = {key: value for key, value in route["match"].items() if key not in {"grpc", "headers"}}
    others = [header for header in route["match"].get("headers", []) if header["name"] not in _OF_GRPC_OVER_HTTP2]
    matched = {**path, "headers": [*match["headers"], *others]}
    by_filter = {**route.get("typed_per_filter_config", {}), **dict.fromkeys(enabled, ENABLED)}
    return deepcopy({**route, "match": matched, "typed_per_filter_config": by_filter})
