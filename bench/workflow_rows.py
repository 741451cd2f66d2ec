"""Load rows of real workflows: what a running Conductor wrote and answered, as recorded in ``tests/data``."""

import functools
import json
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

_RECORDING = Path(__file__).parent.parent / "tests" / "data" / "conductor-3.32.3.ndjson"

_BY_CONDUCTOR = "run"
"""The ``origin`` of rows that Conductor wrote itself; the others were inserted to see how it answers them."""


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A task as Conductor stored it (``TaskModel``) and as it answered it (``Task``), both JSON texts."""

    task_id: str
    status: str
    stored: str
    answer: str

    def renamed(self, task_id: str) -> "WorkflowRow":
        """Return the same task under another ID."""
        stored, answer = (text.replace(self.task_id, task_id) for text in (self.stored, self.answer))
        return WorkflowRow(task_id, self.status, stored, answer)


@functools.cache
def workflow_rows() -> tuple[WorkflowRow, ...]:
    """Return every task that the recorded workflows ran, as often as it occurs in them; a completed one comes first."""
    with _RECORDING.open(encoding="utf-8") as lines:
        recorded = [json.loads(line) for line in lines]
    rows = [
        WorkflowRow(task["task_id"], json.loads(task["answer"])["status"], task["stored"], task["answer"])
        for task in recorded
        if task["origin"] == _BY_CONDUCTOR and task["status"] == HTTPStatus.OK
    ]
    return tuple(sorted(rows, key=lambda row: row.status != "COMPLETED"))
