"""taskgate on its stores, as tables: one for each number of calls in flight."""

from collections.abc import Mapping

from bench.marks import marks, meanings
from bench.measuring import Measured
from bench.plan import Cell
from bench.rendering import Table
from bench.results import Results
from bench.stores import PEER, SQLITE, STORE_CASES, TASKS

_NOTES = (
    "taskgate inside Envoy, one worker; each store holds the same tasks of 2 KB, each ratio is of rows asked alike.",
    f"{TASKS:,} IDs are asked for in turn. One ID: calls under way at once share a read, unless the store is SQLite.",
    "CPU µs is taskgate's own (the peer's own) for a request, database µs that of the database's processes beside it.",
    "All of them and the generator share the cores.",
    (
        "FastAPI + asyncpg is on the same PostgreSQL, with a pool as large as taskgate's that resets no session;"
        " as it comes, asyncpg's pool resets one after each read, by a second statement."
    ),
)


def store_tables(results: Results) -> list[Table]:
    """Empty where nothing was measured."""
    return [_table(results, cell) for cell in results.plan.store_cells]


def _table(results: Results, cell: Cell) -> Table:
    found = {row.case.key: row for row in results.stores if row.cell == cell}
    rows = [
        _row(found[case.key], _baselines(found, asked)) for (_, asked), case in STORE_CASES.items() if case.key in found
    ]
    title = f"Stores: {cell.title.replace('connection', 'call')} in flight"
    columns = ("store", "req/s", "lowest-highest", "p50 ms", "p99 ms", "CPU µs", "database µs", "÷ SQLite", "÷ FastAPI")
    many = f"Medians of {cell.rounds} interleaved rounds" if cell.rounds > 1 else "One round"
    rounds = f"{many} of {cell.load.seconds:g} s."
    return Table(title, columns, rows, [*(_NOTES if cell.main else ()), rounds, *meanings(*found.values())])


def _baselines(found: Mapping[str, Measured], asked: str) -> list[Measured | None]:
    cases = [STORE_CASES.get((subject, asked)) for subject in (SQLITE, PEER)]
    return [None if case is None else found.get(case.key) for case in cases]


def _row(row: Measured, baselines: list[Measured | None]) -> tuple[str, ...]:
    title = " ".join((row.case.title, *marks(row)))
    if not row.samples:
        return (title, *["-"] * 8)
    rates = row.rates.values()
    return (
        title,
        f"{row.rate:,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.total_cpu_us:,.0f}",
        f"{row.database_us:,.0f}" if row.database_us else "-",
        *(_ratio(row, baseline) for baseline in baselines),
    )


def _ratio(row: Measured, baseline: Measured | None) -> str:
    return "-" if baseline is None or not baseline.samples else f"{row.rate / baseline.rate:.2f}"
