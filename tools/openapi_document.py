"""The OpenAPI document of what taskgate serves over REST.

Prose comes from the comments of ``protos/``, statuses and messages from ``taskgate.base.errors``, sentences of Envoy's
own answers from ``gateway/envoy.yaml``, the documented task from ``taskgate/demo``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from taskgate.base import errors
from taskgate.base.errors import STATUS_OF, TaskgateError
from taskgate.base.task_id import TaskIdFormat, check_task_id
from tools.openapi_schemas import Protos, Schema, described

ROOT = Path(__file__).resolve().parent.parent
TASK_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"
_REQUEST_ID = "0d5d0c3e-7c2e-4d0f-9b1b-0d6a7f1a4f5e"
_KEY_ID = "6c8d1e0a4b2f"
_KEY_SECRET = "the-secret-that-taskgate-keys-create-printed"  # noqa: S105 - an example
_TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI2YzhkMWUwYTRiMmYifQ.c2lnbmF0dXJl"  # noqa: S105 - an example


def _malformed_id() -> TaskgateError:
    try:
        check_task_id("my-task", TaskIdFormat.UUID)
    except errors.InvalidTaskId as error:
        return error
    raise AssertionError("my-task is a UUID")


_TASK_ERRORS = (
    _malformed_id(),
    errors.TokenInvalid(errors.TOKEN_MISSING),
    errors.TokenExpired(),
    errors.PermissionDenied(""),
    errors.TaskNotFound(TASK_ID),
    errors.TooManyAttempts(30),
    errors.RateLimited(),
    errors.DocumentUnreadable(TASK_ID),
    errors.DocumentTooLarge(f"Task {TASK_ID} is a document of 40000000 bytes; at most 33550336 can be served"),
    errors.InternalError(f"Internal error; the server's log has it under request ID {_REQUEST_ID}"),
    errors.StoreUnavailable("it does not answer"),
    errors.Overloaded("Overloaded: large answers take all the room; try again"),
    errors.DeadlineExceeded("The call did not finish within 15 s"),
)
_TOKEN_ERRORS = (
    errors.InvalidRequest("The request needs keyId and keySecret"),
    errors.CredentialsInvalid(""),
    errors.TooManyAttempts(30),
    errors.RateLimited(),
    errors.InternalError(f"Internal error; the server's log has it under request ID {_REQUEST_ID}"),
    errors.StoreUnavailable("the keys cannot be read now"),
    errors.Overloaded("Too many credentials wait to be checked; try again"),
    errors.DeadlineExceeded("The call did not finish within 15 s"),
)

_NOT_OF = {
    "getTask": {errors.InvalidRequest, errors.CredentialsInvalid, errors.TaskNotRepresentable},
    "createToken": {
        errors.InvalidTaskId,
        errors.TokenInvalid,
        errors.TokenExpired,
        errors.PermissionDenied,
        errors.TaskNotFound,
        errors.DocumentUnreadable,
        errors.DocumentTooLarge,
        errors.TaskNotRepresentable,
    },
}
"""The errors that an operation never has, by its ID; it describes all others."""

_OF_REST = {
    "ERROR_REASON_INVALID_REQUEST": "The body is no JSON object with `keyId` and `keySecret`, or one of them is empty.",
    "ERROR_REASON_CREDENTIALS_INVALID": "No key has this ID, its secret is another one, or it was disabled.",
    "ERROR_REASON_DOCUMENT_TOO_LARGE": "The stored document is larger than the server can send.",
}
"""What the protos say in the words of gRPC, by the reason of the error."""

_OF_ENVOY = {
    400: "The gateway could not read the request, or the path has an encoded slash.",
    404: "The path is another route of Conductor's, such as `search`, which this server does not have.",
    408: "The request did not arrive in time.",
    413: "The request's body is too large.",
    431: "The request's headers are larger than 32 KiB.",
    500: "The answer is larger than the gateway passes on.",
    502: "A server gave an answer that cannot be passed on.",
    503: "No server could take the call.",
    504: "No server answered in time.",
}
"""Answers of the gateway itself, by their statuses, with their cause."""

_NO_TOKENS = "The server manages no keys (`--auth keys`). Conductor's SDKs then make their calls without a token."

_HEADERS: dict[str, Any] = {
    "x-request-id": {
        "description": "The name of this call in the server's log: the caller's own, or one that the server made.",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "example": _REQUEST_ID,
    },
    "retry-after": {
        "description": "Seconds to wait before the same call may succeed.",
        "schema": {"type": "integer", "format": "int32", "minimum": 0},
        "example": 1,
    },
    "www-authenticate": {
        "description": "The scheme by which a call may carry its token (RFC 9110).",
        "required": True,
        "schema": {"type": "string", "const": "Bearer"},
        "example": "Bearer",
    },
    "cache-control": {
        "description": "No cache may keep the answer; on every answer of a server that asks for tokens.",
        "schema": {"type": "string", "const": "no-store"},
        "example": "no-store",
    },
}

_ERROR: Schema = {
    "type": "object",
    "description": "Conductor's error body.",
    "properties": {
        "status": {"type": "integer", "format": "int32", "description": "The HTTP status."},
        "message": {"type": "string", "description": "What went wrong, for people. It may change."},
        "instance": {"type": "string", "description": "The name of the node that answered."},
        "retryable": {"type": "boolean", "description": "Whether the same call may succeed later."},
    },
    "required": ["status", "message", "instance", "retryable"],
}


def document(protos: Protos) -> dict[str, Any]:
    """Return the whole document. Raises ValueError for an error that an operation may have and does not describe."""
    _check_errors("getTask", _TASK_ERRORS)
    _check_errors("createToken", _TOKEN_ERRORS)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "taskgate",
            "version": version("taskgate"),
            "summary": "Conductor task executions by their ID.",
            "description": _introduction(),
        },
        "servers": [{"url": "/", "description": "The server that this document was loaded from."}],
        "tags": [
            {"name": "tasks", "description": "Task executions."},
            {"name": "tokens", "description": protos.first_sentence("TokenService")},
            {"name": "health", "description": "Whether the server can answer."},
        ],
        "paths": {
            "/api/tasks/{taskId}": {"get": _get_task(protos)},
            "/api/token": {"post": _create_token(protos)},
            "/healthz": {"get": _health()},
        },
        "components": _components(protos),
    }


def _check_errors(operation: str, described_errors: Iterable[TaskgateError]) -> None:
    differing = {type(error) for error in described_errors} ^ (STATUS_OF.keys() - _NOT_OF[operation])
    if differing:
        names = ", ".join(sorted(kind.__name__ for kind in differing))
        raise ValueError(f"tools/openapi_document.py: {operation} describes what _NOT_OF excludes, or lacks: {names}")


def _introduction() -> str:
    return (
        "REST has the paths and the JSON of Conductor's own API, so that its SDKs need no change but the base URL. The"
        " same tasks are served over gRPC on the same port.\n\n"
        "A server may ask for a token in each call for a task (`--auth`). It is sent bare in `X-Authorization`, as"
        " Conductor's SDKs do, or after `Bearer` in `Authorization`. If both are sent, they must be the same.\n\n"
        "Retry an error whose `retryable` is true, after the pause that `retry-after` asks for, where there is one.\n\n"
        "Integers of format `int64`, and numbers in a task's input and output, may be beyond 2^53. Use a parser that"
        " keeps every digit: JavaScript's `JSON.parse` rounds them."
    )


def _get_task(protos: Protos) -> dict[str, Any]:
    example = json.loads((ROOT / "server/taskgate/demo/task.json").read_text(encoding="utf-8"))
    ok = {
        "description": "The task's exact JSON document: as it was imported, or as Conductor returns it. An import"
        " checks `taskId` and `updateTime` alone. So any other member of an imported document may be absent, null or of"
        " another type than Conductor's, and there may be more.",
        "headers": _headers("x-request-id"),
        "content": {"application/json": {"schema": _ref("schemas", "Task"), "example": example}},
    }
    return {
        "operationId": "getTask",
        "tags": ["tasks"],
        "summary": "Get a task execution by its ID",
        "description": protos.first_sentence("TaskService.GetTaskJson"),
        "security": [{}, {"token": []}, {"bearer": []}],
        "parameters": [
            {
                "name": "taskId",
                "in": "path",
                "required": True,
                "description": described(protos.comment("GetTaskRequest.task_id")),
                "schema": {"type": "string", "minLength": 1},
                "example": TASK_ID,
            },
            _ref("parameters", "requestId"),
        ],
        "responses": {"200": ok, **_responses(protos, _TASK_ERRORS, (400, 404, 408, 431, 500, 502, 503, 504))},
    }


def _create_token(protos: Protos) -> dict[str, Any]:
    ok = {
        "description": "A token.",
        "headers": _headers("x-request-id"),
        "content": {
            "application/json": {"schema": _ref("schemas", "CreateTokenResponse"), "example": {"token": _TOKEN}}
        },
    }
    refusals = _responses(protos, _TOKEN_ERRORS, (400, 408, 413, 431, 502, 503, 504))
    absent = _error_response(404, [_NO_TOKENS], {"gateway": _envoy_example(404, "The server manages no keys")})
    credentials = {"keyId": _KEY_ID, "keySecret": _KEY_SECRET}
    return {
        "operationId": "createToken",
        "tags": ["tokens"],
        "summary": "Get a token for a key",
        "description": described(protos.comment("TokenService.CreateToken").partition("\n\nReturns:")[0]),
        "security": [],
        "parameters": [_ref("parameters", "requestId")],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("schemas", "CreateTokenRequest"), "example": credentials}},
        },
        "responses": dict(sorted({"200": ok, "404": absent, **refusals}.items())),
    }


def _health() -> dict[str, Any]:
    ok = {
        "description": "The store answers.",
        "headers": _headers("x-request-id"),
        "content": {"application/json": {"schema": _ref("schemas", "Health"), "example": {"healthy": True}}},
    }
    away = {
        "description": "The store does not answer, or the server is draining.",
        "headers": _headers("x-request-id"),
        "content": {
            "application/json": {
                "schema": _ref("schemas", "Error"),
                "example": _body(errors.StoreUnavailable("it does not answer")),
            }
        },
    }
    return {
        "operationId": "getHealth",
        "tags": ["health"],
        "summary": "Tell whether the server can answer",
        "description": "For load balancers and probes; it needs no token. HEAD is answered alike, without a body.",
        "security": [],
        "parameters": [_ref("parameters", "requestId")],
        "responses": {"200": ok, **_envoy_alone(400), **_envoy_alone(408), **_envoy_alone(431), "503": away},
    }


def _responses(protos: Protos, of_service: Iterable[TaskgateError], of_envoy: Iterable[int]) -> dict[str, Any]:
    """The responses for errors, by status: those of the service, and those of Envoy itself."""
    by_status: dict[int, list[TaskgateError]] = {}
    for error in of_service:
        by_status.setdefault(error.status.http_status, []).append(error)
    envoy = set(of_envoy)
    return {
        str(status): _response(protos, status, by_status.get(status, []), from_envoy=status in envoy)
        for status in sorted(by_status.keys() | envoy)
    }


def _envoy_alone(status: int) -> dict[str, Any]:
    return {str(status): _error_response(status, [_OF_ENVOY[status]], {"gateway": _envoy_example(status)})}


def _response(protos: Protos, status: int, own: list[TaskgateError], *, from_envoy: bool) -> dict[str, Any]:
    lines = [_OF_REST.get(error.status.reason) or protos.first_sentence(error.status.reason) for error in own]
    examples: dict[str, Any] = {_name(error): _example(error) for error in own}
    if from_envoy:
        lines.append(_OF_ENVOY[status])
        examples["gateway"] = _envoy_example(status)
    pauses = [error.retry_after is not None for error in own] + [False] * from_envoy
    if any(pauses) and not all(pauses):
        lines = [f"{line} With `retry-after`." if pause else line for line, pause in zip(lines, pauses, strict=True)]
    return _error_response(status, lines, examples, "retry-after" if any(pauses) else None)


def _error_response(
    status: int, lines: list[str], examples: Mapping[str, Any], retry_after: str | None = None
) -> dict[str, Any]:
    headers = ["x-request-id", *([retry_after] if retry_after else [])]
    if status == 401:  # noqa: PLR2004 - the status that has a header of its own
        headers.append("www-authenticate")
    schema = "TokenError" if "www-authenticate" in headers else "Error"
    text = lines[0] if len(lines) == 1 else "\n".join(f"* {line}" for line in lines)
    return {
        "description": text,
        "headers": _headers(*headers),
        "content": {"application/json": {"schema": _ref("schemas", schema), "examples": dict(examples)}},
    }


def _name(error: TaskgateError) -> str:
    return error.status.reason.removeprefix("ERROR_REASON_").lower()


def _example(error: TaskgateError) -> dict[str, Any]:
    return {"summary": _name(error).replace("_", " ").capitalize().replace(" id", " ID"), "value": _body(error)}


def _body(error: TaskgateError) -> dict[str, Any]:
    row = error.status
    body = {
        "status": row.http_status,
        "message": error.message,
        "instance": "taskgate-1",
        "retryable": row.retryable,
    }
    return body if row.rest_error is None else {**body, "error": row.rest_error}


def _envoy_example(status: int, summary: str = "") -> dict[str, Any]:
    sentence, retryable = _envoy_sentences().get(status, _envoy_sentences()[0])
    body = {"status": status, "message": sentence, "instance": "taskgate-1", "retryable": retryable}
    return {"summary": summary or _OF_ENVOY[status].removesuffix("."), "value": body}


def _envoy_sentences() -> dict[int, tuple[str, bool]]:
    """The sentence of Envoy's own REST answer for each status, and whether it is retryable; 0 is any other status."""
    config = YAML().load((ROOT / "gateway/envoy.yaml").read_text(encoding="utf-8"))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    found: dict[int, tuple[str, bool]] = {}
    for mapper in manager["local_reply_config"]["mappers"]:
        text = json.dumps(mapper["filter"])
        if "application/grpc" in text or "body" not in mapper:
            continue
        retryable = 'retryable":true' in str(mapper.get("body_format_override"))
        for status in re.findall(r'"default_value": (\d+)', text):
            found[int(status)] = (str(mapper["body"]["inline_string"]), retryable)
    return found


