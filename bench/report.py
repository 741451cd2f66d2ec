"""Results as tables, most important first."""

import statistics
from collections.abc import Sequence

from bench.beside import ALONE, READERS, SMALL_CONNECTIONS, STATES, TYPED, state_of
from bench.budgets import Budget, budgets
from bench.cases import CASES
from bench.marks import marks, meanings
from bench.measuring import Measured
from bench.memory import GROWING_SERVERS
from bench.plan import Cell
from bench.processes import ENVOY
from bench.ratios import COMPARISONS, Ratio, ratios
from bench.rendering import Table, as_markdown, as_text, number
from bench.results import MEBIBYTE, Results
from bench.store_tables import store_summary, store_tables
from bench.workflow_tables import projection_table, workflow_tables

DISTURBED_CORES = 0.15
"""Cores used by other programs from which on the report says so."""


def tables(results: Results) -> list[Table]:
    """Whatever was measured; the budgets always."""
    made = [
        _budgets(budgets(results)),
        _ratios(ratios(results.measured)),
        _ratios_elsewhere(results),
        *workflow_tables(results),
        projection_table(results),
        *store_tables(results),
        *(_requests(results, cell) for cell in results.cells),
        _beside(results),
        _rows(results),
        _growth(results),
        _idle(results),
        _starts(results),
        _imports(results),
    ]
    return [table for table in made if table.rows]


def render_text(results: Results) -> str:
    """For a terminal; the stores in short come last, as Markdown to be pasted into the README."""
    summary = store_summary(results)
    to_paste = [as_markdown(summary)] if summary.rows else []
    return "\n\n".join((*_head(results), *(as_text(table) for table in tables(results)), *to_paste)) + "\n"


def render_markdown(results: Results, plot: str = "") -> str:
    """For a file that is read on a page; ``plot`` is the name of a picture beside it."""
    picture = [f"![Requests a second]({plot})"] if plot else []
    shown = [table for table in (*tables(results), store_summary(results)) if table.rows]
    return "\n\n".join(("# Benchmark", *_head(results), *picture, *(as_markdown(table) for table in shown))) + "\n"


def _head(results: Results) -> list[str]:
    """The machine, and whatever a reader has to know before the first number."""
    head = [results.machine]
    if results.plan.quick:
        head.append("!! A quick run: few and short rounds, to see that all works. Not to be quoted.")
    if results.other_cores >= DISTURBED_CORES:
        head.append(
            f"!! Disturbed: programs outside this measurement used {results.other_cores:.1f} cores meanwhile (median)."
            " CPU per request suffers least; throughput and latency want a quiet machine."
        )
    head += [f"!! Missing: {server}: {reason}" for server, reason in results.missing.items()]
    head += [results.warning] if results.warning else []
    head += [f"!! Failed: {failure.splitlines()[0]}" for failure in results.failures]
    return head


def _budgets(found: Sequence[Budget]) -> Table:
    rows = [
        (
            budget.what,
            f"{'≥' if budget.at_least else '≤'} {number(budget.limit)} {budget.unit}",
            "-" if budget.found is None else f"{number(budget.found)} {budget.unit}",
            budget.verdict,
        )
        for budget in found
    ]
    return Table("Budgets", ("what", "budget", "found", ""), rows)


def _ratios(found: Sequence[Ratio]) -> Table:
    rows = [
        (
            " ".join((_pair(ratio), *marks(ratio.row, ratio.baseline))),
            f"{ratio.of_medians:.2f}",
            f"{ratio.lowest:.2f}-{ratio.highest:.2f}",
            f"{ratio.cpu:.2f}",
        )
        for ratio in found
    ]
    title = f"Ratios: {found[0].row.cell.title}" if found else ""
    notes = [
        "Throughput: higher is better. CPU per request, all server processes: lower is better.",
        *meanings(*(row for ratio in found for row in (ratio.row, ratio.baseline))),
    ]
    return Table(title, ("row ÷ baseline", "throughput", "single rounds", "CPU"), rows, notes)


def _ratios_elsewhere(results: Results) -> Table:
    cells = [cell for cell in results.cells if not cell.main]
    found = {
        (ratio.row.case.key, ratio.baseline.case.key, index): ratio
        for index, cell in enumerate(cells)
        for ratio in ratios(results.measured, cell)
    }
    titles = {key[:2]: _pair(ratio) for key, ratio in found.items()}
    rows = [
        (titles[pair], *(_throughput_ratio(found.get((*pair, index))) for index in range(len(cells))))
        for pair in COMPARISONS
        if pair in titles
    ]
    columns = (f"{cell.document.name} at {cell.load.in_flight}" for cell in cells)
    notes = [
        "By requests a second; 2 KB at 256 is documents of 2 KB on 256 connections.",
        "! Calls failed in one of the two.",
    ]
    return Table("Ratios of throughput elsewhere", ("row ÷ baseline", *columns), rows, notes)


def _throughput_ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio.of_medians:.2f}{'!' if ratio.row.failed or ratio.baseline.failed else ''}"


def _pair(ratio: Ratio) -> str:
    return f"{ratio.row.case.title} ÷ {ratio.baseline.case.title}"


def _requests(results: Results, cell: Cell) -> Table:
    measured = results.in_cell(cell)
    columns = ("case", "req/s", "lowest-highest", "p50 ms", "p99 ms", "CPU µs", "in Envoy", "failed", "generator")
    notes = _notes_on_requests(results, cell) if cell.main else [_rounds(cell)]
    rows = [_request_row(row) for row in measured]
    return Table(f"Requests: {cell.title}", columns, rows, [*notes, *meanings(*measured)])


