"""Report the results of one run: tables, most important first, as Markdown that is printed and kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from bench.measuring import Row

_FAILED = " [FAILED]"
"""Follows the title of a row with failed calls or wrong answers, which is not a measurement."""


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, column names and cells; the first column is text, all others are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        align = ["left", *["right"] * (len(self.columns) - 1)]
        cells = tabulate(self.rows, self.columns, tablefmt="pipe", colalign=align, disable_numparse=True)
        return "\n".join(
            (f"## {self.title}", "", cells, *([""] if self.notes else []), *(f"- {n}" for n in self.notes))
        )


@dataclass(frozen=True, slots=True)
class Aim:
    """The ``found`` value must be at most ``limit``, or at least if ``at_least``; failed calls miss the aim."""

    what: str
    found: float
    limit: float
    unit: str = "times"
    at_least: bool = False
    failed: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table of aims."""
        met = not self.failed and (self.found >= self.limit if self.at_least else self.found <= self.limit)
        limit = f"{'≥' if self.at_least else '≤'} {self.limit:,g} {self.unit}"
        found = f"{self.found:,.0f}" if self.found >= 100 else f"{self.found:.2f}"
        return (self.what, limit, f"{found} {self.unit}", "met" if met else "MISSED")


@dataclass(slots=True)
class Report:
    """One run. ``left_out`` is what is not available here, with the reason; ``failures`` are sentences.

    ``say`` prints progress.
    """

    machine: str
    say: Callable[[str], None]
    warnings: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
        """Add the results of one cell: a table of its ``rows``, and one of their ratios, if any."""
        if not rows:
            return
        cell = rows[0].cell
        each = f"{cell.load.seconds:g} s" if cell.load.requests is None else f"{cell.load.requests} calls"
        rounds = (
            f"Medians of {cell.rounds} interleaved rounds of {each}." if cell.rounds > 1 else f"One round of {each}."
        )
        self.rows += rows
        self.failures += [failure for row in rows for failure in row.failures]
        ratios = _ratios(title, rows)
        if ratios.rows:
            self.tables.append(ratios)
        self.tables.append(_requests(title, rows, [*notes, rounds]))
        if cell.main:
            self.aims += _aims(rows)

    def fail(self, sentence: str) -> None:
        """Record what should have been measured but could not be."""
        self.failures.append(sentence)
        self.say(f"FAILED: {sentence}")

    def leave_out(self, what: str, reason: str) -> None:
        """Record what is not available on this machine."""
        self.left_out[what] = reason
        self.say(f"LEFT OUT: {what}: {reason}")

    def render(self, plot: str = "") -> str:
        """Return the whole report; ``plot`` is the name of a picture beside it."""
        head = ["# Benchmark", self.machine, *(f"!! {warning}" for warning in self.warnings)]
        head += [f"LEFT OUT: {name}: {reason}" for name, reason in self.left_out.items()]
        head += [f"!! Failed: {failure.splitlines()[0]}" for failure in self.failures]
        aims = [Table("Aims", ("what", "aim", "found", ""), [aim.cells for aim in self.aims])] if self.aims else []
        picture = [f"![Requests a second]({plot})"] if plot else []
        return "\n\n".join((*head, *picture, *map(str, (*aims, *self.tables)))) + "\n"


def ratio(row: Row, baseline: Row) -> tuple[float, float, float, float]:
    """Throughput of one row over that of another: of the medians, lowest and highest of single rounds; CPU likewise."""
    pairs = [row.rates[number] / baseline.rates[number] for number in row.rates.keys() & baseline.rates.keys()]
    return row.rate / baseline.rate, min(pairs), max(pairs), row.cpu_us / baseline.cpu_us


def _compared(rows: Sequence[Row]) -> list[tuple[Row, Row, float | None]]:
    """Return pairs of rows that share a round, with the aim of each."""
    found: Mapping[str, Row] = {row.case.key: row for row in rows}
    pairs = [(row, found[key], aim) for row in rows for key, aim in row.case.over.items() if key in found]
    return [(row, baseline, aim) for row, baseline, aim in pairs if row.rates.keys() & baseline.rates.keys()]


def _aims(rows: Sequence[Row]) -> list[Aim]:
    return [
        Aim(_pair(row, base), ratio(row, base)[0], aim, at_least=True, failed=bool(row.failures or base.failures))
        for row, base, aim in _compared(rows)
        if aim is not None
    ]


def _ratios(title: str, rows: Sequence[Row]) -> Table:
    cells = []
    for row, baseline, _ in _compared(rows):
        of_medians, lowest, highest, cpu = ratio(row, baseline)
        cells.append(
            (
                _pair(row, baseline) + _mark(row, baseline),
                f"{of_medians:.2f}",
                f"{lowest:.2f}-{highest:.2f}",
                f"{cpu:.2f}",
            )
        )
    notes = ["Calls a second: higher is better. CPU a call, all server processes: lower is better."]
    return Table(f"{title}: ratios", ("row ÷ baseline", "calls/s", "single rounds", "CPU"), cells, notes)


def _pair(row: Row, baseline: Row) -> str:
    return f"{row.case.title} ÷ {baseline.case.title}"


def _requests(title: str, rows: Sequence[Row], notes: Sequence[str]) -> Table:
    columns = ("case", "req/s", "lowest-highest", "p50 ms", "p99 ms", "CPU µs", "database µs")
    return Table(title, columns, [_request_cells(row) for row in rows], notes)


def _request_cells(row: Row) -> tuple[str, ...]:
    title = row.case.title + _mark(row)
    if not row.samples:
        return (title, *["-"] * 6)
    rates, database = row.rates.values(), row.median(lambda sample: sample.database_us)
    return (
        title,
        _rate(row.rate),
        f"{_rate(min(rates))}-{_rate(max(rates))}",
        f"{row.median(lambda sample: sample.load.p50_ms):.2f}",
        f"{row.median(lambda sample: sample.load.p99_ms):.2f}",
        f"{row.cpu_us:,.0f}",
        f"{database:,.0f}" if database else "-",
    )


def _rate(value: float) -> str:
    """Format requests a second; slow ones are of documents of 10 MB."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _mark(*rows: Row) -> str:
    return _FAILED if any(row.failures for row in rows) else ""
