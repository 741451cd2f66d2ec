"""Interleaved rounds: every case once a round, so that a disturbance of the machine falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.cases import Case
from bench.errors import BenchError
from bench.loads import Generator, Generators, Load, LoadResult
from bench.plan import Cell
from bench.processes import ServerProcess, cpu_spent, machine_cpu_seconds
from bench.servers import Server
from bench.targets import Target, check

GENERATOR_FULL = 0.9
"""Cores that a one-threaded generator uses when it has become the limit itself."""


_WARM_UP_CALLS = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round.

    ``cpu_us`` is CPU time per request of the server by kind of process, ``database_us`` that of the databases which it
    asks; ``other_cores`` is what everything else on the machine used meanwhile, on average: programs that have nothing
    to do with the measurement.
    """

    round: int
    load: LoadResult
    cpu_us: Mapping[str, float]
    other_cores: float = 0.0
    database_us: float = 0.0


@dataclass(slots=True)
class Measured:
    """A case in a cell, and what every round saw of it; ``problems`` are sentences about rounds that saw nothing."""

    case: Case
    cell: Cell
    generator: str
    saturates: bool
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def rates(self) -> dict[int, float]:
        """Requests a second by number of the round."""
        return {sample.round: sample.load.rate for sample in self.samples}

    @property
    def rate(self) -> float:
        """Median requests a second."""
        return statistics.median(self.rates.values())

    @property
    def p50_ms(self) -> float:
        """Median over the rounds of each round's 50th percentile."""
        return statistics.median(sample.load.p50_ms for sample in self.samples)

    @property
    def p99_ms(self) -> float:
        """Median over the rounds of each round's 99th percentile."""
        return statistics.median(sample.load.p99_ms for sample in self.samples)

    @property
    def errors(self) -> int:
        """Calls that failed, over all rounds; a row with any is not a measurement."""
        return sum(sample.load.errors for sample in self.samples)

    @property
    def failed(self) -> bool:
        """Whether a call, an answer or a whole round was not as it must be."""
        return bool(self.errors or self.problems)

    @property
    def generator_is_full(self) -> bool:
        """Whether the generator used up its core, so that the server may be faster than the row says."""
        return statistics.median(sample.load.generator_cores for sample in self.samples) >= GENERATOR_FULL

    def cpu_us(self, kind: str) -> float | None:
        """Median CPU microseconds per request of one kind of process; None if the server has none of that kind."""
        values = [sample.cpu_us[kind] for sample in self.samples if kind in sample.cpu_us]
        return statistics.median(values) if values else None

    @property
    def total_cpu_us(self) -> float:
        """Median CPU microseconds per request of all of the server's processes together."""
        return statistics.median(sum(sample.cpu_us.values()) for sample in self.samples)

    @property
    def database_us(self) -> float:
        """Median CPU microseconds per request of the databases that the server asks; 0 if it asks none."""
        return statistics.median(sample.database_us for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Subject:
    """A case with its server running and its generator chosen; ``measured`` is what will be known of it."""

    measured: Measured
    target: Target
    process: ServerProcess
    generator: Generator
    databases: Sequence[ServerProcess] = ()


def prepare(
    cases: Iterable[Case], cell: Cell, servers: Mapping[str, Server], generators: Generators
) -> tuple[list[Subject], list[Measured]]:
    """Those of ``cases`` that are measured in ``cell`` and have given their right answer once; those that have not."""
    subjects, failed = [], []
    for case in cases:
        if case.server not in servers or not case.suits(cell.document, cell.load.in_flight):
            continue
        if not (cell.main or case.everywhere):
            continue
        server = servers[case.server]
        measured = Measured(case, cell, "", saturates=True)
        try:
            with server.process.awake():
                target = right_answer(case, server, cell)
        except BenchError as error:
            measured.problems.append(str(error))
            failed.append(measured)
            continue
        generator = generators.choose(target)
        measured.generator, measured.saturates = generator.name, generator.saturates
        subjects.append(Subject(measured, target, server.process, generator, server.databases))
    return subjects, failed


def right_answer(case: Case, server: Server, cell: Cell) -> Target:
    """The target, once it has answered right; raises BenchError if it does not."""
    targets: list[Target] = []

    def answers() -> None:
        target = case.target(server, cell.document)
        check(target)
        targets.append(target)

    server.process.wait_until(answers)
    return targets[0]


def measure(subjects: Sequence[Subject], cell: Cell, progress: Callable[[str], None]) -> list[Measured]:
    """Run all rounds of a cell, then ask for every answer once more."""
    for number in range(cell.rounds):
        # Every other round backwards: no case always follows the same one.
        for subject in reversed(subjects) if number % 2 else subjects:
            progress(_try_round(subject, cell, number))
    for subject in subjects:
        try:
            with subject.process.awake():
                check(subject.target)
        except BenchError as error:
            subject.measured.problems.append(f"after the last round: {error}")
    return [subject.measured for subject in subjects]


def _try_round(subject: Subject, cell: Cell, number: int) -> str:
    """One case in one round, its sample or problem kept; returns what happened, in a line."""
    measured = subject.measured
    head = f"{cell.title}: round {number + 1} of {cell.rounds}: {measured.case.title}"
    try:
        with subject.process.awake():
            sample = measure_once(subject, cell, number)
    except BenchError as error:
        measured.problems.append(f"round {number + 1}: {error}")
        _let_recover(subject)
        return f"{head}: FAILED: {error}"
    measured.samples.append(sample)
    errors = f", {sample.load.errors} FAILED" if sample.load.errors else ""
    return f"{head}: {sample.load.rate:,.0f} req/s{errors}"


def _let_recover(subject: Subject) -> None:
    """Wait until a server that failed answers again, so that the next round measures it and not its recovery."""
    try:
        with subject.process.awake():
            subject.process.wait_until(partial(check, subject.target))
    except BenchError as error:
        subject.measured.problems.append(str(error))


def measure_once(subject: Subject, cell: Cell, number: int) -> Sample:
    """One case in one round: warm up, then count. Raises BenchError if there was not one right answer."""
    load = subject.measured.case.load(cell.document, cell.load)
    if load.requests is None:
        subject.generator.run(subject.target, Load(load.in_flight, cell.warm_up))
    else:  # large answers: a few are enough to have every buffer there is, and many would take as long as the round
        calls = min(_WARM_UP_CALLS, load.in_flight)
        subject.generator.run(subject.target, Load(calls, cell.warm_up, calls))
    meter = _Meter(subject)
    result = subject.generator.run(subject.target, load)
    spent, asked, other_cores = meter.read(result.generator_cpu_seconds)
    if not result.requests:
        raise BenchError(f"{result.errors} calls failed, and there was not one right answer")
    calls = result.requests + result.errors
    cpu_us = {kind: seconds * 1e6 / calls for kind, seconds in spent.items()}
    return Sample(number, result, cpu_us, other_cores, asked * 1e6 / calls)


class _Meter:
    """CPU time from its making to its reading."""

    def __init__(self, subject: Subject) -> None:
        self._process, self._databases = subject.process, subject.databases
        self._wall, self._own, self._machine = time.monotonic(), time.process_time(), machine_cpu_seconds()
        self._server, self._asked = self._process.cpu_seconds(), self._database_seconds()

    def read(self, generator_seconds: float) -> tuple[dict[str, float], float, float]:
        """Seconds by kind of the server's processes, seconds of its databases, and cores that were used otherwise.

        Otherwise: by none of these, nor by the generator, nor by us.
        """
        spent, asked = cpu_spent(self._server, self._process.cpu_seconds()), self._database_seconds() - self._asked
        wall, own = time.monotonic() - self._wall, time.process_time() - self._own
        other = machine_cpu_seconds() - self._machine - own - generator_seconds - sum(spent.values()) - asked
        return spent, asked, max(0.0, other / wall)

    def _database_seconds(self) -> float:
        return sum(sum(database.cpu_seconds().seconds.values()) for database in self._databases)
