"""Get a task: ``taskgate-example get|rest HOST:PORT TASK_ID``, with the token and the authority that variables name."""

import http.client
import json
import os
import ssl
import sys
import urllib.parse
from http import HTTPStatus
from pathlib import Path

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
TRY_LATER = {"ERROR_REASON_STORE_UNAVAILABLE", "ERROR_REASON_OVERLOADED", "ERROR_REASON_DEADLINE_EXCEEDED"}


def connect(target: str) -> grpc.Channel:
    """Return a channel: over TLS if a variable names the authority to trust."""
    options = [("grpc.service_config", json.dumps(RETRIES)), ("grpc.max_receive_message_length", 32 << 20)]
    if "TASKGATE_CA" not in os.environ:
        return grpc.insecure_channel(target, options=options)
    authority = Path(os.environ["TASKGATE_CA"]).read_bytes()
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority), options=options)


def get(target: str, task_id: str) -> int:
    """Print the task's status and output. The exit code is 75 for an error that may pass."""
    with connect(target) as channel:
        try:
            token = ("authorization", f"Bearer {os.environ.get('TASKGATE_TOKEN', '')}")
            answer = TaskServiceStub(channel).GetTask(GetTaskRequest(task_id=task_id), timeout=10, metadata=[token])
        except grpc.RpcError as error:
            return explain(error, task_id)
    print(Task.Status.Name(answer.task.status))
    print(json.dumps({key: json_format.MessageToDict(value) for key, value in answer.task.output_data.items()}))
    return 0


def explain(error: grpc.RpcError, task_id: str) -> int:
    """Say what happened, by the reason in the error's details."""
    info = ErrorInfo()
    status = rpc_status.from_call(error)
    any(detail.Unpack(info) for detail in status.details if detail.Is(info.DESCRIPTOR)) if status else None
    if error.code() == grpc.StatusCode.NOT_FOUND:
        print(f"There is no task {task_id}", file=sys.stderr)
        return 1
    if info.reason in TRY_LATER:
        print(f"Try again later: {info.reason}", file=sys.stderr)
        return 75
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:  # the client's own, which has no reason
        print("Try again later: no answer in time", file=sys.stderr)
        return 75
    print(f"{error.code().name} {info.reason}: {error.details()}", file=sys.stderr)
    return 1


def rest(target: str, task_id: str) -> int:
    """Do as ``get``, by REST with the standard library alone. Integers keep their digits."""
    authority = os.environ.get("TASKGATE_CA")
    connection = (
        http.client.HTTPSConnection(target, timeout=10, context=ssl.create_default_context(cafile=authority))
        if authority
        else http.client.HTTPConnection(target, timeout=10)
    )
    path = f"/api/tasks/{urllib.parse.quote(task_id, safe='')}"
    try:
        connection.request("GET", path, headers={"X-Authorization": os.environ.get("TASKGATE_TOKEN", "")})
        answer = connection.getresponse()
        said = json.load(answer)
    except OSError:
        print("Try again later: no answer in time", file=sys.stderr)
        return 75
    if answer.status == HTTPStatus.OK:
        print(said["status"])
        print(json.dumps(said["outputData"]))
        return 0
    if answer.status == HTTPStatus.NOT_FOUND:
        print(f"There is no task {task_id}", file=sys.stderr)
        return 1
    print(f"{'Try again later: ' if said['retryable'] else ''}{said['message']}", file=sys.stderr)
    return 75 if said["retryable"] else 1


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
