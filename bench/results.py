"""All that one run found, and what follows from it: ratios between rows, and budgets met or missed."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.commands import Import
from bench.measuring import Measured, Plan

MEBIBYTE = 1024 * 1024


@dataclass(slots=True)
class Results:
    """One run. What was not asked for is empty or None."""

    machine: str
    plan: Plan
    rows: int
    log_level: str
    measured: Sequence[Measured] = ()
    imports: Sequence[Import] = ()
    start_seconds: float | None = None
    memory: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def other_cores(self) -> float:
        """Median of the cores that programs outside the measurement used during its parts; 0 if there were none."""
        values = [sample.other_cores for row in self.measured for sample in row.samples]
        values += [run.other_cores for run in self.imports]
        return statistics.median(values) if values else 0.0

    @property
    def failed(self) -> bool:
        """Whether a row counts calls that failed."""
        return any(row.errors for row in self.measured)


COMPARISONS = (
    ("rest", "fastapi"),
    ("rest", "fastapi-inline"),
    ("rest", "envoy-direct"),
    ("rest", "grpc-envoy"),
    ("grpc-envoy", "grpc-json"),
    ("grpc-json", "echo"),
    ("grpc-typed", "echo"),
    ("grpc-typed", "grpc-json"),
)
"""Keys of a row and of the baseline that it is divided by."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Throughput of one row over that of its baseline: of the medians, and the extremes among single rounds.

    ``cpu`` is the same for CPU time per request, where lower is better.
    """

    row: Measured
    baseline: Measured
    of_medians: float
    lowest: float
    highest: float
    cpu: float


def ratios(measured: Sequence[Measured]) -> list[Ratio]:
    """Every comparison of which both rows were measured."""
    rows = {row.case.key: row for row in measured}
    return [compare(rows[key], rows[base]) for key, base in COMPARISONS if key in rows and base in rows]


def compare(row: Measured, baseline: Measured) -> Ratio:
    """Divide ``row`` by ``baseline``; single rounds are divided pairwise, since they ran within the same seconds."""
    pairs = [a / b for a, b in zip(row.rates, baseline.rates, strict=True)]
    return Ratio(
        row=row,
        baseline=baseline,
        of_medians=row.rate / baseline.rate,
        lowest=min(pairs),
        highest=max(pairs),
        cpu=row.total_cpu_us / baseline.total_cpu_us,
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """A promise and what was found: ``found`` has to be at most ``limit``, or at least if ``at_least``."""

    what: str
    unit: str
    limit: float
    found: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise holds in this run."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


IMPORT_RATE = 30_000.0
IMPORT_GROWTH = 1.25
START_SECONDS = 3.0


def sustained_rate(smaller: Import, larger: Import) -> float:
    """Tasks a second that ``larger`` took beyond ``smaller``, so without the start of the command."""
    more_seconds = larger.seconds - smaller.seconds
    return (larger.tasks - smaller.tasks) / more_seconds if more_seconds > 0 else larger.rate


def budgets(results: Results) -> list[Budget]:
    """The promises that what was measured can speak about."""
    found = []
    if results.imports:
        smallest, largest = results.imports[0], results.imports[-1]
        rate = sustained_rate(smallest, largest)
        what = "import of 1.9 KB tasks into SQLite, sustained"
        found.append(Budget(what, "tasks/s", IMPORT_RATE, rate, at_least=True))
        what = f"peak memory of importing {largest.tasks:,} tasks ÷ {smallest.tasks:,}"
        found.append(Budget(what, "times", IMPORT_GROWTH, largest.peak_bytes / smallest.peak_bytes))
    if results.start_seconds is not None:
        found.append(Budget("taskgate up to first answered request", "s", START_SECONDS, results.start_seconds))
    return found


def as_json(results: Results) -> dict[str, Any]:
    """Everything, down to single rounds, for programs."""
    return {
        "machine": results.machine,
        "rows": results.rows,
        "log_level": results.log_level,
        "other_programs_cores": results.other_cores,
        "calls_in_flight": results.plan.load.in_flight,
        "seconds_a_round": results.plan.load.seconds,
        "cases": [_case_as_json(row) for row in results.measured],
        "ratios": [
            {
                "row": ratio.row.case.key,
                "baseline": ratio.baseline.case.key,
                "throughput": ratio.of_medians,
                "lowest_round": ratio.lowest,
                "highest_round": ratio.highest,
                "cpu": ratio.cpu,
            }
            for ratio in ratios(results.measured)
        ],
        "imports": [
            {"tasks": run.tasks, "seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "peak_bytes": run.peak_bytes}
            for run in results.imports
        ],
        "start_seconds": results.start_seconds,
        "idle_resident_bytes": {server: dict(parts) for server, parts in results.memory.items()},
        "budgets": [
            {"what": b.what, "unit": b.unit, "limit": b.limit, "at_least": b.at_least, "found": b.found, "met": b.met}
            for b in budgets(results)
        ],
    }


def _case_as_json(row: Measured) -> dict[str, Any]:
    return {
        "key": row.case.key,
        "title": row.case.title,
        "generator": row.generator,
        "saturates": row.saturates,
        "generator_is_full": row.generator_is_full,
        "errors": row.errors,
        "rounds": [
            {
                "requests_a_second": sample.load.rate,
                "p50_ms": sample.load.p50_ms,
                "p99_ms": sample.load.p99_ms,
                "errors": sample.load.errors,
                "cpu_us_a_request": dict(sample.cpu_us),
                "generator_cores": sample.load.generator_cores,
            }
            for sample in row.samples
        ],
    }
