"""taskgate on its stores, as tables: one for each number of calls in flight, and one of all stores in short."""

from collections.abc import Mapping

from bench.marks import marks, meanings
from bench.measuring import Measured
from bench.plan import Cell
from bench.rendering import Table
from bench.results import Results
from bench.stores import MANY, PEER, RESETTING_PEER, SQLITE, STORE_CASES, SUBJECTS, TASKS

_NOTES = (
    "taskgate inside Envoy, one worker; each store holds the same tasks of 2 KB, each ratio is of rows asked alike.",
    f"{TASKS:,} IDs are asked for in turn. One ID: calls under way at once share a read, unless the store is SQLite.",
    "CPU µs is taskgate's own (the peer's own) for a request, database µs that of the database's processes beside it.",
    "Its processes are also pgbouncer and the Sentinel. All of them and the generator share the cores.",
    (
        "FastAPI + asyncpg is on the same PostgreSQL, with a pool as large as taskgate's that resets no session;"
        " as it comes, asyncpg's pool resets one after each read, by a second statement."
    ),
)


def store_tables(results: Results) -> list[Table]:
    """Empty where nothing was measured."""
    return [_table(results, cell) for cell in results.plan.store_cells]


def store_summary(results: Results) -> Table:
    """A row for each store, as a README has it: REST for all IDs; without rows where nothing was measured."""
    main, *others = results.plan.store_cells
    columns = ["store", f"REST calls/s at {main.load.in_flight}"]
    columns += [f"p50 / p99 ms at {cell.load.in_flight}" for cell in (main, *others)]
    rows = [_summary_row(results, subject) for subject in SUBJECTS if subject != RESETTING_PEER]
    notes = [
        f"Tasks of 2 KB, asked for in turn, at so many calls in flight; CPU is taskgate's, at {main.load.in_flight}."
    ]
    return Table("Stores", (*columns, "CPU µs a call"), [row for row in rows if row], notes)


def _summary_row(results: Results, subject: str) -> tuple[str, ...]:
    """Empty for what was not to be measured."""
    found = {row.cell: row for row in results.stores if row.case == STORE_CASES[subject, MANY]}
    if not found and subject not in results.missing:
        return ()
    title = " ".join((_named(results, subject), *marks(*found.values())))
    cells = results.plan.store_cells
    main = found.get(cells[0])
    return (
        title,
        f"{main.rate:,.0f}" if main and main.samples else "-",
        *(_latency(found.get(cell)) for cell in cells),
        f"{main.total_cpu_us:,.0f}" if main and main.samples else "-",
    )


def _latency(row: Measured | None) -> str:
    return f"{row.p50_ms:.2f} / {row.p99_ms:.2f}" if row and row.samples else "-"


def _named(results: Results, subject: str) -> str:
    """With the reason if it is not to be had here."""
    return f"{subject}: {results.missing[subject]}" if subject in results.missing else subject


def _table(results: Results, cell: Cell) -> Table:
    found = {row.case.key: row for row in results.stores if row.cell == cell}
    rows = []
    for (subject, asked), case in STORE_CASES.items():
        if case.key in found:
            rows.append(_row(found[case.key], _baselines(found, asked)))
        elif subject in results.missing and asked == MANY:
            rows.append((_named(results, subject), *["-"] * 9))
    title = f"Stores: {cell.title.replace('connection', 'call')} in flight"
    columns = ("store", "req/s", "lowest-highest", "p50 ms", "p99 ms", "CPU µs", "database µs")
    ratios = ("÷ SQLite", "÷ FastAPI", "CPU ÷ FastAPI's")
    many = f"Medians of {cell.rounds} interleaved rounds" if cell.rounds > 1 else "One round"
    rounds = f"{many} of {cell.load.seconds:g} s."
    notes = [*(_NOTES if cell.main else ()), rounds, *meanings(*found.values())]
    return Table(title, (*columns, *ratios), rows, notes)


def _baselines(found: Mapping[str, Measured], asked: str) -> list[Measured | None]:
    """SQLite and the peer, asked in the same way."""
    cases = [STORE_CASES.get((subject, asked)) for subject in (SQLITE, PEER)]
    return [None if case is None else found.get(case.key) for case in cases]


def _row(row: Measured, baselines: list[Measured | None]) -> tuple[str, ...]:
    title = " ".join((row.case.title, *marks(row)))
    if not row.samples:
        return (title, *["-"] * 9)
    rates = row.rates.values()
    peer = baselines[-1]
    return (
        title,
        f"{row.rate:,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.total_cpu_us:,.0f}",
        f"{row.database_us:,.0f}" if row.database_us else "-",
        *(_ratio(row, baseline) for baseline in baselines),
        f"{row.total_cpu_us / peer.total_cpu_us:.2f}" if peer is not None and peer.samples else "-",
    )


def _ratio(row: Measured, baseline: Measured | None) -> str:
    return "-" if baseline is None or not baseline.samples else f"{row.rate / baseline.rate:.2f}"
