"""Tasks of real workflows, Conductor and taskgate on one database: a table for each number of calls in flight."""

from bench.marks import marks, meanings
from bench.measuring import Measured
from bench.plan import Cell
from bench.projection import JSON, ROUNDS
from bench.rendering import Table
from bench.results import Results
from bench.workflow_rows import workflow_rows
from bench.workflows import AGAIN, CONDUCTOR, COPIES, FIRST, IMPORTED, WORKFLOW_CASES, workflow_cell

_COLUMNS = ("server", "req/s", "lowest-highest", "p50 ms", "p99 ms", "CPU µs", "÷ Conductor", "CPU ÷", "÷ imported")


def workflow_tables(results: Results) -> list[Table]:
    """Empty where nothing was measured."""
    return [_table(results, workflow_cell(cell)) for cell in results.plan.workflow_cells]


def projection_table(results: Results) -> Table:
    """What it takes to make documents of rows, without a server; empty where it was not measured."""
    total = next((times.total_us for times in results.projection if times.subject == JSON), 0.0)
    rows = [
        (
            times.subject,
            f"{times.median_us:.1f}",
            f"{times.ninth_decile_us:.1f}",
            f"{times.total_us:,.0f}",
            f"{times.total_us / total:.2f}",
        )
        for times in results.projection
    ]
    title = f"CPU for each of the {len(workflow_rows())} rows of recorded workflows"
    notes = [f"Median of {ROUNDS} interleaved rounds in one process."]
    return Table(title, ("what", "median µs", "ninth decile", "all rows", f"÷ {JSON}"), rows, notes if rows else [])


def _table(results: Results, cell: Cell) -> Table:
    found = {row.case.key: row for row in results.workflows if row.cell == cell}
    rows = [_row(found, found[case.key]) for case in WORKFLOW_CASES if case.key in found]
    each = len(workflow_rows())
    notes = [
        f"The {each} tasks of recorded workflows, {COPIES * each:,} with their copies, in Conductor's SQLite file.",
        f"{AGAIN.capitalize()}: {each} in turn. {FIRST.capitalize()}: all in turn, more than taskgate keeps converted.",
        "Conductor is warm, and stopped while others are asked. CPU µs is the server's, for a request.",
        f"Medians of {cell.rounds} interleaved rounds of {cell.load.seconds:g} s.",
    ]
    title = f"Tasks of real workflows, {cell.load.in_flight} in flight"
    return Table(title, _COLUMNS, rows, [*notes, *meanings(*found.values())] if rows else [])


def _row(found: dict[str, Measured], row: Measured) -> tuple[str, ...]:
    title = " ".join((row.case.title, *marks(row)))
    if not row.samples:
        return (title, *["-"] * (len(_COLUMNS) - 1))
    how = row.case.key.rpartition(": ")[2]
    conductor, imported = (found.get(f"{subject}: {how}") for subject in (CONDUCTOR, IMPORTED))
    rates = row.rates.values()
    return (
        title,
        f"{row.rate:,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.total_cpu_us:,.0f}",
        _ratio(row.rate, conductor and conductor.samples and conductor.rate),
        _ratio(row.total_cpu_us, conductor and conductor.samples and conductor.total_cpu_us),
        _ratio(row.rate, imported and imported.samples and imported.rate),
    )


def _ratio(value: float, baseline: object) -> str:
    return f"{value / baseline:.2f}" if isinstance(baseline, float) else "-"
