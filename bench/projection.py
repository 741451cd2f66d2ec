"""What it takes to make a document of a row: the projection beside ``json.loads`` and msgspec of the same rows.

In one process, without a server; the rows are those of real workflows. ``python -m bench --only projection``.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from bench.workflow_rows import workflow_rows
from taskgate.documents.conductor import project_task_model

ROUNDS = 60
"""Each goes over every row with every subject in turn: rows and subjects find the caches as cold as in a server."""

PROJECTION, JSON, MSGSPEC, NOTHING = "projection", "json.loads", "msgspec alone", "nothing"

_SUBJECTS: Mapping[str, Callable[[bytes], object]] = {
    PROJECTION: lambda stored: project_task_model(stored, 0),
    JSON: json.loads,
    MSGSPEC: msgspec.json.Decoder().decode,
    NOTHING: len,  # what asking for the time takes; taken off the others
}


@dataclass(frozen=True, slots=True)
class RowTimes:
    """Microseconds of CPU for each row, the median of all rounds."""

    subject: str
    rows_us: Sequence[float]

    @property
    def total_us(self) -> float:
        """For all rows."""
        return sum(self.rows_us)

    @property
    def median_us(self) -> float:
        """For a row."""
        return statistics.median(self.rows_us)

    @property
    def ninth_decile_us(self) -> float:
        """Nine of ten rows take less."""
        return statistics.quantiles(self.rows_us, n=10)[-1]


def measure_projection() -> list[RowTimes]:
    """All subjects, in seconds; the garbage collector stands still."""
    rows = [row.stored.encode() for row in workflow_rows()]
    times: dict[str, list[list[int]]] = {subject: [[] for _ in rows] for subject in _SUBJECTS}
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for subject, run in _SUBJECTS.items():
                for row, taken in zip(rows, times[subject], strict=True):
                    began = time.thread_time_ns()
                    run(row)
                    taken.append(time.thread_time_ns() - began)
    finally:
        gc.enable()
    nothing = statistics.median(map(statistics.median, times.pop(NOTHING)))
    return [
        RowTimes(subject, [(statistics.median(of_row) - nothing) / 1000 for of_row in taken])
        for subject, taken in times.items()
    ]
