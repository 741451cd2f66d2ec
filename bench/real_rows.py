"""Rows that real workflows have left in Conductor's database, as ``make conformance`` recorded them."""

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "tests/data"


@dataclass(frozen=True, slots=True)
class RealRow:
    """A stored ``TaskModel``, and what Conductor answers for it over REST; both in UTF-8."""

    task_id: str
    kind: str
    """The task's type: HTTP, SWITCH, SUB_WORKFLOW and so on."""
    stored: bytes
    answer: bytes
    recorded_ms: int
    """When it was recorded, in epoch milliseconds: for a ``queueWaitTime`` that depends on the clock."""


def real_rows() -> list[RealRow]:
    """Each recorded row of a workflow once, so kinds and sizes come in the mix in which the workflows left them.

    96 rows of 13 workflows and more, 0.9 to 6.9 KB, 2.5 KB in the median. Rows that were planted to see what Conductor
    makes of them are not among them.
    """
    (recording,) = FOLDER.glob("conductor-*.ndjson")
    with recording.open(encoding="utf-8") as lines:
        tasks = [json.loads(line) for line in lines]
    return [
        RealRow(
            task_id=task["task_id"],
            kind=json.loads(task["stored"])["taskType"],
            stored=task["stored"].encode(),
            answer=task["answer"].encode(),
            recorded_ms=task["before"],
        )
        for task in tasks
        if task["origin"] == "run"
    ]
