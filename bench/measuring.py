"""Measure in interleaved rounds: every case once a round, so that other load on the machine affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from bench.cases import Case
from bench.loads import Load, LoadResult, run
from bench.servers import Server
from bench.targets import Target, check
from bench.tasks import LARGE, MIDDLE, Document
from bench.usage import cpu_seconds
from tools.processes import Failed

MAIN_CONNECTIONS = 32

_LARGE_REQUESTS = 96
"""Calls in a round with several connections and the largest document; at least one for each connection."""

_WARM_UP_SECONDS, _WARM_UP_CALLS = 0.3, 8

_HEAD_START = 0.3
"""Seconds that a load beside another starts before it, and continues after it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of a run: ``rounds`` and ``seconds`` of every cell; None for each part's own."""

    documents: Sequence[Document]
    connections: Sequence[int]
    quick: bool = False
    rounds: int | None = None
    seconds: float | None = None

    def cell(self, document: Document, in_flight: int, rounds: int, seconds: float) -> "Cell":
        """Return a cell with the part's own rounds and seconds, unless the options override them."""
        requests = max(_LARGE_REQUESTS, in_flight) if document is LARGE and in_flight > 1 else None
        load = Load(in_flight, self.seconds or (min(seconds, 1.0) if self.quick else seconds), requests)
        return Cell(document, load, self.rounds_of(rounds))

    def rounds_of(self, rounds: int) -> int:
        """Return the rounds to measure, with ``rounds`` as the default."""
        return self.rounds or (1 if self.quick else rounds)


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load, for every case in turn."""

    document: Document
    load: Load
    rounds: int

    @property
    def main(self) -> bool:
        """Whether it has all cases: the cell of small documents, in which everything is compared."""
        return self.load.in_flight == MAIN_CONNECTIONS and self.document not in (MIDDLE, LARGE)

    def __str__(self) -> str:
        return f"{self.document.name}, {self.load.in_flight} in flight"


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round, with CPU microseconds per request of the server and of its databases."""

    round: int
    load: LoadResult
    cpu_us: float
    database_us: float


@dataclass(slots=True)
class Row:
    """A case in a cell, and its results of all rounds; ``problems`` are sentences about rounds without a result."""

    case: Case
    cell: Cell
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def rates(self) -> dict[int, float]:
        """Requests a second by round number."""
        return {sample.round: sample.load.rate for sample in self.samples}

    @property
    def failures(self) -> list[str]:
        """A sentence for each kind of wrong answer; a row with any is not a measurement."""
        errors = sum(sample.load.errors for sample in self.samples)
        found = [f"{errors:,} calls failed"] if errors else []
        return [f"{self.case.title} ({self.cell}): {problem}" for problem in (*found, *self.problems)]

    @property
    def rate(self) -> float:
        """Median requests a second."""
        return self.median(lambda sample: sample.load.rate)

    @property
    def cpu_us(self) -> float:
        """Median CPU microseconds per request, of all the server's processes together."""
        return self.median(lambda sample: sample.cpu_us)

    def median(self, of: Callable[[Sample], float]) -> float:
        """Median of all rounds with a result."""
        return statistics.median(map(of, self.samples))


@dataclass(slots=True)
class _Subject:
    """A case with its running server, and its request after the first right answer."""

    row: Row
    server: Server
    target: Target = field(init=False)

    def begin(self) -> None:
        """Wait until the right answer comes. Raises Failed if it does not."""

        def answers() -> None:
            self.target = self.row.case.call(self.server, self.row.cell.document)
            check(self.target)

        self.server.process.wait_until(answers)


def measure(cases: Sequence[Case], cell: Cell, servers: Mapping[str, Server], say: Callable[[str], None]) -> list[Row]:
    """Measure all rounds of the ``cases`` that suit the cell and have a server, in that order.

    The answer of each is checked before and after.
    """
    subjects = [
        _Subject(Row(case, cell), servers[case.server])
        for case in cases
        if case.server in servers and case.suits(cell.document)
    ]
    asked = [subject for subject in subjects if _step(subject, "before the first round", subject.begin, say)]
    for number in range(cell.rounds):
        # Every other round runs backwards, so that no case always follows the same one.
        for subject in reversed(asked) if number % 2 else asked:
            _step(subject, f"round {number + 1} of {cell.rounds}", partial(_sample, subject, number), say)
    for subject in asked:
        _step(subject, "after the last round", partial(check, subject.target), say)
    return [subject.row for subject in subjects]


def _step(subject: _Subject, when: str, step: Callable[[], str | None], say: Callable[[str], None]) -> bool:
    """Run a step while the server is awake, and report its result; a failure becomes a problem of the row."""
    head = f"{subject.row.cell}: {when}: {subject.row.case.title}"
    try:
        with subject.server.process.awake():
            if (found := step()) is not None:
                say(f"{head}: {found}")
    except Failed as error:
        subject.row.problems.append(f"{when}: {error}")
        say(f"{head}: FAILED: {error}")
        return False
    return True


def _sample(subject: _Subject, number: int) -> str:
    """Warm up, then measure: keep a sample, and report it. Raises Failed without a single right answer."""
    load = subject.row.cell.load
    few = min(_WARM_UP_CALLS, load.in_flight)
    # A few large answers are enough to allocate every buffer.
    run(subject.target, Load(few, 1, few) if load.requests else Load(load.in_flight, _WARM_UP_SECONDS))
    both = ([subject.server.process], subject.server.databases)
    before = [cpu_seconds(processes) for processes in both]
    result = _run_beside(subject, load)
    used = [cpu_seconds(processes) - then for processes, then in zip(both, before, strict=True)]
    if not result.requests:
        raise Failed(f"{result.errors} calls failed, and not one was answered right in {result.seconds:.1f} s")
    cpu_us, database_us = (seconds * 1e6 / (result.requests + result.errors) for seconds in used)
    subject.row.samples.append(Sample(number, result, cpu_us, database_us))
    return f"{result.rate:,.0f} req/s" + (f", {result.errors:,} calls FAILED" if result.errors else "")


def _run_beside(subject: _Subject, load: Load) -> LoadResult:
    """Run the load, beside another one if the case has one. Raises Failed, also for that one."""
    if subject.row.case.beside is None:
        return run(subject.target, load)
    target, other = subject.row.case.beside(subject.server)
    with ThreadPoolExecutor(1) as thread:
        meanwhile = thread.submit(run, target, replace(other, seconds=load.seconds + 2 * _HEAD_START))
        time.sleep(_HEAD_START)
        result = run(subject.target, load)
    if errors := meanwhile.result().errors:
        raise Failed(f"{errors:,} of the calls beside it failed")
    return result
