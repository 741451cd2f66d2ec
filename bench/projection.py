"""Measure how long it takes to make a document from a row: the projection beside ``json.loads`` of the same rows.

It runs in one process, without a server, on the rows of real workflows.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping

from bench.measuring import Settings
from bench.report import Aim, Report, Table
from bench.servers import Site
from bench.workflow_rows import workflow_rows
from taskgate.documents.conductor import project_task_model

PROJECTION_AIM = 0.9

_ROUNDS = 60
"""Each takes every row with every subject in turn, so that caches are as cold as in a server."""

_PROJECTION, _JSON, _NOTHING = "projection", "json.loads", "nothing"

_SUBJECTS: Mapping[str, Callable[[bytes], object]] = {
    _PROJECTION: lambda stored: project_task_model(stored, 0),
    _JSON: json.loads,
    _NOTHING: len,  # the cost of reading the clock, which is subtracted from the others
}


def measure_projection(_site: Site, _settings: Settings, report: Report) -> None:
    """Measure microseconds of CPU for each row, the median of all rounds."""
    report.say("projecting rows of real workflows")
    times = _times()
    total = sum(times[_JSON])
    cells = [
        (
            subject,
            f"{statistics.median(rows):.1f}",
            f"{statistics.quantiles(rows, n=10)[-1]:.1f}",
            f"{sum(rows):,.0f}",
            f"{sum(rows) / total:.2f}",
        )
        for subject, rows in times.items()
    ]
    columns = ("what", "median µs", "ninth decile", "all rows", f"÷ {_JSON}")
    notes = [f"Medians of {_ROUNDS} interleaved rounds in one process."]
    title = f"CPU for each of the {len(workflow_rows())} rows of recorded workflows"
    report.tables.append(Table(title, columns, cells, notes))
    what = f"making documents of rows of real workflows ÷ {_JSON} of them"
    report.aims.append(Aim(what, sum(times[_PROJECTION]) / total, PROJECTION_AIM))


def _times() -> dict[str, list[float]]:
    """Return times by subject, for each row, measured without the garbage collector."""
    rows = [row.stored.encode() for row in workflow_rows()]
    times: dict[str, list[list[int]]] = {subject: [[] for _ in rows] for subject in _SUBJECTS}
    gc.disable()
    try:
        for _ in range(_ROUNDS):
            for subject, run in _SUBJECTS.items():
                for row, taken in zip(rows, times[subject], strict=True):
                    began = time.thread_time_ns()
                    run(row)
                    taken.append(time.thread_time_ns() - began)
    finally:
        gc.enable()
    nothing = statistics.median(map(statistics.median, times.pop(_NOTHING)))
    return {
        subject: [(statistics.median(of_row) - nothing) / 1000 for of_row in taken] for subject, taken in times.items()
    }
