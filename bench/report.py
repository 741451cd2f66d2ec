"""Results as tables, aligned for a terminal or as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.measuring import Measured
from bench.processes import ENVOY, PYTHON
from bench.results import MEBIBYTE, Budget, Ratio, Results, budgets, ratios

DISTURBED_CORES = 0.15
"""Cores used by other programs from which on the report says so."""

BUILT_IN_MARK, FULL_MARK, ERROR_MARK = "[1]", "[2]", "[ERRORS]"

_MEANING = {
    ERROR_MARK: "Calls failed or came back empty: not a measurement.",
    BUILT_IN_MARK: "Made with the built-in generator: the server may be much faster.",
    FULL_MARK: "The generator used up its own core: the server may be faster.",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, column names and cells; the first column is text, all others are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str] = ()


def tables(results: Results) -> list[Table]:
    """Whatever was measured, most important first."""
    made = [
        _requests(results),
        _ratios(ratios(results.measured)),
        _budgets(budgets(results)),
        _imports(results),
        _memory(results),
    ]
    return [table for table in made if table.rows]


def render_text(results: Results) -> str:
    """For a terminal."""
    return "\n\n".join((*_head(results), *(_text(table) for table in tables(results)))) + "\n"


def render_markdown(results: Results) -> str:
    """For a file that is read on a page."""
    return "\n\n".join((*_head(results), *(_markdown(table) for table in tables(results)))) + "\n"


def _head(results: Results) -> list[str]:
    """The machine, and a warning if it was not ours alone."""
    if results.other_cores < DISTURBED_CORES:
        return [results.machine]
    warning = (
        f"!! Disturbed: programs outside this measurement used {results.other_cores:.1f} cores while it ran (median)."
        " CPU per request suffers least; throughput and latency want a quiet machine."
    )
    return [results.machine, warning]


def _requests(results: Results) -> Table:
    plan, load = results.plan, results.plan.load
    log = "a log line for each call, as installed" if results.log_level == "info" else "no log lines for calls"
    notes = [
        f"Every row asks for one 1.9 KB task among {results.rows:,} in the same SQLite file, of one serving process.",
        "Envoy has a thread for each CPU in front of taskgate, as installed, and one thread where it answers itself.",
        f"Medians of {plan.rounds} interleaved rounds of {load.seconds:g} s each, {load.in_flight} calls in flight.",
        "Latency at full load is calls in flight ÷ throughput: compare it within the table, do not quote it.",
        "CPU time is the server's, per request. The generator shares the cores.",
        f"taskgate writes {log}; its peers write none.",
    ]
    notes += [f"{mark} {_MEANING[mark]}" for mark in _marks(*results.measured)]
    columns = ("case", "req/s", "lowest-highest", "p50 ms", "p99 ms", "Python µs", "Envoy µs", "errors", "generator")
    return Table("Requests", columns, [_request_row(row) for row in results.measured], notes)


def _request_row(row: Measured) -> tuple[str, ...]:
    return (
        " ".join((row.case.title, *_marks(row))),
        f"{row.rate:,.0f}",
        f"{min(row.rates):,.0f}-{max(row.rates):,.0f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        _microseconds(row.cpu_us(PYTHON)),
        _microseconds(row.cpu_us(ENVOY)),
        f"{row.errors:,}",
        row.generator,
    )


def _marks(*rows: Measured) -> list[str]:
    """What the notes explain of any of ``rows``."""
    marks = {
        ERROR_MARK: any(row.errors for row in rows),
        BUILT_IN_MARK: any(not row.saturates for row in rows),
        FULL_MARK: any(row.saturates and row.generator_is_full for row in rows),
    }
    return [mark for mark, applies in marks.items() if applies]


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _ratios(found: Sequence[Ratio]) -> Table:
    rows = [
        (
            " ".join((f"{ratio.row.case.title} ÷ {ratio.baseline.case.title}", *_marks(ratio.row, ratio.baseline))),
            f"{ratio.of_medians:.2f}",
            f"{ratio.lowest:.2f}-{ratio.highest:.2f}",
            f"{ratio.cpu:.2f}",
        )
        for ratio in found
    ]
    notes = ["Throughput: higher is better. CPU per request, all server processes: lower is better."]
    return Table("Ratios", ("row ÷ baseline", "throughput", "single rounds", "CPU"), rows, notes)


def _budgets(found: Sequence[Budget]) -> Table:
    rows = [
        (
            budget.what,
            f"{'≥' if budget.at_least else '≤'} {number(budget.limit)} {budget.unit}",
            f"{number(budget.found)} {budget.unit}",
            "met" if budget.met else "MISSED",
        )
        for budget in found
    ]
    return Table("Budgets", ("what", "budget", "found", ""), rows)


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
    return Table(
        "Import into SQLite",
        columns,
        rows,
        ["Of the whole command, its start included; the budget is about the difference of the two."],
    )


def _memory(results: Results) -> Table:
    rows = [
        (f"{server}: {part}" if part != server else server, f"{size / MEBIBYTE:,.0f}")
        for server, parts in results.memory.items()
        for part, size in parts.items()
    ]
    return Table("Resident memory, idle", ("process", "MiB"), rows)


def number(value: float) -> str:
    """A number with what matters of it: ``31,250``, ``12.5``, ``0.84``."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if abs(value) >= 10 else f"{value:.2f}".rstrip("0").removesuffix(".")


def _text(table: Table) -> str:
    cells = [table.columns, *table.rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join((table.title.upper(), lines[0], rule, *lines[1:], *table.notes))


def _markdown(table: Table) -> str:
    lines = [_markdown_row(table.columns), _markdown_row(["---", *["---:"] * (len(table.columns) - 1)])]
    lines += [_markdown_row(row) for row in table.rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join((f"## {table.title}", "", *lines, *([""] if notes else []), *notes))


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
