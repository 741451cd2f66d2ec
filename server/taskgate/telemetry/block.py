"""Share numbers between processes: one writes them to a block of shared memory, another reads them at any time.

A server process adds to its numbers in 50 ns each, without a lock. Its supervisor reads them directly, even while the
process hangs or after it was killed. The reader needs no knowledge of the families, so a process that was restarted
after an upgrade may have others.
"""

import mmap
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

_NUMBER: Final = 8  # bytes of a float
_MOST_BYTES: Final = 1 << 20


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Series that share a name, a meaning and label names, as Prometheus defines a metric family."""

    name: str
    """For a counter, without the ending ``_total``."""

    kind: Literal["counter", "gauge", "histogram", "untyped"]
    """"untyped" is for a foreign counter whose name does not end as Prometheus wants."""
    help: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    """The label values of each series. All are known in advance, so that no caller can add one."""

    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, without the last one, which is infinite."""

    @property
    def width(self) -> int:
        """How many numbers a series has: one, or for a histogram one for each bucket and the sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


Totals = dict[str, tuple[Family, dict[tuple[str, ...], list[float]]]]
"""Numbers by name and label values. A histogram's are its buckets, each for itself, and the sum of all values."""

_decode = msgspec.json.Decoder(list[Family]).decode


def new_descriptor() -> int:
    """Return the descriptor of a new, empty file in memory, which a child process may inherit."""
    if sys.platform == "linux":
        return os.memfd_create("taskgate-metrics")
    with tempfile.TemporaryFile() as file:  # macOS has no files in memory; this one has no name
        return os.dup(file.fileno())


class Block:
    """The writing end. ``numbers[place] += 1`` counts; ``place`` says where a series is."""

    def __init__(self, families: Sequence[Family], descriptor: int) -> None:
        """Describe ``families`` in the file ``descriptor``, with all numbers 0."""
        description = msgspec.json.encode(families)
        start = _round_up(_NUMBER + len(description))
        size = start + _NUMBER * sum(family.width * len(family.series) for family in families)
        os.ftruncate(descriptor, size)
        memory = memoryview(mmap.mmap(descriptor, size))
        memory[_NUMBER : _NUMBER + len(description)] = description
        self.numbers: memoryview[float] = memory[start:].cast("d")
        memory[:_NUMBER] = len(description).to_bytes(_NUMBER, "little")  # last: a reader waits for it
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        place = 0
        for family in families:
            for labels in family.series:
                self._places[family.name, labels] = place
                place += family.width

    def place(self, name: str, *labels: str) -> int:
        """Return the index of a series, of its first bucket if it is a histogram."""
        return self._places[name, labels]


class BlockReader:
    """The reading end."""

    def __init__(self, descriptor: int) -> None:
        """Read the file ``descriptor``, which this object closes."""
        self._descriptor = descriptor
        self._families: list[Family] = []
        self._numbers: memoryview[float] | None = None

    def read(self) -> Totals:
        """Return a copy of the numbers; it is empty before the writer has described them."""
        if self._numbers is None and not self._map():
            return {}
        assert self._numbers is not None  # noqa: S101 - it is mapped
        numbers = list(self._numbers)
        totals: Totals = {}
        place = 0
        for family in self._families:
            series = {}
            for labels in family.series:
                series[labels] = numbers[place : place + family.width]
                place += family.width
            totals[family.name] = family, series
        return totals

    def close(self) -> None:
        """Release the file; ``read`` must not be called any more."""
        self._numbers = None
        os.close(self._descriptor)

    def _map(self) -> bool:
        size = os.fstat(self._descriptor).st_size
        if not _NUMBER < size <= _MOST_BYTES:
            return False
        memory = memoryview(mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ))
        length = int.from_bytes(memory[:_NUMBER], "little")
        if not length:
            return False
        self._families = _decode(memory[_NUMBER : _NUMBER + length])
        self._numbers = memory[_round_up(_NUMBER + length) :].cast("d")
        return True


def add(totals: Totals, more: Mapping[str, tuple[Family, Mapping[tuple[str, ...], Sequence[float]]]]) -> None:
    """Add ``more`` to ``totals``. A family that has other buckets than before begins anew."""
    for name, (family, series) in more.items():
        known, sums = totals.get(name, (family, {}))
        if known.width != family.width or known.labels != family.labels:
            sums = {}
        totals[name] = family, sums
        for labels, numbers in series.items():
            before = sums.get(labels)
            sums[labels] = list(numbers) if before is None else [a + b for a, b in zip(before, numbers, strict=True)]


def without_gauges(totals: Totals) -> Totals:
    """Return what stays when a process ends."""
    return {name: value for name, value in totals.items() if value[0].kind != "gauge"}


def _round_up(size: int) -> int:
    return (size + _NUMBER - 1) // _NUMBER * _NUMBER