def _headers(*names: str) -> dict[str, Any]:
    return {name: _ref("headers", name) for name in (*names, "cache-control")}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _components(protos: Protos) -> dict[str, Any]:
    schemas = protos.schemas("Task", imported=True) | protos.schemas("CreateTokenRequest", "CreateTokenResponse")
    schemas["CreateTokenRequest"]["description"] = "The credentials of an application."
    schemas["CreateTokenResponse"]["description"] = "A token for an application."
    schemas["CreateTokenRequest"]["required"] = ["keyId", "keySecret"]
    for name in schemas["CreateTokenRequest"]["required"]:
        schemas["CreateTokenRequest"]["properties"][name]["minLength"] = 1
    schemas["CreateTokenRequest"]["properties"]["expiration"] |= {"minimum": -(2**63), "maximum": 2**63 - 1}
    schemas["CreateTokenRequest"]["propertyNames"] = {"minLength": 1}  # further names are ignored, but not an empty one
    schemas["CreateTokenResponse"]["required"] = ["token"]
    codes = sorted({row.rest_error for row in STATUS_OF.values() if row.rest_error is not None})
    token_error = {
        "type": "object",
        "description": "Conductor's error body, with a code that its SDKs act on.",
        "properties": {
            **_ERROR["properties"],
            "error": {
                "type": "string",
                "description": "What is wrong with token or credentials. After `INVALID_TOKEN` and `EXPIRED_TOKEN`"
                " released SDKs get a new token, and repeat the call once.",
                "enum": codes,
            },
        },
        "required": [*_ERROR["required"], "error"],
    }
    health = {
        "type": "object",
        "description": "The answer of a server that can serve.",
        "properties": {"healthy": {"type": "boolean", "description": "Always true.", "const": True}},
        "required": ["healthy"],
    }
    return {
        "schemas": {**schemas, "Error": _ERROR, "TokenError": token_error, "Health": health},
        "headers": _HEADERS,
        "parameters": {
            "requestId": {
                "name": "x-request-id",
                "in": "header",
                "description": "A name for this call in the server's log, which the answer repeats. One that is not 1"
                " to 128 characters of `A-Z a-z 0-9 . _ : / + = @ ~ -` is replaced.",
                "schema": {"type": "string"},
            }
        },
        "securitySchemes": {
            "token": {
                "type": "apiKey",
                "in": "header",
                "name": "X-Authorization",
                "description": "The bare token, as Conductor's SDKs send it.",
            },
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "`Bearer` and the token.",
            },
        },
    }
