"""Answers of a real Conductor, with the rows that it made them from: one JSON object a line.

``make conformance`` writes them. ``queueWaitTime`` of a task that waits for a callback depends on the clock of the
server (``Task.getQueueWaitTime()``), so each answer has the time before and after it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from support.exact_json import Difference, differences, order_differences, parse
from taskgate.documents.conductor import NullRowError, project_task_model
from taskgate.documents.document import DocumentError

QUEUE_WAIT = "queueWaitTime"
_WAIT = re.compile(rb'(?<="queueWaitTime":)-?\d+(?=\}\Z)')

RUN, SEEDED = "run", "seeded"

ON_PURPOSE = {
    "workflowTask.workflowTaskType null": (200, "a setter without a getter, so no server writes it, and it throws"),
    "workflow task all null": (200, "the same"),
    "1001 digits": (200, "Jackson reads no longer number, so no server writes one; ours goes through"),
}
"""Seeded rows for which taskgate's status differs from Conductor's, and why."""

ONE_ON_EVERY_DATABASE = {
    "null": (404, "as on SQL databases; on Redis and Cassandra its counting of reads fails on such a task, with 500"),
}
"""Seeded rows for which Conductor's own answer depends on the database, and taskgate's answer."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One task of Conductor's. Times are epoch milliseconds, texts are the exact bytes as UTF-8."""

    origin: str
    """``RUN``: Conductor wrote the row itself. ``SEEDED``: the check wrote it, to record Conductor's answer."""
    workflow: str
    task: str
    """The reference name, or the subject of the seeded row."""
    task_id: str
    stored: str
    status: int
    """The HTTP status of the answer."""
    answer: str
    """Empty unless the status is 200: other answers of Conductor repeat the row."""
    before: int
    after: int

    @property
    def name(self) -> str:
        """A readable name."""
        return f"{self.workflow}/{self.task}"

    @property
    def taskgate_status(self) -> int:
        """The status that taskgate must answer."""
        known = ON_PURPOSE | ONE_ON_EVERY_DATABASE if self.origin == SEEDED else {}
        return known[self.task][0] if self.task in known else self.status


def read_recorded(path: Path) -> Iterator[Recorded]:
    """Read the tasks of a recording."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield Recorded(**json.loads(line))


def write_recorded(path: Path, recorded: Iterable[Recorded]) -> None:
    """Write a recording."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(asdict(task), separators=(",", ":")) + "\n" for task in recorded)


def unequal(expected: bytes, actual: bytes, waits: Callable[[], tuple[int, int]]) -> list[str]:
    """The differences between two answers for one row; none means the same bytes apart from ``queueWaitTime``.

    A different ``queueWaitTime`` must lie between the values of ``waits()``, which belong to two times.
    """
    if expected == actual:
        return []
    left, right = parse(expected), parse(actual)
    found = list(differences(left, right))
    if [difference.path for difference in found] == [QUEUE_WAIT]:
        low, high = waits()
        if low != high and low <= int(found[0].actual) <= high:
            found = []
    if not found and _without_wait(expected) != _without_wait(actual):
        found = list(order_differences(left, right)) or [Difference("", "the same values", "in other bytes")]
    return [str(difference) for difference in found]


def _without_wait(answer: bytes) -> bytes:
    return _WAIT.sub(b"", answer)


def queue_waits(stored: bytes, before: int, after: int) -> tuple[int, int]:
    """``queueWaitTime`` of a row at two times; the same number unless it depends on the clock."""
    low, high = (int(json.loads(project_task_model(stored, now).document)[QUEUE_WAIT]) for now in (before, after))
    return low, high


def projection_unlike(recorded: Recorded) -> list[str]:
    """The differences in the projection of a recorded row; empty if it is right."""
    stored = recorded.stored.encode()
    try:
        ours = project_task_model(stored, recorded.before).document
    except DocumentError as error:
        found = 404 if isinstance(error, NullRowError) else 500
        return [] if found == recorded.taskgate_status else [f"{found}, not {recorded.taskgate_status}: {error}"]
    if recorded.taskgate_status != 200:
        return [f"not refused: {ours[:300]!r}"]
    if recorded.status != 200:
        return []
    # Ours has the earlier time, so Conductor's must lie in between.
    return unequal(ours, recorded.answer.encode(), lambda: queue_waits(stored, recorded.before, recorded.after))
