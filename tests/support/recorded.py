"""Answers of a real Conductor, with the rows that it made them from: one JSON object a line.

``make conformance`` writes them. ``queueWaitTime`` of a task that waits for a callback depends on the clock of the
server (``Task.getQueueWaitTime()``), so each answer has the time before and after it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from support.exact_json import Difference, differences, order_differences, parse
from taskgate.documents.conductor import NullRowError, project_task_model
from taskgate.documents.document import DocumentError

QUEUE_WAIT = "queueWaitTime"
EXECUTION_METADATA = "executionMetadata"
GETTERS = {"taskDefinition", "loopOverTask", QUEUE_WAIT, "empty", "executionDuration", "additionalContextMap"}
"""Members of a task and of its ``executionMetadata`` that have no field in Conductor's classes.

They come last, in the order in which a JVM lists the getters, which may differ from one start of Conductor to the next.
"""

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
    """The differences between two answers for one row; none means the same bytes, apart from what no answer promises.

    That is the order of ``GETTERS`` among themselves, and a ``queueWaitTime`` that lies between the values of
    ``waits()``, which belong to two times.
    """
    if expected == actual:
        return []
    found = list(differences(parse(expected), parse(actual)))
    if [difference.path for difference in found] == [QUEUE_WAIT]:
        low, high = waits()
        if low != high and low <= int(found[0].actual) <= high:
            found = []
    left, right = _settled(expected), _settled(actual)
    if not found and left != right:
        found = list(order_differences(parse(left), parse(right))) or [
            Difference("", "the same values", "in other bytes")
        ]
    return [str(difference) for difference in found]


def _settled(answer: bytes) -> bytes:
    """The answer with its getters by name and without its wait; another whitespace or escape remains."""
    members = {name: bytes(text) for name, text in msgspec.json.decode(answer, type=dict[str, msgspec.Raw]).items()}
    if _written(members) != answer:
        return answer
    if QUEUE_WAIT in members:
        members[QUEUE_WAIT] = b"0"
    if EXECUTION_METADATA in members:
        members[EXECUTION_METADATA] = _settled(members[EXECUTION_METADATA])
    last = len(members) - len(GETTERS & set(members))
    names = list(members)
    return _written({name: members[name] for name in names[:last] + sorted(names[last:])})


def _written(members: dict[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), text) for name, text in members.items()) + b"}"


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
