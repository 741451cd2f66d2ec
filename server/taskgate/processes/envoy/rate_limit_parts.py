"""Add the parts of ``gateway/rate_limit.yaml`` to Envoy's configuration: a limit of calls for each address."""

from copy import deepcopy
from typing import Any

from taskgate.base.errors import RateLimited
from taskgate.processes.envoy.local_replies import add_local_replies
from taskgate.processes.envoy.nodes import ENABLED, find

_FILTER = "envoy.filters.http.local_ratelimit"

_LIMITED_ROUTES = frozenset({"get-task", "get-task-with-body", "get-task-with-chunked-body", "grpc-unary"})
_LIMITED_TOKEN_ROUTES = frozenset({"create-token", "create-token-grpc"})


def add_rate_limit(manager: Any, parts: Any, calls: int) -> None:
    """Let each address make ``calls`` calls in a second."""
    added = deepcopy(parts["filter"])
    bucket = find(added, "typed_config/descriptors/0/token_bucket")
    bucket["max_tokens"] = bucket["tokens_per_fill"] = calls
    manager["http_filters"].insert(0, added)
    for route in find(manager, "route_config/virtual_hosts/taskgate/routes"):
        if route["name"] in _LIMITED_ROUTES | _LIMITED_TOKEN_ROUTES:
            route["typed_per_filter_config"] = {**deepcopy(route["typed_per_filter_config"]), _FILTER: ENABLED}
    add_local_replies(manager, parts["local_replies"], {"rate-limited": RateLimited()})
