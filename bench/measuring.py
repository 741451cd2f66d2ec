"""Interleaved rounds: every case once a round, so that a disturbance of the machine falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.cases import Case
from bench.errors import BenchError
from bench.loads import Generator, Generators, Load, LoadResult
from bench.processes import ServerProcess, cpu_spent, machine_cpu_seconds
from bench.servers import Server
from bench.targets import Target, check

GENERATOR_FULL = 0.9
"""Cores that a one-threaded generator uses when it has become the limit itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long: ``rounds`` of ``load``, each after ``warm_up`` seconds that are not counted."""

    load: Load
    rounds: int
    warm_up: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round.

    ``cpu_us`` is CPU time per request of the server by kind of process; ``other_cores`` is what everything else on the
    machine used meanwhile, on average: programs that have nothing to do with the measurement.
    """

    load: LoadResult
    cpu_us: Mapping[str, float]
    other_cores: float = 0.0


@dataclass(slots=True)
class Measured:
    """A case and what every round saw of it."""

    case: Case
    generator: str
    saturates: bool
    samples: list[Sample] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Requests a second, round by round."""
        return [sample.load.rate for sample in self.samples]

    @property
    def rate(self) -> float:
        """Median requests a second."""
        return statistics.median(self.rates)

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


@dataclass(frozen=True, slots=True)
class Subject:
    """A case with its server running and its generator chosen."""

    case: Case
    target: Target
    process: ServerProcess
    generator: Generator


def prepare(cases: Iterable[Case], servers: Mapping[str, Server], generators: Generators) -> list[Subject]:
    """Wait until every case has had its right answer once.

    Raises BenchError if a server ends, or still answers something else after a while.
    """
    subjects = []
    for case in cases:
        server = servers[case.server]
        target = case.target(server)
        server.process.wait_until(partial(check, target))
        subjects.append(Subject(case, target, server.process, generators.choose(target)))
    return subjects


def measure(subjects: Sequence[Subject], plan: Plan, progress: Callable[[str], None]) -> list[Measured]:
    """Run all rounds, then ask for every answer once more.

    Raises BenchError if such an answer is wrong, if no call at all succeeds, or if a server or a generator fails.
    """
    measured = {s.case.key: Measured(s.case, s.generator.name, s.generator.saturates) for s in subjects}
    for number in range(plan.rounds):
        # Every other round backwards: no case always follows the same one.
        for subject in reversed(subjects) if number % 2 else subjects:
            sample = measure_once(subject, plan)
            measured[subject.case.key].samples.append(sample)
            progress(f"round {number + 1} of {plan.rounds}: {subject.case.title}: {sample.load.rate:,.0f} req/s")
    for subject in subjects:
        check(subject.target)
    return list(measured.values())


def measure_once(subject: Subject, plan: Plan) -> Sample:
    """One case in one round: warm up, then count."""
    subject.generator.run(subject.target, Load(plan.load.in_flight, plan.warm_up))
    meter = _Meter(subject.process)
    result = subject.generator.run(subject.target, plan.load)
    spent, other_cores = meter.read(result.generator_cpu_seconds)
    if not result.requests:
        raise BenchError(f"{subject.case.title}: {result.errors} calls under load, and not one right answer")
    calls = result.requests + result.errors
    return Sample(result, {kind: seconds * 1e6 / calls for kind, seconds in spent.items()}, other_cores)


class _Meter:
    """CPU time from its making to its reading."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process
        self._wall, self._own, self._machine = time.monotonic(), time.process_time(), machine_cpu_seconds()
        self._server = process.cpu_seconds()

    def read(self, generator_seconds: float) -> tuple[dict[str, float], float]:
        """Seconds by kind of the server's processes, and cores that were used by neither it, the generator nor us."""
        spent = cpu_spent(self._server, self._process.cpu_seconds())
        wall, own = time.monotonic() - self._wall, time.process_time() - self._own
        other = machine_cpu_seconds() - self._machine - own - generator_seconds - sum(spent.values())
        return spent, max(0.0, other / wall)
