"""Scrape a running system as Prometheus does."""

import http.client
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from support.running import Running

Labels = frozenset[tuple[str, str]]


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples: dict[tuple[str, Labels], float] = {}
        for family in self.families.values():
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self._samples, f"twice: {key}"
                self._samples[key] = sample.value

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples called ``name`` with at least these labels."""
        wanted = frozenset(labels.items())
        return sum(value for (found, has), value in self._samples.items() if found == name and wanted <= has)

    def by(self, name: str, *labels: str, **others: str) -> dict[tuple[str, ...], float]:
        """The sums of the samples called ``name`` by the values of ``labels``, without those that are 0."""
        sums: dict[tuple[str, ...], float] = {}
        for (found, has), value in self._samples.items():
            if found == name and frozenset(others.items()) <= has:
                values = tuple(dict(has)[label] for label in labels)
                sums[values] = sums.get(values, 0) + value
        return {key: value for key, value in sums.items() if value}

    def labels(self) -> dict[str, set[str]]:
        """The labels of each family that has samples; its name as queries have it, without a histogram's endings."""
        return {
            f"{family.name}_total" if family.type == "counter" else family.name: {
                label for sample in family.samples for label in sample.labels if label != "le"
            }
            for family in self.families.values()
            if family.samples
        }

    def series(self) -> set[str]:
        """The names that a query may use: those of all samples."""
        return {name for name, _ in self._samples}

    def counters(self) -> Iterator[tuple[tuple[str, Labels], float]]:
        """All samples that must never fall while the system runs."""
        for family in self.families.values():
            if family.type in {"counter", "histogram", "unknown"} and not family.name.startswith("process_"):
                for sample in family.samples:
                    yield (sample.name, frozenset(sample.labels.items())), sample.value


def metrics_address(system: Running) -> str:
    """Where a running command serves its metrics."""
    return system.wait_for(r'"address":"http://([^"/]+)/metrics"', in_log=True)[1]


def scrape(address: str, timeout: float = 10) -> Scrape:
    """What the endpoint says now."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        assert response.headers["content-type"].startswith("text/plain"), response.headers
        return Scrape(body)
    finally:
        connection.close()


def check_none_fell(scrapes: Iterable[Scrape]) -> None:
    """No counter of a scrape is below its value in the one before, and none is missing."""
    before: dict[Any, float] = {}
    for now in scrapes:
        values = dict(now.counters())
        fell = {key: (value, values.get(key)) for key, value in before.items() if values.get(key, -1) < value}
        assert not fell
        before = values
