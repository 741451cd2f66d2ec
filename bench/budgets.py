"""What taskgate promises of itself, and whether this run kept it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.commands import Import
from bench.memory import GROWING_SERVERS
from bench.plan import MOST_ROWS
from bench.projection import JSON, PROJECTION
from bench.ratios import compare
from bench.results import MEBIBYTE, Results
from bench.workflows import AGAIN, IMPORTED, INSIDE


@dataclass(frozen=True, slots=True)
class Budget:
    """A promise and what was found: ``found`` has to be at most ``limit``, or at least if ``at_least``.

    None if nothing was measured that says so. ``failed`` if calls failed in what was.
    """

    what: str
    unit: str
    limit: float
    found: float | None
    at_least: bool = False
    failed: bool = False

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.failed:
            return "MISSED: calls failed"
        if self.found is None:
            return "not measured"
        met = self.found >= self.limit if self.at_least else self.found <= self.limit
        return "met" if met else "MISSED"


ROWS_LIMIT = 1.15
START_SECONDS = 3.0
IDLE_MEBIBYTES = 150.0
GROWTH_LIMIT = 1.10
"""No growth: what peaks of equal runs differ by chance is allowed."""

IMPORT_RATE = 30_000.0
CONVERSION_LIMIT = 0.9
PROJECTION_LIMIT = 0.9
IMPORT_GROWTH = 1.25
"""Flat memory: a third of the tasks fills the caches, after which more tasks must not take more memory."""


def budgets(results: Results) -> list[Budget]:
    """Every promise, measured or not."""
    return [
        _throughput(
            results, "REST, Python inside Envoy ÷ Envoy to one grpc.aio process", 3.0, "envoy-rest", "grpcio-rest"
        ),
        _throughput(
            results,
            "the same ÷ FastAPI on uvicorn, the faster way to read",
            2.0,
            "envoy-rest",
            "fastapi",
            "fastapi-inline",
        ),
        _throughput(results, "the same ÷ Envoy direct_response of the same body", 0.45, "envoy-rest", "envoy-direct"),
        _throughput(results, "gRPC GetTaskJson, Python inside Envoy ÷ empty grpc.aio echo", 4.0, "envoy-json", "echo"),
        _rows(results),
        Budget(
            "taskgate up to first answered request",
            "s",
            START_SECONDS,
            max(results.start_seconds.values(), default=None),
        ),
        Budget("memory of one Envoy with Python inside, idle", "MiB", IDLE_MEBIBYTES, _idle_envoy(results)),
        _growth(results),
        *_imports(results.imports),
        _projection(results),
        _conversions(results),
    ]


def sustained_rate(smaller: Import, larger: Import) -> float:
    """Tasks a second that ``larger`` took beyond ``smaller``, so without the start of the command."""
    more_seconds = larger.seconds - smaller.seconds
    return (larger.tasks - smaller.tasks) / more_seconds if more_seconds > 0 else larger.rate


def _throughput(results: Results, what: str, limit: float, key: str, *baselines: str) -> Budget:
    """Of the main cell; the fastest of several baselines counts."""
    rows = {row.case.key: row for row in results.measured if row.cell.main}
    row = rows.get(key)
    others = [rows[name] for name in baselines if name in rows]
    usable = [other for other in others if other.samples]
    if row is None or not usable:
        return Budget(what, "times", limit, None, at_least=True, failed=row is not None and row.failed)
    fastest = max(usable, key=lambda other: other.rate)
    found = compare(row, fastest).of_medians if row.samples and row.rates.keys() & fastest.rates.keys() else None
    return Budget(what, "times", limit, found, at_least=True, failed=row.failed)


def _rows(results: Results) -> Budget:
    measured = sorted(results.rows, key=lambda among: among.rows)
    promised = MOST_ROWS[-1]
    if len(measured) < 2:
        return Budget(f"p50 among {promised:,} rows of 200 bytes ÷ among {MOST_ROWS[0]:,}", "times", ROWS_LIMIT, None)
    least, most = measured[0], measured[-1]
    what = f"p50 among {most.rows:,} rows of 200 bytes ÷ among {least.rows:,}"
    if most.rows < promised:
        what += f" (promised up to {promised:,}: --most-rows)"
    failed = any(among.errors for among in measured)
    return Budget(what, "times", ROWS_LIMIT, most.p50_ms / least.p50_ms, failed=failed)


def _idle_envoy(results: Results) -> float | None:
    envoy = results.idle.get("taskgate-envoy", {}).get("envoy")
    return None if envoy is None else envoy / MEBIBYTE


def _growth(results: Results) -> Budget:
    what = "its memory while 32 clients read 10 MB, later runs ÷ earlier runs"
    name = next(iter(GROWING_SERVERS))
    growth = next((growth for growth in results.growth if growth.server == name), None)
    if growth is None:
        return Budget(what, "times", GROWTH_LIMIT, None)
    return Budget(what, "times", GROWTH_LIMIT, growth.ratio, failed=bool(growth.problems))


def _conversions(results: Results) -> Budget:
    """Of the main cell: what it costs to make answers of Conductor's rows, once each has been asked for."""
    rows = {row.case.key: row for row in results.workflows if row.cell.main}
    made, stored = (rows.get(f"{subject}: {AGAIN}") for subject in (INSIDE, IMPORTED))
    what = "tasks of real workflows asked again, layout conductor ÷ layout taskgate"
    found = compare(made, stored).of_medians if made and stored and made.samples and stored.samples else None
    return Budget(what, "times", CONVERSION_LIMIT, found, at_least=True, failed=bool(made and made.failed))


def _projection(results: Results) -> Budget:
    """Over all rows of real workflows, by CPU time."""
    times = {times.subject: times.total_us for times in results.projection}
    found = times[PROJECTION] / times[JSON] if times else None
    return Budget(f"making documents of rows of real workflows ÷ {JSON} of them", "times", PROJECTION_LIMIT, found)


def _imports(imports: Sequence[Import]) -> list[Budget]:
    smallest, largest = (imports[0], imports[-1]) if imports else (None, None)
    rate = sustained_rate(smallest, largest) if smallest and largest else None
    growth = largest.peak_bytes / smallest.peak_bytes if smallest and largest else None
    memory = "peak memory of importing " + (
        f"{largest.tasks:,} tasks ÷ {smallest.tasks:,}" if smallest and largest else "three times as many tasks"
    )
    return [
        Budget("import of 1.9 KB tasks into SQLite, sustained", "tasks/s", IMPORT_RATE, rate, at_least=True),
        Budget(memory, "times", IMPORT_GROWTH, growth),
    ]
