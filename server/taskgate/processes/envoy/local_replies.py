"""Give the calls that Envoy refuses itself the same errors that the servers would give."""

import base64
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from taskgate.base.errors import TaskgateError
from taskgate.processes.envoy.nodes import find
from taskgate.transports.error_details import status_details


def add_local_replies(manager: Any, replies: Sequence[Any], errors: Mapping[str, TaskgateError]) -> None:
    """Add mappers for ``replies`` before those of ``envoy.yaml``; ``errors`` has the error for each of their names.

    gRPC callers get the error's status and details, REST callers its body and headers.
    """
    mappers = find(manager, "local_reply_config/mappers")
    is_grpc = deepcopy(find(mappers, "0/filter/and_filter/filters/0"))
    rest_format = str(find(manager, "local_reply_config/body_format/text_format_source/inline_string"))
    mappers[:0] = [
        mapper
        for reply in replies
        for mapper in (
            _grpc_mapper(reply, errors[reply["name"]], is_grpc),
            _rest_mapper(reply, errors[reply["name"]], rest_format),
        )
    ]


def _grpc_mapper(reply: Any, error: TaskgateError, is_grpc: Any) -> dict[str, Any]:
    details = base64.b64encode(status_details(error)).rstrip(b"=").decode()
    return {
        "filter": {"and_filter": {"filters": [deepcopy(is_grpc), deepcopy(reply["filter"])]}},
        "status_code": reply["status_code"],
        "body": {"inline_string": error.message},
        "body_format_override": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}},
        "headers_to_add": [_header("grpc-status-details-bin", details)],
    }


def _rest_mapper(reply: Any, error: TaskgateError, rest_format: str) -> dict[str, Any]:
    retryable = "true" if error.status.retryable else "false"
    member = "" if error.status.rest_error is None else f',"error":"{error.status.rest_error}"'
    text = rest_format.replace('"retryable":false}', f'"retryable":{retryable}{member}}}')
    headers = []
    if error.status.grpc_code == "UNAUTHENTICATED":
        headers.append(_header("www-authenticate", "Bearer"))  # in place of one that repeats the URL
    if error.retry_after is not None:
        headers.append(_header("retry-after", str(error.retry_after)))
    return {
        "filter": deepcopy(reply["filter"]),
        "status_code": reply["status_code"],
        "body": {"inline_string": error.message},
        "body_format_override": {
            "content_type": "application/json",
            "text_format_source": {"inline_string": text},
        },
        "headers_to_add": headers,
    }


def _header(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
