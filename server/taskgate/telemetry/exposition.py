"""Write what a node has measured in Prometheus' text format, with the families of ``prometheus_client``."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.utils import floatToGoString

from taskgate.telemetry.block import Totals

_KINDS: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "untyped": UnknownMetricFamily,
}


def metrics(totals: Totals) -> Iterator[Metric]:
    """Turn sums into families of the library."""
    for family, series in totals.values():
        made = _KINDS[family.kind](family.name, family.help, labels=family.labels)
        for labels, numbers in series.items():
            if family.kind == "histogram":
                *counts, seconds = numbers
                bounds = [*map(floatToGoString, family.buckets), "+Inf"]
                made.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), seconds)
            else:
                made.add_metric(labels, numbers[0])
        yield made


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value)
