"""What follows from two rows of one run: throughput and CPU time of one, divided by those of the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.measuring import Measured
from bench.plan import Cell

COMPARISONS = (
    ("envoy-rest", "grpcio-rest"),
    ("envoy-rest", "fastapi"),
    ("envoy-rest", "fastapi-inline"),
    ("envoy-rest", "envoy-direct"),
    ("envoy-rest", "go-rest"),
    ("envoy-rest", "go-rest-inline"),
    ("envoy-rest", "conductor"),
    ("envoy-hop-rest", "envoy-direct"),
    ("envoy-json", "echo"),
    ("envoy-json", "grpcio-json"),
    ("envoy-json", "go-json"),
    ("envoy-hop-grpc", "echo"),
    ("envoy-typed", "echo"),
    ("envoy-typed", "grpcio-typed"),
    ("envoy-typed", "go-typed"),
    ("grpcio-rest", "fastapi"),
    ("grpcio-json", "echo"),
    ("grpcio-via-envoy", "grpcio-json"),
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


def ratios(measured: Sequence[Measured], cell: Cell | None = None) -> list[Ratio]:
    """Every comparison of which both rows were measured in ``cell`` (None: the main one) and share a round."""
    rows = {m.case.key: m for m in measured if (m.cell.main if cell is None else m.cell == cell) and m.samples}
    pairs = [(rows[key], rows[base]) for key, base in COMPARISONS if key in rows and base in rows]
    return [compare(row, baseline) for row, baseline in pairs if row.rates.keys() & baseline.rates.keys()]


def compare(row: Measured, baseline: Measured) -> Ratio:
    """Divide ``row`` by ``baseline``; single rounds are divided pairwise, since they ran within the same seconds."""
    pairs = [row.rates[number] / baseline.rates[number] for number in row.rates.keys() & baseline.rates.keys()]
    return Ratio(
        row=row,
        baseline=baseline,
        of_medians=row.rate / baseline.rate,
        lowest=min(pairs),
        highest=max(pairs),
        cpu=row.total_cpu_us / baseline.total_cpu_us,
    )
