"""``taskgate get --watch``: ask for a task until it has ended, and print each change of its status."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from taskgate.client import CallError, Client
from taskgate.commands.get import check_task_id, print_document, print_error, print_fact, print_summary, when
from taskgate.documents.json_scan import end_of_value, key_text, next_member, start_of_members
from taskgate.v1.task_pb2 import Task

SUCCESSFUL: Final = frozenset({"COMPLETED", "COMPLETED_WITH_ERRORS", "SKIPPED"})
ENDED: Final = SUCCESSFUL | {"CANCELED", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT"}

EXIT_FAILED: Final = 3
"""The task ended without success."""

Seen = tuple[str, Callable[[], None]]
"""The status of a task, and what prints the task."""


def run_watch(client: Client, task_id: str, *, server: str, as_json: bool, interval: float) -> int:
    """Ask every ``interval`` seconds; return 0, or 3 if the task ended without success, or 1 if it cannot be read.

    Prints a line for each status and the summary at the end, or with ``as_json`` the document at each change. Once the
    task has been seen, an outage of the server is reported and waited out. Raises SettingsError.
    """
    check_task_id(task_id)
    look = partial(_document if as_json else _task, client, task_id)
    shown: str | None = None
    failed = False
    while True:
        pause = interval
        try:
            status, show = look()
        except CallError as error:
            if shown is None or not error.retryable:
                print_error(server, error)
                return 1
            if not failed:
                print_error(server, error, then="; asking again")
            failed, pause = True, max(interval, error.retry_after or 0)
        else:
            failed = False
            if status != shown:
                show()
            shown = status
            if status in ENDED:
                return 0 if status in SUCCESSFUL else EXIT_FAILED
        time.sleep(pause)


def _task(client: Client, task_id: str) -> Seen:
    task = client.get_task(task_id)
    status = Task.Status.Name(task.status)
    if status in ENDED:
        return status, partial(print_summary, task)
    return status, partial(print_fact, "status", f"{status}  {when(task.update_time)}".rstrip())


def _document(client: Client, task_id: str) -> Seen:
    document = client.get_task_json(task_id)
    return _status_in(document), partial(print_document, document)


def _status_in(document: bytes) -> str:
    """Return the status that a document names; empty if it names none."""
    at = start_of_members(document)
    while (member := next_member(document, at)) is not None:
        key, start = member
        at = end_of_value(document, start)
        if key_text(key) == "status":
            return document[start:at].decode().strip('"')
    return ""
