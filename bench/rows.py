"""Test whether a lookup takes longer among more tasks: on a file of a thousand rows, and on a file of many."""

import random
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from bench.cases import Case
from bench.importing import import_tasks
from bench.measuring import Settings, measure
from bench.report import Aim, Report
from bench.servers import Server, Site, start_taskgate
from bench.targets import Target
from bench.tasks import Document, row, row_id, write_rows
from tools.servers import WRK, find

LEAST_ROWS, MOST_ROWS, _QUICK_ROWS = 1_000, 1_000_000, 100_000

ROWS_AIM = 1.15

ASKED = 10_000
"""IDs that are requested in turn, drawn from all: a single row would always be in a cache."""

_ROWS = Document("rows of 200 bytes", "", 0)
"""Their name in a cell."""

_ROUNDS, _SECONDS = 5, 1.0


def measure_rows(site: Site, settings: Settings, report: Report) -> None:
    """Measure one call at a time, in interleaved rounds over the files. Raises Missing."""
    find(WRK)
    counts = (LEAST_ROWS, _QUICK_ROWS if settings.quick else MOST_ROWS)
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for count in counts:
            report.say(f"filling a store with {count:,} rows of 200 bytes")
            own = replace(site, database=site.folder / f"rows-{count}.db")
            import_tasks(own.database, partial(write_rows, count=count))
            servers[str(count)] = start_taskgate(own)
            stack.enter_context(servers[str(count)].process)
        cases = [Case(str(count), f"among {count:,} rows", str(count), partial(_target, count)) for count in counts]
        rows = measure(cases, settings.cell(_ROWS, 1, _ROUNDS, _SECONDS), servers, report.say)
    notes = ["REST, embedded, one call at a time, IDs drawn from all rows; a file and a server for each number."]
    report.add("Latency by number of rows of 200 bytes", rows, notes)
    if all(of.samples for of in rows):
        least, most = (of.median(lambda sample: sample.load.p50_ms) for of in rows)
        what = f"p50 among {counts[1]:,} rows of 200 bytes ÷ among {counts[0]:,}"
        report.aims.append(Aim(what, most / least, ROWS_AIM, failed=any(of.failures for of in rows)))


def _target(count: int, server: Server, _: Document) -> Target:
    """Make calls for ``ASKED`` of the rows, the same in every run."""
    numbers = random.Random(count).sample(range(count), min(count, ASKED))  # noqa: S311 - not a secret
    first, *others = (f"/api/tasks/{row_id(number)}" for number in numbers)
    return Target(server.http, first, row(numbers[0]), others=tuple(others))
