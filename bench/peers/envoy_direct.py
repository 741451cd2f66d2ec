"""The configuration of an Envoy that answers everything itself, with one body and no server behind it.

What Envoy and HTTP/1.1 cost; nothing behind Envoy can be faster.
"""

import json

_HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def envoy_direct_configuration(port: int, body: bytes) -> str:
    """JSON for ``envoy --config-yaml``."""
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": body.decode()}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    routes = {
        "max_direct_response_body_size_bytes": len(body),
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
    }
    manager = {
        "@type": _HTTP,
        "stat_prefix": "direct",
        "route_config": routes,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": filters}],
    }
    return json.dumps({"static_resources": {"listeners": [listener]}})
