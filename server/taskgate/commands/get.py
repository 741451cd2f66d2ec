"""``taskgate get``: print one task of a running server, as its JSON document or as a readable summary."""

import ipaddress
import sys
from datetime import UTC, datetime

import click
import grpc

from taskgate.base.errors import SettingsError
from taskgate.base.printable import is_text, printable, printable_json
from taskgate.documents.document import MAX_MESSAGE_BYTES
from taskgate.service.endpoints import SERVICE
from taskgate.v1.task_pb2 import Task
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest, GetTaskRequest, GetTaskResponse


def run_get(task_id: str, *, server: str, timeout: float, as_json: bool) -> int:
    """Print the task and return exit code 0, or print the server's error on standard error and return 1.

    Raises SettingsError for a task ID or a server that is not text.
    """
    for name, value in (("TASK_ID", task_id), ("server", server)):
        if not is_text(value):
            raise SettingsError(f"{name}: it is not text in UTF-8")
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    if _is_this_machine(server):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy could not reach this machine's loopback address
    with grpc.insecure_channel(server, options=options) as channel:
        try:
            if as_json:
                _print_document(channel, task_id, timeout)
            else:
                _print_summary(channel, task_id, timeout)
        except grpc.RpcError as error:
            click.echo(printable(f"taskgate: {server}: {error.code().name}: {error.details()}"), err=True)
            return 1
    return 0


def _is_this_machine(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _print_document(channel: grpc.Channel, task_id: str, timeout: float) -> None:
    from google.api.httpbody_pb2 import HttpBody  # noqa: PLC0415 - only this form needs it

    call = channel.unary_unary(
        f"/{SERVICE}/GetTaskJson",
        request_serializer=GetTaskJsonRequest.SerializeToString,
        response_deserializer=HttpBody.FromString,
    )
    body = call(GetTaskJsonRequest(task_id=task_id), timeout=timeout)
    if sys.stdout.isatty():
        click.echo(printable_json(body.data))
    else:
        sys.stdout.buffer.write(body.data + b"\n")


def _print_summary(channel: grpc.Channel, task_id: str, timeout: float) -> None:
    call = channel.unary_unary(
        f"/{SERVICE}/GetTask",
        request_serializer=GetTaskRequest.SerializeToString,
        response_deserializer=GetTaskResponse.FromString,
    )
    task = call(GetTaskRequest(task_id=task_id), timeout=timeout).task
    for label, value in summary(task):
        click.echo(f"{label:>10}  {printable(value)}")


def summary(task: Task) -> list[tuple[str, str]]:
    """Return label and text of the main facts about a task, without those that have no value."""
    lines = [
        ("task", task.task_id),
        ("status", Task.Status.Name(task.status)),
        ("reason", task.reason_for_incompletion),
        ("type", f"{task.task_type} ({task.task_def_name})"),
        ("reference", task.reference_task_name),
        ("workflow", f"{task.workflow_type} {task.workflow_instance_id}"),
        ("scheduled", _when(task.scheduled_time)),
        ("started", _when(task.start_time)),
        ("ended", _when(task.end_time)),
        ("took", f"{task.end_time - task.start_time} ms" if task.end_time and task.start_time else ""),
        ("retries", str(task.retry_count) if task.retry_count else ""),
        ("worker", task.worker_id),
    ]
    return [(label, value) for label, value in lines if value]


def _when(epoch_milliseconds: int) -> str:
    if not epoch_milliseconds:
        return ""
    try:
        return datetime.fromtimestamp(epoch_milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # beyond year 9999
        return f"{epoch_milliseconds} ms since 1970"
