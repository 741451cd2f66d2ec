"""Count calls by method and status, and their durations, under the names that gRPC servers use with Prometheus."""

import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from taskgate.base.errors import STATUS_OF, TaskgateError
from taskgate.service.calls import Answer, Call, Handler
from taskgate.telemetry.block import Block, Family

SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets for durations: Prometheus' own, and smaller ones, as most calls take less than 1 ms."""

_UNKNOWN: Final = ("unknown", "unknown", "unknown")
"""The labels of all methods that do not exist: callers choose their names."""

_OTHER_CODE: Final = "UNKNOWN"

_CODES: Final = tuple(
    dict.fromkeys(
        (
            *("OK", "CANCELLED", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", _OTHER_CODE),
            *(row.grpc_code for row in STATUS_OF.values()),
        )
    )
)
"""All statuses that the service answers with; each has a series from the start, so that its first increase is seen."""

_STARTED, _HANDLED, _SECONDS = "grpc_server_started", "grpc_server_handled", "grpc_server_handling_seconds"
_METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")


def call_families(methods: Mapping[str, str]) -> list[Family]:
    """Return the families for ``methods``, gRPC paths to types: ``unary``, ``server_stream`` or ``bidi_stream``."""
    series = (*(_labels(path, kind) for path, kind in methods.items()), _UNKNOWN)
    return [
        Family(
            name=_STARTED,
            kind="counter",
            help="Calls that the service has begun.",
            labels=_METHOD,
            series=series,
        ),
        Family(
            name=_HANDLED,
            kind="counter",
            help="Calls that the service has answered, by gRPC status.",
            labels=(*_METHOD, "grpc_code"),
            series=tuple((*labels, code) for labels in series for code in _CODES),
        ),
        Family(
            name=_SECONDS,
            kind="histogram",
            help="Seconds from the request to its answer, without sending a large one.",
            labels=_METHOD,
            series=series,
            buckets=SECONDS,
        ),
    ]


class CallMeter:
    """Counts calls in ``block``; see ``taskgate.service.calls.CallCounter``."""

    def __init__(self, block: Block, methods: Mapping[str, str]) -> None:
        self._numbers = block.numbers
        labels = {path: _labels(path, kind) for path, kind in methods.items()}
        self._places = {path: _places(block, values) for path, values in labels.items()}
        self._unknown = _places(block, _UNKNOWN)

    def layer(self, handler: Handler) -> Handler:
        """Count the calls of ``handler``."""
        numbers, places, unknown, clock = self._numbers, self._places, self._unknown, time.perf_counter

        async def counted(call: Call, request: bytes) -> Answer:
            began = clock()
            started, codes, seconds, total = places.get(call.path, unknown)
            numbers[started] += 1
            code = "CANCELLED"  # unless the call returns or raises a TaskgateError
            try:
                answer = await handler(call, request)
                code = "OK"
            except TaskgateError as error:
                code = error.status.grpc_code
                raise
            else:
                return answer
            finally:
                took = clock() - began
                numbers[codes[code]] += 1
                numbers[seconds + bisect_left(SECONDS, took)] += 1
                numbers[total] += took

        return counted

    def begin(self, path: str) -> float:
        """Count the begin of a call that has no handler with this layer, and return the time for ``end``."""
        self._numbers[self._places.get(path, self._unknown)[0]] += 1
        return time.perf_counter()

    def end(self, path: str, code: str, began: float) -> None:
        """Count the end of such a call."""
        _, codes, seconds, total = self._places.get(path, self._unknown)
        took = time.perf_counter() - began
        self._numbers[codes.get(code) or codes[_OTHER_CODE]] += 1
        self._numbers[seconds + bisect_left(SECONDS, took)] += 1
        self._numbers[total] += took


def _labels(path: str, kind: str) -> tuple[str, str, str]:
    _, service, method = path.split("/")
    return kind, service, method


def _places(block: Block, labels: tuple[str, str, str]) -> tuple[int, dict[str, int], int, int]:
    """Return the places of started calls, of each code, of the first bucket and of the sum of seconds."""
    seconds = block.place(_SECONDS, *labels)
    codes = {code: block.place(_HANDLED, *labels, code) for code in _CODES}
    return block.place(_STARTED, *labels), codes, seconds, seconds + len(SECONDS) + 1