def _notes_on_requests(results: Results, cell: Cell) -> list[str]:
    log = "a log line for each call, as installed" if results.log_level == "info" else "no log lines for calls"
    return [
        f"Every row asks for one task in the same SQLite file of {results.stored_tasks:,}, of one serving process.",
        "The Envoy in front of grpcio has a thread for each CPU, as installed; all other Envoys have one.",
        "Go and Java use as many threads as they like.",
        _rounds(cell),
        "Connections are HTTP/1.1; gRPC has as many calls in flight on fewer connections, up to eight on each.",
        "Latency at full load is calls in flight ÷ throughput: compare it within the table, do not quote it.",
        "CPU time is the server's, per request, all its processes; the generator shares the cores.",
        f"taskgate writes {log}, and checks IDs and documents; Conductor is as installed, the other peers do neither.",
    ]


def _rounds(cell: Cell) -> str:
    each = f"{cell.load.seconds:g} s" if cell.load.requests is None else f"{cell.load.requests} calls"
    rounds = f"Medians of {cell.rounds} interleaved rounds of {each}." if cell.rounds > 1 else f"One round of {each}."
    counted = next((load for case in CASES if (load := case.load(cell.document, cell.load)) != cell.load), None)
    return rounds if counted is None else f"{rounds} GetTask: of {counted.requests} calls, however long they take."


def _request_row(row: Measured) -> tuple[str, ...]:
    title = " ".join((row.case.title, *marks(row)))
    failed = f"{row.errors:,}" if not row.problems else f"{row.errors:,} and {len(row.problems)} rounds"
    if not row.samples:
        return (title, "-", "-", "-", "-", "-", "-", failed, row.generator)
    rates = row.rates.values()
    envoy = row.cpu_us(ENVOY)
    return (
        title,
        _rate(row.rate),
        f"{_rate(min(rates))}-{_rate(max(rates))}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.total_cpu_us:,.0f}",
        "-" if envoy is None else f"{envoy:,.0f}",
        failed,
        row.generator,
    )


def _rate(value: float) -> str:
    """Requests a second; slow ones are of documents of 10 MB."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _beside(results: Results) -> Table:
    columns = ["server"]
    rows = []
    for title in dict.fromkeys(beside.title for beside in results.beside):
        cells = [title]
        for state in STATES:
            beside = state_of(results.beside, title, state)
            cells += ["-", "-"] if beside is None else [_milliseconds(beside.p50_ms), _milliseconds(beside.p99_ms)]
            cells[-1] += "!" if beside is not None and beside.problems else ""
        readers = state_of(results.beside, title, READERS)
        rates = readers.large_rates if readers else []
        rows.append((*cells, f"{statistics.median(rates):.0f}" if rates else "-"))
    for state in ("alone", "32 readers", "typed"):
        columns += [f"p50 {state}", f"p99 {state}"]
    notes = [
        f"Milliseconds of 2 KB REST reads on {SMALL_CONNECTIONS} connections: {ALONE}; {READERS}; {TYPED}.",
        "10 MB/s is how many of those large reads were answered a second.",
        "! Calls failed.",
    ]
    return Table("Small reads beside large ones", (*columns, "10 MB/s"), rows, notes)


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _rows(results: Results) -> Table:
    rows = [(f"{among.rows:,}", f"{among.p50_ms:.3f}", f"{among.p99_ms:.3f}") for among in results.rows]
    notes = [
        "REST inside Envoy, one call at a time, IDs drawn from all rows; a file and a server for each number of rows."
    ]
    return Table("Latency by number of rows of 200 bytes", ("rows", "p50 ms", "p99 ms"), rows, notes)


def _growth(results: Results) -> Table:
    rows = [
        (
            GROWING_SERVERS[growth.server],
            *(f"{peak / MEBIBYTE:,.0f}" for peak in growth.peaks),
            _settled(growth.settled),
        )
        for growth in results.growth
        if growth.peaks
    ]
    runs = max((len(growth.peaks) for growth in results.growth), default=0)
    rows = [(*row[:-1], *["-"] * (runs + 2 - len(row)), row[-1]) for row in rows]
    columns = ("MiB, all processes of the server", *(f"run {number + 1}" for number in range(runs)), "at rest after")
    return Table("Most memory while 32 clients read 10 MB, run after run", columns, rows)


def _settled(settled: Sequence[int]) -> str:
    """After the first run, and after the last."""
    return " ".join(f"{settled[index] / MEBIBYTE:,.0f}" for index in (0, -1)) if settled else "-"


def _idle(results: Results) -> Table:
    rows = [
        (f"{server}: {part}" if part != server else server, f"{size / MEBIBYTE:,.0f}")
        for server, parts in results.idle.items()
        for part, size in parts.items()
    ]
    return Table("Resident memory, idle", ("process", "MiB"), rows)


def _starts(results: Results) -> Table:
    rows = [(f"taskgate up --transport {name}", f"{value:.2f}") for name, value in results.start_seconds.items()]
    return Table("Start to first answer", ("command", "seconds"), rows)


def _imports(results: Results) -> Table:
    rows = [
        (
            f"{run.tasks:,} tasks, {run.file_bytes / MEBIBYTE:,.0f} MiB of NDJSON",
            f"{run.rate:,.0f}",
            f"{run.seconds:.2f}",
            f"{run.cpu_seconds:.2f}",
            f"{run.peak_bytes / MEBIBYTE:,.0f}",
        )
        for run in results.imports
    ]
    columns = ("taskgate import", "tasks/s", "seconds", "CPU seconds", "peak MiB")
    notes = ["Of the whole command, its start included; the budget is about the difference of the two."]
    return Table("Import into SQLite", columns, rows, notes)
