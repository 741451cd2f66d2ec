"""Load generators: a command for each, and readers of what each prints.

All keep a fixed number of calls in flight and send the next one when an answer arrives. At saturation latency then
follows from throughput (calls in flight = throughput x latency), so latencies compare within a run only.
"""

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.errors import BenchError
from bench.processes import ended_children_cpu_seconds
from bench.targets import GrpcCall, HttpGet, Target

STREAMS_PER_CONNECTION = 8
"""Calls that share one HTTP/2 connection, as far as the number in flight allows."""

STOP_SECONDS = 60
"""Seconds beyond its duration that a generator may take to end."""

NO_GENERATOR = """\
!! No load generator is on PATH: falling back to the built-in one, which is Python and saturates none of the faster
!! servers. Rows made with it are marked, and their ratios are too close to 1. For numbers that mean something install
!! the Debian packages nghttp2-client (h2load: HTTP/1.1 and gRPC) and, if you like, wrk (HTTP/1.1 only)."""

ONLY_WRK = """\
!! h2load is not on PATH: gRPC rows are made with the built-in generator, which is Python, saturates none of the faster
!! servers and is marked in the table. The Debian package nghttp2-client brings h2load."""


@dataclass(frozen=True, slots=True)
class Load:
    """How hard and how long: calls ``in_flight`` at any time, for ``seconds``.

    With ``requests``, that many calls instead, however long they take: for answers so large that most of what a server
    does in ``seconds`` would be on the way when time is up, and not be counted. Only h2load can; the built-in generator
    waits for what is on the way instead.
    """

    in_flight: int
    seconds: float
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one run of a generator saw, and its own CPU time: as long as the run itself is one core full.

    ``requests`` had the right answer, ``errors`` had not.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    generator_cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def generator_cores(self) -> float:
        """Cores that the generator kept busy."""
        return self.generator_cpu_seconds / self.seconds


class Generator(Protocol):
    """Puts load on a target and says what came back."""

    name: str
    saturates: bool
    """Whether it is fast enough to keep one core of any server here busy."""

    def run(self, target: Target, load: Load) -> LoadResult:
        """Run once. Raises BenchError if the generator itself fails."""
        ...


class H2load:
    """nghttp2's generator: HTTP/1.1, and gRPC as a POST of the framed message."""

    name = "h2load"
    saturates = True

    def run(self, target: Target, load: Load) -> LoadResult:
        """See ``Generator``."""
        with tempfile.TemporaryDirectory(prefix="bench-h2load-") as folder:
            log, what = Path(folder, "log"), Path(folder, "what")
            if isinstance(target, GrpcCall):
                what.write_bytes(target.framed)
            else:
                what.write_text("".join(f"http://{target.authority}{path}\n" for path in target.paths))
            output, cpu_seconds = _run_measured(h2load_command(target, load, log=log, what=what), load.seconds)
            calls = read_h2load_log(log.read_text() if log.exists() else "")
        return h2load_result(output, calls, target.data_bytes, cpu_seconds)


def h2load_command(target: Target, load: Load, *, log: Path, what: Path) -> list[str]:
    """The command line; ``what`` is a file of the URLs to get, or of what a gRPC call posts."""
    long = f"--duration={round(load.seconds * 1000)}ms" if load.requests is None else f"--requests={load.requests}"
    base = ["h2load", "--threads=1", long, f"--log-file={log}"]
    if isinstance(target, HttpGet):
        return [*base, "--h1", f"--clients={load.in_flight}", f"--input-file={what}"]
    clients, streams = spread(load.in_flight)
    return [
        *base,
        f"--clients={clients}",
        f"--max-concurrent-streams={streams}",
        f"--data={what}",
        "--header=content-type: application/grpc",
        "--header=te: trailers",
        f"http://{target.authority}{target.path}",
    ]


