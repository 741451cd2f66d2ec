"""Add the parts of ``gateway/docs.yaml`` to Envoy's configuration: the OpenAPI document, and the explorer of it."""

import hashlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from taskgate.processes.envoy.nodes import find

_ROUTES = "route_config/virtual_hosts/taskgate/routes"
_LAST = "no-such-route"
_PAGE = "docs"
_DIGITS = 12


def add_docs(manager: Any, parts: Any, file: Callable[[str], Path]) -> None:
    """Serve the files, whose paths ``file`` returns, before the route for all other paths."""
    added = deepcopy(parts["routes"])
    digest = hashlib.sha256()
    for route in added:
        body = route["direct_response"].get("body", {})
        if "filename" in body:
            path = file(body["filename"]).absolute()
            digest.update(path.read_bytes())
            body["filename"] = str(path)
    page = find(added, f"{_PAGE}/direct_response/body")
    text = file(page["inline_string"]).read_text(encoding="utf-8")
    # Browsers keep the page's files for ever, so a changed file needs another URL.
    page["inline_string"] = text.replace("VERSION", digest.hexdigest()[:_DIGITS])
    routes = find(manager, _ROUTES)
    last = next(index for index, route in enumerate(routes) if route["name"] == _LAST)
    routes[last:last] = added
    size = "max_direct_response_body_size_bytes"
    find(manager, "route_config")[size] = parts[size]
    manager["http_filters"].insert(0, deepcopy(parts["filter"]))
    retryable = _retryable_format(manager)
    kept, refused = deepcopy(parts["mappers"])
    find(manager, "local_reply_config/mappers")[:0] = [kept, {**refused, "body_format_override": retryable}]


def _retryable_format(manager: Any) -> Any:
    """The format of a retryable error, made of the one for all errors."""
    text = str(find(manager, "local_reply_config/body_format/text_format_source/inline_string"))
    text = text.replace('"retryable":false', '"retryable":true')
    return {"content_type": "application/json", "text_format_source": {"inline_string": text}}
