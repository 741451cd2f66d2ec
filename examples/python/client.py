"""Get a task: ``taskgate-example get|rest HOST:PORT TASK_ID``, with the token and the authority that variables name."""

import http.client
import json
import os
import ssl
import sys
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import (
    json_format,
    wrappers_pb2,  # noqa: F401 - lets JSON show a StringValue that is in an Any
)
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from taskgate.v1.task_pb2 import Task
from taskgate.v1.task_service_pb2 import GetTaskRequest, GetTaskResponse
from taskgate.v1.task_service_pb2_grpc import TaskServiceStub

RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "taskgate.v1.TaskService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
TRY_LATER = {
    "ERROR_REASON_STORE_UNAVAILABLE",
    "ERROR_REASON_OVERLOADED",
    "ERROR_REASON_RATE_LIMITED",
    "ERROR_REASON_TOO_MANY_ATTEMPTS",
    "ERROR_REASON_DEADLINE_EXCEEDED",
}


def connect(target: str) -> grpc.Channel:
    """Return a channel: over TLS if a variable names the authority to trust."""
    options = [("grpc.service_config", json.dumps(RETRIES)), ("grpc.max_receive_message_length", 32 << 20)]
    authority = os.environ.get("TASKGATE_CA")
    if not authority:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(authority).read_bytes()), options=options)


def get(target: str, task_id: str) -> int:
    """Print the task's status and output. The exit code is 75 for an error that may pass."""
    token = os.environ.get("TASKGATE_TOKEN")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with connect(target) as channel:
        try:
            answer = TaskServiceStub(channel).GetTask(GetTaskRequest(task_id=task_id), timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return explain(error, task_id)
    print(Task.Status.Name(answer.task.status))
    print(json.dumps({key: json_format.MessageToDict(value) for key, value in answer.task.output_data.items()}))
    return 0


def explain(error: grpc.RpcError, task_id: str) -> int:
    """Say what happened, by the reason in the error's details. The exit code is 75 for an error that may pass."""
    reason = reason_of(error)
    if error.code() == grpc.StatusCode.NOT_FOUND:
        return fail(f"There is no task {task_id}")
    if reason in TRY_LATER:
        return fail_for_now(reason)
    if error.code() == grpc.StatusCode.UNAVAILABLE:  # no connection, or a proxy without a server: it has no reason
        return fail_for_now(f"the server is unavailable: {error.details()}")
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:  # the client's own, which has no reason
        return fail_for_now("no answer in time")
    return fail(f"{reason or error.code().name}: {error.details()}")


def reason_of(error: grpc.RpcError) -> str:
    """Return taskgate's reason for an error, or "" if it has none."""
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    for detail in status.details if status else []:
        if detail.Unpack(info) and info.domain == "taskgate":
            return info.reason
    return ""


def rest(target: str, task_id: str) -> int:
    """Do as ``get``, by REST with the standard library alone. Integers keep their digits."""
    try:
        status, body = fetch(target, task_id)
    except TimeoutError:
        return fail_for_now("no answer in time")
    except ConnectionError as error:
        return fail_for_now(f"the server is unavailable: {error}")
    except (OSError, http.client.HTTPException) as error:  # no such host, a certificate that is not trusted
        return fail(f"The call fails: {error}")
    try:
        said = json.loads(body)
    except ValueError:  # a proxy's own page, for example
        return fail(f"The answer is no JSON: HTTP status {status}")
    return show(status, said if isinstance(said, dict) else {}, task_id)


def show(status: int, said: dict[str, Any], task_id: str) -> int:
    """Print what a REST answer says. The exit code is 75 for an error that may pass."""
    if status == HTTPStatus.OK:
        print(said.get("status", ""))
        print(json.dumps(said.get("outputData") or {}))
        return 0
    if status == HTTPStatus.NOT_FOUND:
        return fail(f"There is no task {task_id}")
    message = said.get("message", f"HTTP status {status}")
    return fail_for_now(message) if said.get("retryable") else fail(message)


def fetch(target: str, task_id: str) -> tuple[int, bytes]:
    """Return status and body of a REST answer."""
    authority, token = os.environ.get("TASKGATE_CA"), os.environ.get("TASKGATE_TOKEN")
    connection = (
        http.client.HTTPSConnection(target, timeout=10, context=ssl.create_default_context(cafile=authority))
        if authority
        else http.client.HTTPConnection(target, timeout=10)
    )
    path = f"/api/tasks/{urllib.parse.quote(task_id, safe='')}"
    connection.request("GET", path, headers={"X-Authorization": token} if token else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def fail(message: str) -> int:
    """Print why there is no task; return the exit code."""
    print(message, file=sys.stderr)
    return 1


def fail_for_now(why: str) -> int:
    """Print why there is no task yet; return the exit code that asks for another try (sysexits.h: EX_TEMPFAIL)."""
    print(f"Try again later: {why}", file=sys.stderr)
    return 75


def read(folder: str) -> int:
    """Print a line of JSON for each answer that was saved to the folder."""
    for path in sorted(Path(folder).glob("*.binpb")):
        task = GetTaskResponse.FromString(path.read_bytes()).task
        print(json.dumps({"name": path.stem, "task": json_format.MessageToDict(task)}))
    return 0


def main() -> int:
    """Run ``get HOST:PORT TASK_ID``, ``rest HOST:PORT TASK_ID`` or ``read FOLDER``."""
    match sys.argv[1:]:
        case ["get", target, task_id]:
            return get(target, task_id)
        case ["rest", target, task_id]:
            return rest(target, task_id)
        case ["read", folder]:
            return read(folder)
    print("usage: taskgate-example get|rest HOST:PORT TASK_ID | read FOLDER", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
