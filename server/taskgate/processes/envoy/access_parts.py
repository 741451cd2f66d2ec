"""Add the parts of ``gateway/access.yaml`` to Envoy's configuration.

They are the header that keeps answers out of caches, the route of tokens, and Envoy's check of them.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskgate.base.errors import (
    TOKEN_INVALID,
    TOKEN_MISSING,
    StoreUnavailable,
    TaskgateError,
    TokenExpired,
    TokenInvalid,
    TooManyAttempts,
)
from taskgate.processes.envoy.local_replies import add_local_replies
from taskgate.processes.envoy.nodes import ENABLED, find, put

_VERIFY = "envoy.filters.http.jwt_authn"
_BUFFER = "envoy.filters.http.buffer"
_TRANSCODER = "http_filters/envoy.filters.http.grpc_json_transcoder/typed_config"
_HOST = "route_config/virtual_hosts/taskgate"
_HEALTH = f"{_HOST}/routes/health/typed_per_filter_config/envoy.filters.http.header_mutation"
_REQUEST_ID = "x-request-id"

_MALFORMED = "Malformed HTTP request"
"""What Envoy answers to a request that it cannot read."""

_CHECKED_ROUTES = ("get-task", "grpc-unary")

_REFILL = 1
"""Seconds until an address that was refused too often may be refused again: the bucket is filled each second."""

_ERRORS: dict[str, TaskgateError] = {
    "too-many": TooManyAttempts(_REFILL),
    "keys-away": StoreUnavailable("the keys cannot be read now"),
    "expired": TokenExpired(),
    "missing": TokenInvalid(TOKEN_MISSING),
    "invalid": TokenInvalid(TOKEN_INVALID),
}
"""What the servers would raise, by the names of ``local_replies``."""


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """How Envoy verifies tokens."""

    jwks: Path
    """The Unix socket on which Envoy finds the public keys."""

    issuer: str
    """What the claim ``iss`` must be."""

    audience: str
    """What the claim ``aud`` must be or hold; empty if it is not checked."""

    leeway: int
    """Seconds by which the clocks of issuer and Envoy may differ."""


def add_no_store(manager: Any, parts: Any) -> None:
    """Let every REST answer say that no cache may keep it. To be added first: what is added later may differ."""
    header = parts["no_store"]
    find(manager, "route_config/response_headers_to_add").append(deepcopy(header))
    lists = [
        mapper["headers_to_add"] for mapper in find(manager, "local_reply_config/mappers") if "headers_to_add" in mapper
    ]
    for added in {id(added): added for added in lists}.values():  # mappers share lists
        if any(known["header"]["key"] == _REQUEST_ID for known in added):
            added.append(deepcopy(header))
    of_health = find(manager, _HEALTH)
    if "mutations" in of_health:  # in front of servers; embedded, the service answers
        find(of_health, "mutations/response_mutations").append({"append": deepcopy(header)})


def add_token_endpoint(manager: Any, parts: Any) -> None:
    """Serve ``POST /api/token``: routes like those of tasks, before them, and its service in the transcoder."""
    routes = find(manager, _HOST)["routes"]
    models = ("grpc-unary", "get-task", "get-task-only")
    added = [_like(find(routes, model), route) for model, route in zip(models, parts["token_routes"], strict=True)]
    first = routes.index(find(routes, models[0]))
    routes[first:first] = added
    limit, limited = parts["token_limit"], added[1]
    if not any(known["name"] == _BUFFER for known in manager["http_filters"]):
        manager["http_filters"].insert(1, deepcopy(limit["filter"]))
    limited["typed_per_filter_config"] = {**limited["typed_per_filter_config"], _BUFFER: deepcopy(limit["by_route"])}
    find(manager, _TRANSCODER)["services"].append("taskgate.v1.TokenService")
    mappers = find(manager, "local_reply_config/mappers")
    malformed = next(index for index, mapper in enumerate(mappers) if _body(mapper) == _MALFORMED)
    mappers.insert(malformed, deepcopy(parts["token_body"]))


def add_token_check(clusters: Any, manager: Any, parts: Any, check: TokenCheck) -> None:
    """Let Envoy refuse calls without a valid token."""
    cluster = deepcopy(parts["cluster"])
    put(cluster, "load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/pipe/path", str(check.jwks))
    clusters.append(cluster)
    added = deepcopy(parts["filters"])
    provider = find(added, f"{_VERIFY}/typed_config/providers/taskgate")
    provider["issuer"], provider["clock_skew_seconds"] = check.issuer, check.leeway
    if check.audience:
        provider["audiences"] = [check.audience]
    manager["http_filters"][1:1] = added  # after "fault", which is first
    for name in _CHECKED_ROUTES:
        route = find(manager, f"{_HOST}/routes/{name}")
        enabled = dict.fromkeys([part["name"] for part in added], ENABLED)
        route["typed_per_filter_config"] = {**deepcopy(route["typed_per_filter_config"]), **enabled}
        route.setdefault("request_headers_to_remove", []).append(parts["mark"])
    add_local_replies(manager, parts["local_replies"], _ERRORS)


def _body(mapper: Any) -> str:
    return str(mapper.get("body", {}).get("inline_string"))


def _like(model: Any, route: Any) -> Any:
    """Return ``route`` with what only ``model`` has."""
    return {**deepcopy(model), **deepcopy(route)}
