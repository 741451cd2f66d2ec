"""Find and replace nodes of Envoy's configuration by their paths.

The steps of a path are separated by slashes. A step into a list is an index, or the "name" of an element.
"""

from typing import Any

from taskgate.base.errors import SettingsError

ENABLED = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
"""What enables, in a route, a filter that is disabled by default."""


class GatewayError(SettingsError):
    """Envoy cannot run, or refuses the configuration; the text is a sentence that includes Envoy's own message."""


def find(node: Any, path: str) -> Any:
    """Return the node at ``path``; raise GatewayError, naming the path, if it does not exist."""
    for step in path.split("/"):
        node = _child(node, step)
        if node is None:
            raise GatewayError(f"gateway: envoy.yaml has no {path} (missing: {step})")
    return node


def put(config: Any, path: str, value: Any) -> None:
    """Replace the value at ``path``, which must exist: otherwise Envoy would silently ignore the setting."""
    find(config, path)
    parent, _, last = path.rpartition("/")
    find(config, parent)[last] = value


def _child(node: Any, step: str) -> Any:
    if isinstance(node, list):
        if step.isdigit():
            return node[int(step)] if int(step) < len(node) else None
        return next((element for element in node if element.get("name") == step), None)
    return node.get(step) if isinstance(node, dict) else None