def spread(in_flight: int) -> tuple[int, int]:
    """Connections and calls on each, for HTTP/2; their product is at most ``in_flight``."""
    connections = max(1, in_flight // STREAMS_PER_CONNECTION)
    return connections, in_flight // connections


@dataclass(frozen=True, slots=True)
class LoggedCalls:
    """h2load's log of single requests: latencies in microseconds of those with status 200, number of all others."""

    latencies_us: tuple[int, ...]
    failed: int


def read_h2load_log(text: str) -> LoggedCalls:
    """Read tab-separated lines of start time, HTTP status (-1: broken off) and microseconds."""
    latencies, failed = [], 0
    for line in text.splitlines():
        _, status, microseconds, *_ = line.split("\t")
        if status == "200":
            latencies.append(int(microseconds))
        else:
            failed += 1
    return LoggedCalls(tuple(latencies), failed)


_H2LOAD_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m|h)?,", re.MULTILINE)
_H2LOAD_REQUESTS = re.compile(
    r"^requests: \d+ total, \d+ started, (?P<done>\d+) done, \d+ succeeded,"
    r" (?P<failed>\d+) failed, (?P<errored>\d+) errored, (?P<timeout>\d+) timeout$",
    re.MULTILINE,
)
_H2LOAD_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)


def h2load_result(output: str, calls: LoggedCalls, data_bytes: int, cpu_seconds: float = 0.0) -> LoadResult:
    """Make a result of h2load's summary and log.

    A call counts as an error if its status is not 200 or if its content is missing: a gRPC error is an HTTP 200
    without content, which only the sum of ``data_bytes`` gives away.
    """
    finished, requests, data = (p.search(output) for p in (_H2LOAD_FINISHED, _H2LOAD_REQUESTS, _H2LOAD_DATA))
    if finished is None or requests is None or data is None:
        raise BenchError(f"h2load printed something that is not understood: {output[-500:]!r}")
    succeeded = len(calls.latencies_us)
    without_content = max(0, succeeded - int(data[1]) // data_bytes)
    # The summary and the log count the same failures; the summary also has connections that broke without a request.
    failed = max(calls.failed, int(requests["failed"]), int(requests["errored"]) + int(requests["timeout"]))
    return LoadResult(
        requests=succeeded - without_content,
        seconds=_seconds(finished[1], finished[2] or "s"),
        p50_ms=percentile(calls.latencies_us, 50) / 1000,
        p99_ms=percentile(calls.latencies_us, 99) / 1000,
        errors=failed + without_content,
        generator_cpu_seconds=cpu_seconds,
    )


class Wrk:
    """wrk: HTTP/1.1 only, for machines without h2load."""

    name = "wrk"
    saturates = True

    def run(self, target: Target, load: Load) -> LoadResult:
        """See ``Generator``."""
        assert isinstance(target, HttpGet)  # noqa: S101 - wrk is never chosen for gRPC
        # Whole seconds are all that wrk takes; its own limit of two for an answer would make slow ones errors.
        command = ["wrk", "--threads=1", f"--connections={load.in_flight}", f"--duration={math.ceil(load.seconds)}s"]
        command.append(f"--timeout={STOP_SECONDS}s")
        with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
            if target.others:
                script = Path(folder, "script.lua")
                script.write_text(wrk_script(target.paths))
                command.append(f"--script={script}")
            command += ["--latency", f"http://{target.authority}{target.path}"]
            output, cpu_seconds = _run_measured(command, math.ceil(load.seconds))
        return wrk_result(output, cpu_seconds)


def wrk_script(paths: Sequence[str]) -> str:
    """Lua that makes wrk go round ``paths``."""
    quoted = ", ".join(f'"{path}"' for path in paths)
    return f"""\
local paths = {{{quoted}}}
local number = 0
request = function()
  number = number % #paths + 1
  return wrk.format(nil, paths[number])
end
"""


_WRK_TOTAL = re.compile(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h),", re.MULTILINE)
_WRK_PERCENTILE = re.compile(r"^\s*(50|99)%\s+([\d.]+)(us|ms|s|m|h)\s*$", re.MULTILINE)
_WRK_STATUS = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)$", re.MULTILINE)
_WRK_SOCKET = re.compile(r"^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)$", re.MULTILINE)


