"""Generate load with h2load and wrk: make their commands, and parse their output.

Both keep a fixed number of calls in flight and send the next one when an answer arrives. At saturation latency then
follows from throughput (calls in flight = throughput x latency), so latencies compare within a run only.
"""

import math
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.targets import Target, framed
from tools.processes import Failed
from tools.servers import H2LOAD, WRK, Server, find

STREAMS_PER_CONNECTION = 8
"""Calls that share one HTTP/2 connection, if enough are in flight."""

STOP_SECONDS = 60
"""Seconds beyond its duration that a generator may take to end."""


@dataclass(frozen=True, slots=True)
class Load:
    """Calls ``in_flight`` at any time, for ``seconds``.

    With ``requests``, that many calls instead, for any time: for answers so large that most would still be in flight
    after ``seconds``, and would not be counted. wrk does not support this.
    """

    in_flight: int
    seconds: float
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Result of one run of a generator: ``requests`` with the right answer, ``errors`` without."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def run(target: Target, load: Load) -> LoadResult:
    """Put ``load`` on ``target``. Raises Missing without the generator, Failed if it fails.

    wrk is for several paths: with h2load 1.52 each connection begins with the same path, so that all ask for the same
    one at any time. h2load also misses the status in a line without words ("HTTP/1.1 200 "), which Conductor sends.
    """
    return (_wrk if target.others else _h2load)(target, load)


def _h2load(target: Target, load: Load) -> LoadResult:
    with tempfile.TemporaryDirectory(prefix="bench-h2load-") as folder:
        log, body = Path(folder, "log"), Path(folder, "body")
        if target.message is not None:
            body.write_bytes(framed(target.message))
        output = _run(H2LOAD, h2load_arguments(target, load, log=log, body=body), load.seconds)
        return h2load_result(output, log.read_text() if log.exists() else "", target.data_bytes)


def h2load_arguments(target: Target, load: Load, *, log: Path, body: Path) -> list[str]:
    """Send HTTP/1.1 with a connection for each call in flight, or gRPC as a POST of ``body`` over fewer connections."""
    long = f"--duration={round(load.seconds * 1000)}ms" if load.requests is None else f"--requests={load.requests}"
    arguments = ["--threads=1", long, f"--log-file={log}"]
    arguments += [f"--header={name}: {value}" for name, value in target.headers]
    if target.message is not None:
        connections = max(1, load.in_flight // STREAMS_PER_CONNECTION)
        streams = load.in_flight // connections
        arguments += [f"--clients={connections}", f"--max-concurrent-streams={streams}", f"--data={body}"]
        arguments += ["--header=content-type: application/grpc", "--header=te: trailers"]
    else:
        arguments += ["--h1", f"--clients={load.in_flight}"]
    return [*arguments, f"http://{target}"]


_REQUESTS = re.compile(r" succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$", re.MULTILINE)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)


def h2load_result(output: str, log: str, data_bytes: int) -> LoadResult:
    """Make a result from h2load's summary and its log: start, status (-1: broken off) and duration, in microseconds.

    A call counts as an error if its status is not 200 or if its content is missing: a gRPC error is an HTTP 200
    without content, which only the sum of ``data_bytes`` reveals.
    """
    requests, data = _REQUESTS.search(output), _DATA.search(output)
    calls = [tuple(map(int, line.split("\t")[:3])) for line in log.splitlines()]
    if requests is None or data is None:
        raise Failed(f"h2load printed something that is not understood: {output[-500:]!r}")
    latencies = sorted(duration for _, status, duration in calls if status == 200)
    ended = [start + duration for start, _, duration in calls]
    without_content = max(0, len(latencies) - int(data[1]) // data_bytes)
    # The summary and the log count the same failures; the summary adds connections that broke without a request.
    failed, errored, timeout = map(int, requests.groups())
    return LoadResult(
        requests=len(latencies) - without_content,
        seconds=(max(ended) - min(call[0] for call in calls)) / 1e6 if calls else math.nan,
        p50_ms=_percentile(latencies, 50) / 1000,
        p99_ms=_percentile(latencies, 99) / 1000,
        errors=max(len(calls) - len(latencies), failed, errored + timeout) + without_content,
    )


def _wrk(target: Target, load: Load) -> LoadResult:
    seconds = math.ceil(load.seconds)  # wrk takes whole seconds
    paths = (target.path, *target.others)
    begin = _begin.get(str(target), 0)
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        script = Path(folder, "script.lua")
        script.write_text(wrk_script(paths, begin))
        arguments = [
            *("--threads=1", f"--connections={load.in_flight}", f"--duration={seconds}s"),
            f"--timeout={STOP_SECONDS}s",  # wrk's default of two seconds would make slow answers errors
            *(f"--header={name}: {value}" for name, value in target.headers),
            *(f"--script={script}", f"http://{target}"),
        ]
        result = wrk_result(_run(WRK, arguments, seconds))
    _begin[str(target)] = (begin + result.requests) % len(paths)
    return result


_begin: dict[str, int] = {}
"""The number of the first path: where the last run has ended, so that rows are requested in turn."""


def wrk_script(paths: Sequence[str], begin: int = 0) -> str:
    """Return Lua for wrk: cycle through ``paths`` from number ``begin`` on, and print a line for ``wrk_result``."""
    quoted = ", ".join(f'"{path}"' for path in paths)
    return f"""\
local paths = {{{quoted}}}
local number = {begin}
request = function()
  number = number % #paths + 1
  return wrk.format(nil, paths[number])
end
done = function(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  local levels = string.format("%d %d", latency:percentile(50), latency:percentile(99))
  print("result", summary.requests, summary.duration, broken, errors.status, levels)
end
"""


_WRK = re.compile(r"^result" + r"\s+(\d+)" * 6 + "$", re.MULTILINE)


def wrk_result(output: str) -> LoadResult:
    """Make a result from the line that the script prints."""
    found = _WRK.search(output)
    if found is None:
        raise Failed(f"wrk printed something that is not understood: {output[-500:]!r}")
    requests, microseconds, broken, refused, p50, p99 = map(int, found.groups())
    return LoadResult(requests - refused, microseconds / 1e6, p50 / 1000, p99 / 1000, refused + broken)


def _percentile(ordered: Sequence[int], level: float) -> float:
    """Return the smallest value that at least ``level`` percent do not exceed; NaN without values."""
    return float(ordered[max(0, math.ceil(len(ordered) * level / 100) - 1)]) if ordered else math.nan


def _run(generator: Server, arguments: Sequence[str], seconds: float) -> str:
    """Run a generator to its end and return its output. Raises Missing, Failed."""
    command, name = [str(find(generator)), *arguments], generator.program
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{name} did not end within {error.timeout:g} s") from error
    if done.returncode != 0:
        raise Failed(f"{name} ended with code {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout
