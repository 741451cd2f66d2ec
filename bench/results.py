"""All that one run found."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.beside import Beside
from bench.commands import Import
from bench.measuring import Measured
from bench.memory import Growth
from bench.plan import Cell, Plan
from bench.projection import RowTimes
from bench.ratios import Ratio, ratios
from bench.rows import AmongRows

MEBIBYTE = 1024 * 1024


@dataclass(slots=True)
class Results:
    """One run. What was not asked for is empty.

    ``missing`` are servers that are not to be had here, with the reason; ``problems`` is what kept a part from being
    measured; ``stores`` are the rows of taskgate on its stores, ``workflows`` those beside Conductor on its database,
    ``projection`` is what making a document of such a row takes;
    ``start_seconds`` is by transport; ``idle`` are resident bytes by server and process.
    """

    machine: str
    plan: Plan
    stored_tasks: int
    log_level: str
    warning: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    stores: list[Measured] = field(default_factory=list)
    workflows: list[Measured] = field(default_factory=list)
    projection: Sequence[RowTimes] = ()
    imports: Sequence[Import] = ()
    start_seconds: dict[str, float] = field(default_factory=dict)
    idle: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    growth: Sequence[Growth] = ()
    beside: Sequence[Beside] = ()
    rows: Sequence[AmongRows] = ()

    @property
    def cells(self) -> list[Cell]:
        """Those of the plan in which anything was measured."""
        return [cell for cell in self.plan.cells if any(row.cell == cell for row in self.measured)]

    def in_cell(self, cell: Cell) -> list[Measured]:
        """The rows of a cell, in the order of the cases."""
        return [row for row in self.measured if row.cell == cell]

    @property
    def other_cores(self) -> float:
        """Median of the cores that programs outside the measurement used during its parts; 0 if there were none."""
        values = [
            sample.other_cores for row in (*self.measured, *self.stores, *self.workflows) for sample in row.samples
        ]
        values += [run.other_cores for run in self.imports]
        return statistics.median(values) if values else 0.0

    @property
    def failures(self) -> list[str]:
        """A sentence for everything that was not answered as it must be."""
        found = list(self.problems)
        for row in (*self.measured, *self.stores, *self.workflows):
            head = f"{row.case.title} ({row.cell.title})"
            found += [f"{head}: {row.errors:,} calls failed"] if row.errors else []
            found += [f"{head}: {problem}" for problem in row.problems]
        found += [f"{b.title}, small reads {b.state}: {problem}" for b in self.beside for problem in b.problems]
        found += [f"{g.server}, 10 MB reads: {problem}" for g in self.growth for problem in g.problems]
        found += [f"among {among.rows:,} rows: {among.errors:,} calls failed" for among in self.rows if among.errors]
        return found


def as_json(results: Results) -> dict[str, Any]:
    """Everything, down to single rounds, for programs."""
    return {
        "machine": results.machine,
        "quick": results.plan.quick,
        "stored_tasks": results.stored_tasks,
        "log_level": results.log_level,
        "other_programs_cores": results.other_cores,
        "missing": results.missing,
        "failures": results.failures,
        "cases": [_case_as_json(row) for row in results.measured],
        "ratios": [_ratio_as_json(ratio) for cell in results.cells for ratio in ratios(results.measured, cell)],
        "stores": [_case_as_json(row) for row in results.stores],
        "workflows": [_case_as_json(row) for row in results.workflows],
        "projection": {times.subject: times.rows_us for times in results.projection},
        "small_reads": [_beside_as_json(beside) for beside in results.beside],
        "rows": [{"rows": among.rows, "p50_ms": among.p50s_ms, "p99_ms": among.p99s_ms} for among in results.rows],
        "growth": [{"server": g.server, "peak_bytes": g.peaks, "settled_bytes": g.settled} for g in results.growth],
        "imports": [_import_as_json(run) for run in results.imports],
        "start_seconds": results.start_seconds,
        "idle_resident_bytes": {server: dict(parts) for server, parts in results.idle.items()},
    }


def _case_as_json(row: Measured) -> dict[str, Any]:
    return {
        "key": row.case.key,
        "title": row.case.title,
        "document": row.cell.document.name,
        "connections": row.cell.load.in_flight,
        "generator": row.generator,
        "saturates": row.saturates,
        "generator_is_full": bool(row.samples) and row.generator_is_full,
        "errors": row.errors,
        "problems": row.problems,
        "rounds": [
            {
                "requests_a_second": sample.load.rate,
                "p50_ms": sample.load.p50_ms,
                "p99_ms": sample.load.p99_ms,
                "errors": sample.load.errors,
                "cpu_us_a_request": dict(sample.cpu_us),
                "database_cpu_us_a_request": sample.database_us,
                "generator_cores": sample.load.generator_cores,
            }
            for sample in row.samples
        ],
    }


def _ratio_as_json(ratio: Ratio) -> dict[str, Any]:
    return {
        "row": ratio.row.case.key,
        "baseline": ratio.baseline.case.key,
        "document": ratio.row.cell.document.name,
        "connections": ratio.row.cell.load.in_flight,
        "throughput": ratio.of_medians,
        "lowest_round": ratio.lowest,
        "highest_round": ratio.highest,
        "cpu": ratio.cpu,
    }


def _beside_as_json(beside: Beside) -> dict[str, Any]:
    return {
        "server": beside.title,
        "state": beside.state,
        "p50_ms": beside.p50s_ms,
        "p99_ms": beside.p99s_ms,
        "large_a_second": beside.large_rates,
    }


def _import_as_json(run: Import) -> dict[str, Any]:
    return {
        "tasks": run.tasks,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "peak_bytes": run.peak_bytes,
    }