def wrk_result(output: str, cpu_seconds: float = 0.0) -> LoadResult:
    """Make a result of what ``wrk --latency`` prints."""
    total = _WRK_TOTAL.search(output)
    percentiles = {level: _seconds(value, unit) * 1000 for level, value, unit in _WRK_PERCENTILE.findall(output)}
    if total is None or percentiles.keys() != {"50", "99"}:
        raise BenchError(f"wrk printed something that is not understood: {output[-500:]!r}")
    status, sockets = _WRK_STATUS.search(output), _WRK_SOCKET.search(output)
    refused = int(status[1]) if status else 0
    return LoadResult(
        requests=int(total[1]) - refused,
        seconds=_seconds(total[2], total[3]),
        p50_ms=percentiles["50"],
        p99_ms=percentiles["99"],
        errors=refused + (sum(map(int, sockets.groups())) if sockets else 0),
        generator_cpu_seconds=cpu_seconds,
    )


class BuiltIn:
    """Plain Python in a process of its own: works everywhere, saturates only the slower servers."""

    name = "built-in"
    saturates = False

    def run(self, target: Target, load: Load) -> LoadResult:
        """See ``Generator``."""
        with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
            paths = Path(folder, "paths")
            paths.write_text("\n".join(target.paths if isinstance(target, HttpGet) else (target.path,)))
            command = [sys.executable, "-m", "bench.builtin_load", *builtin_arguments(target, load, paths)]
            output, cpu_seconds = _run_measured(command, load.seconds)
        return builtin_result(output, cpu_seconds)


def builtin_arguments(target: Target, load: Load, paths: Path) -> list[str]:
    """What ``bench.builtin_load`` is told; ``paths`` is a file."""
    common = [target.authority, str(paths), str(load.in_flight), str(load.seconds), str(target.data_bytes)]
    return [*common, target.message.hex()] if isinstance(target, GrpcCall) else common


def builtin_result(output: str, cpu_seconds: float = 0.0) -> LoadResult:
    """Make a result of the JSON that ``bench.builtin_load`` prints."""
    seen = json.loads(output)
    return LoadResult(
        requests=len(seen["latencies_us"]),
        seconds=seen["seconds"],
        p50_ms=percentile(seen["latencies_us"], 50) / 1000,
        p99_ms=percentile(seen["latencies_us"], 99) / 1000,
        errors=seen["errors"],
        generator_cpu_seconds=cpu_seconds,
    )


@dataclass(frozen=True, slots=True)
class Generators:
    """One generator for each protocol, and what has to be said about the choice ("" for nothing).

    ``http_other`` is for what h2load 1.52 cannot do. It does not see the status in a line without words. And each of
    its connections goes round the same paths from the first one on, so that all ask for the same path at any time.
    """

    http: Generator
    grpc: Generator
    http_other: Generator
    warning: str = ""

    def choose(self, target: Target) -> Generator:
        """The generator for ``target``."""
        if isinstance(target, GrpcCall):
            return self.grpc
        return self.http_other if target.bare_status or target.others else self.http


def find_generators() -> Generators:
    """The best on PATH. One for all rows where possible, since generators differ a little in what they cost."""
    wrk: Generator | None = Wrk() if shutil.which("wrk") else None
    if shutil.which("h2load"):
        return Generators(H2load(), H2load(), wrk or BuiltIn())
    if wrk is not None:
        return Generators(wrk, BuiltIn(), wrk, ONLY_WRK)
    return Generators(BuiltIn(), BuiltIn(), BuiltIn(), NO_GENERATOR)


def percentile(values: Sequence[int], level: float) -> float:
    """The smallest value that at least ``level`` percent of ``values`` do not exceed; NaN if there are none."""
    if not values:
        return math.nan
    return float(sorted(values)[max(0, math.ceil(len(values) * level / 100) - 1)])


_UNIT_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: str, unit: str) -> float:
    return float(value) * _UNIT_SECONDS[unit]


def _run_measured(command: Sequence[str], seconds: float) -> tuple[str, float]:
    """Run a generator to its end: what it printed, and its CPU time."""
    before = ended_children_cpu_seconds()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} did not end within {error.timeout:g} s") from error
    cpu_seconds = ended_children_cpu_seconds() - before
    if done.returncode != 0:
        raise BenchError(f"{command[0]} ended with code {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout, cpu_seconds
