"""Answers of a real Conductor, with the rows that it made them from: one JSON object a line, as ``make conformance`` writes.

``queueWaitTime`` of a task that waits for a callback depends on the clock of the server (contract section 1.5), so
each answer has the time before and after it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from support.exact_json import Difference, Members, Number, differences, parse

QUEUE_WAIT = "queueWaitTime"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One task of Conductor's. Times are epoch milliseconds, texts are the exact bytes as UTF-8."""

    origin: str
    """``run``: the row is Conductor's own. ``planted``: the check put it there, to see what Conductor makes of it."""
    workflow: str
    task: str
    """Reference name, or what the planted row is about."""
    task_id: str
    stored: str
    status: int
    """The HTTP status of the answer."""
    answer: str
    before: int
    after: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.workflow}/{self.task}"


def read_recorded(path: Path) -> Iterator[Recorded]:
    """The tasks of a recording."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield Recorded(**json.loads(line))


def write_recorded(path: Path, recorded: Iterable[Recorded]) -> None:
    """Write a recording; a lone surrogate stays the escape that it must be."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(asdict(task), separators=(",", ":")) + "\n" for task in recorded)


def unequal(expected: bytes, actual: bytes, queue_waits: range | None = None) -> list[Difference]:
    """The differences between two answers for one task.

    Where ``queueWaitTime`` depends on the clock it may be any of ``queue_waits``; elsewhere it is a value as any other.
    """
    left, right = parse(expected), parse(actual)
    found = list(differences(left, right))
    if queue_waits is None:
        return found
    return [each for each in found if each.path != QUEUE_WAIT or int(each.actual) not in queue_waits]


def clock_dependent_waits(stored: bytes, before: int, after: int) -> range | None:
    """What ``queueWaitTime`` can be between two times, if the clock matters for this row; else None."""
    row = parse(stored)
    if not isinstance(row, Members):
        return None
    numbers = {key: int(value.text) for key, value in row if isinstance(value, Number) and value.text.isdigit()}
    scheduled, started, updated, callback = (
        numbers.get(key, 0) for key in ("scheduledTime", "startTime", "updateTime", "callbackAfterSeconds")
    )
    if min(scheduled, started, updated, callback) <= 0:
        return None
    due = updated + callback * 1000
    return range(max(0, before - due), max(0, after - due) + 1)
