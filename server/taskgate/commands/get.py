"""``taskgate get``: print one task of a running server, as its JSON document or as a readable summary."""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from taskgate.base.errors import SettingsError
from taskgate.base.printable import is_text, printable, printable_json
from taskgate.base.variable_files import read_variable
from taskgate.client import CallError, Client, Tls
from taskgate.v1.task_pb2 import Task


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files for TLS to the server; without ``ca``, the system's authorities are trusted."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def read(self) -> Tls:
        """Raises SettingsError for a file that cannot be read, or a certificate without its key."""
        if (self.cert is None) is not (self.key is None):
            raise SettingsError("--tls-cert and --tls-key: each needs the other")
        return Tls(_read("--tls-ca", self.ca), _read("--tls-cert", self.cert), _read("--tls-key", self.key))


def open_client(server: str, *, timeout: float, tls: ClientTls | None, token: str | None) -> Client:
    """Return a client of ``server``; ``tls`` is None for plain text, ``token`` for that of the environment.

    A command that fails says so at once, so it sends a call once. Raises SettingsError.
    """
    if not is_text(server):
        raise SettingsError("server: it is not text in UTF-8")
    files = False if tls is None else tls.read()
    token = read_variable("token") if token is None else token
    try:
        return Client(server, tls=files, token=token, timeout=timeout, attempts=1)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def run_get(client: Client, task_id: str, *, server: str, as_json: bool) -> int:
    """Print the task and return exit code 0, or print the error on standard error and return 1.

    ``server`` is its name in the error. Raises SettingsError for a task ID that is not text.
    """
    check_task_id(task_id)
    try:
        if as_json:
            print_document(client.get_task_json(task_id))
        else:
            print_summary(client.get_task(task_id))
    except CallError as error:
        print_error(server, error)
        return 1
    return 0


def check_task_id(task_id: str) -> None:
    """Raise SettingsError for a task ID that is not text."""
    if not is_text(task_id):
        raise SettingsError("TASK_ID: it is not text in UTF-8")


def print_error(server: str, error: CallError, *, then: str = "") -> None:
    """Print ``error`` of ``server`` on standard error, and what happens ``then``."""
    click.echo(printable(f"taskgate: {server}: {error}{then}"), err=True)


def print_document(document: bytes) -> None:
    """Print a document on a line: as it is, or for a terminal."""
    if sys.stdout.isatty():
        click.echo(printable_json(document))
    else:
        sys.stdout.buffer.write(document + b"\n")
        sys.stdout.buffer.flush()


def print_summary(task: Task) -> None:
    """Print the main facts about a task."""
    for label, value in summary(task):
        print_fact(label, value)


def print_fact(label: str, value: str) -> None:
    """Print one fact."""
    click.echo(f"{label:>10}  {printable(value)}")


def _read(flag: str, path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag}: cannot read {path}: {error.strerror}") from error


def summary(task: Task) -> list[tuple[str, str]]:
    """Return label and text of the main facts about a task, without those that have no value."""
    lines = [
        ("task", task.task_id),
        ("status", Task.Status.Name(task.status)),
        ("reason", task.reason_for_incompletion),
        ("type", f"{task.task_type} ({task.task_def_name})"),
        ("reference", task.reference_task_name),
        ("workflow", f"{task.workflow_type} {task.workflow_instance_id}"),
        ("scheduled", when(task.scheduled_time)),
        ("started", when(task.start_time)),
        ("ended", when(task.end_time)),
        ("took", f"{task.end_time - task.start_time} ms" if task.end_time and task.start_time else ""),
        ("retries", str(task.retry_count) if task.retry_count else ""),
        ("worker", task.worker_id),
    ]
    return [(label, value) for label, value in lines if value]


def when(epoch_milliseconds: int) -> str:
    """Return a time as text in UTC; empty for 0."""
    if not epoch_milliseconds:
        return ""
    try:
        return datetime.fromtimestamp(epoch_milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # beyond year 9999
        return f"{epoch_milliseconds} ms since 1970"
