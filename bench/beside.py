"""What large tasks cost the callers of small ones: latency of small reads alone, and beside large reads."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.cases import CASES, Case
from bench.errors import BenchError
from bench.loads import Generators, Load, LoadResult
from bench.servers import Server
from bench.targets import Target
from bench.tasks import LARGE, SMALL

SMALL_CONNECTIONS = 4
LARGE_CONNECTIONS = 32

ALONE = "alone"
READERS = f"while {LARGE_CONNECTIONS} clients read 10 MB over REST"
TYPED = "while one reads 10 MB as typed GetTask"
STATES = (ALONE, READERS, TYPED)

_HEAD_START = 0.3
"""Seconds that the large reads have before the small ones begin, and go on for after these have ended."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Cases by key: ``rest`` for small and large reads, ``typed`` for large ones; "" if the server has no such call."""

    title: str
    rest: str
    typed: str = ""


NEIGHBOURS = (
    Neighbours("taskgate inside Envoy", "envoy-rest", "envoy-typed"),
    Neighbours("taskgate on grpcio", "grpcio-rest", "grpcio-typed"),
    Neighbours("FastAPI on uvicorn, read in a thread", "fastapi"),
    Neighbours("Go: grpc-gateway over gRPC", "go-rest", "go-typed"),
)


@dataclass(slots=True)
class Beside:
    """Small REST reads on four connections in one of ``STATES``: milliseconds, by round, and large reads a second."""

    title: str
    state: str
    p50s_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    large_rates: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.p50s_ms)

    @property
    def p99_ms(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.p99s_ms)


def measure_beside(
    servers: Mapping[str, Server],
    generators: Generators,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> list[Beside]:
    """Every state of every server that runs, in interleaved rounds; what fails is kept as a problem."""
    cases = {case.key: case for case in CASES}
    there = [neighbours for neighbours in NEIGHBOURS if cases[neighbours.rest].server in servers]
    found = {(n.title, state): Beside(n.title, state) for n in there for state in STATES if state != TYPED or n.typed}
    for number in range(rounds):
        for neighbours in reversed(there) if number % 2 else there:
            for state in STATES:
                if (beside := found.get((neighbours.title, state))) is not None:
                    server = servers[cases[neighbours.rest].server]
                    large = _large(state, neighbours, cases, server)
                    _one_round(beside, cases[neighbours.rest].target(server, SMALL), large, generators, seconds)
                    last = f"p99 {beside.p99s_ms[-1]:.1f} ms" if beside.p99s_ms else "FAILED"
                    progress(f"round {number + 1} of {rounds}: {neighbours.title}, small reads {state}: {last}")
    return list(found.values())


def _large(state: str, neighbours: Neighbours, cases: Mapping[str, Case], server: Server) -> tuple[Target, int] | None:
    """What is read meanwhile, and on how many connections."""
    if state == READERS:
        return cases[neighbours.rest].target(server, LARGE), LARGE_CONNECTIONS
    if state == TYPED:
        return cases[neighbours.typed].target(server, LARGE), 1
    return None


def _one_round(
    beside: Beside, small: Target, large: tuple[Target, int] | None, generators: Generators, seconds: float
) -> None:
    background = _Background(large, generators, seconds + 2 * _HEAD_START) if large is not None else None
    try:
        if background is not None:
            background.start()
            time.sleep(_HEAD_START)
        result = generators.choose(small).run(small, Load(SMALL_CONNECTIONS, seconds))
        if result.requests:
            beside.p50s_ms.append(result.p50_ms)
            beside.p99s_ms.append(result.p99_ms)
        if result.errors or not result.requests:
            beside.problems.append(f"{result.errors:,} small reads failed, {result.requests:,} did not")
    except BenchError as error:
        beside.problems.append(str(error))
    finally:
        if background is not None:
            background.join()
            _judge(beside, background)


def _judge(beside: Beside, background: "_Background") -> None:
    result = background.result
    if result is None:
        beside.problems.append(f"large reads: {background.problem}")
    elif result.errors:
        beside.problems.append(f"{result.errors:,} large reads failed, {result.requests:,} did not")
    else:  # perhaps none: all may still be on the way
        beside.large_rates.append(result.rate)


class _Background(threading.Thread):
    """A load beside another; afterwards ``result``, or ``problem`` if there is none."""

    def __init__(self, large: tuple[Target, int], generators: Generators, seconds: float) -> None:
        super().__init__()
        self._target, self._in_flight = large
        self._generator = generators.choose(self._target)
        self._seconds = seconds
        self.result: LoadResult | None = None
        self.problem = ""

    def run(self) -> None:
        try:
            self.result = self._generator.run(self._target, Load(self._in_flight, self._seconds))
        except BenchError as error:
            self.problem = str(error)


def state_of(found: Sequence[Beside], title: str, state: str) -> Beside | None:
    """One of ``found``, if it has any right answer."""
    return next((b for b in found if b.title == title and b.state == state and b.p99s_ms), None)
