"""Whether a lookup takes longer among more tasks: files of 10^3 to 10^7 rows, each with a server of its own."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bench.commands import import_tasks
from bench.errors import BenchError
from bench.loads import Generator, Load
from bench.servers import Server, Site, start_taskgate
from bench.targets import HttpGet, check
from bench.tasks import row, row_id, write_rows

ASKED = 10_000
"""IDs that are asked for in turn, drawn from all: one row again and again would be found in some cache."""

_WARM_UP_SECONDS = 0.3


@dataclass(slots=True)
class AmongRows:
    """Latency of single REST calls, one at a time, among ``rows`` tasks of 200 bytes: milliseconds, by round."""

    rows: int
    p50s_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def p50_ms(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.p50s_ms)

    @property
    def p99_ms(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.p99s_ms)


def fill(site: Site, rows: int) -> Site:
    """A site whose database has ``rows`` rows of 200 bytes."""
    database = site.folder / f"rows-{rows}.db"
    import_tasks(database, rows, partial(write_rows, count=rows))
    return replace(site, database=database)


def target_among(server: Server, rows: int) -> HttpGet:
    """Calls for ``ASKED`` of the rows, the same in every run."""
    numbers = random.Random(rows).sample(range(rows), min(rows, ASKED))  # noqa: S311 - not a secret
    first, *others = (f"/api/tasks/{row_id(number)}" for number in numbers)
    return HttpGet(server.http, first, row(numbers[0]), tuple(others))


def measure_rows(
    sites: Mapping[int, Site], generator: Generator, rounds: int, seconds: float, progress: Callable[[str], None]
) -> list[AmongRows]:
    """Interleaved rounds over files by their number of rows. Raises BenchError if an answer is wrong."""
    found = {rows: AmongRows(rows) for rows in sites}
    servers: dict[int, Server] = {}
    try:
        for rows, site in sites.items():
            servers[rows] = start_taskgate(site)
        targets = {rows: target_among(server, rows) for rows, server in servers.items()}
        for rows, target in targets.items():
            servers[rows].process.wait_until(partial(check, target))
        for number in range(rounds):
            for rows in _every_other_backwards(list(targets), number):
                generator.run(targets[rows], Load(1, _WARM_UP_SECONDS))
                result = generator.run(targets[rows], Load(1, seconds))
                if not result.requests:
                    raise BenchError(f"among {rows:,} rows: {result.errors} calls failed, and not one was right")
                found[rows].p50s_ms.append(result.p50_ms)
                found[rows].p99s_ms.append(result.p99_ms)
                found[rows].errors += result.errors
                progress(f"round {number + 1} of {rounds}: among {rows:,} rows: p50 {result.p50_ms:.3f} ms")
    finally:
        for server in servers.values():
            server.process.stop()
    return list(found.values())


def _every_other_backwards(items: Sequence[int], number: int) -> list[int]:
    return list(reversed(items)) if number % 2 else list(items)
