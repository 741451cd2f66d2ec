"""Which of two versions of a task is the later one: a total order, so that imports end alike in whatever order.

``updateTime`` comes first. It is not enough: Conductor leaves it alone when a task ends, so the finished task and the
version before it often share one. ``Standing`` decides between versions of one ``updateTime``.
"""

import hashlib
import json
from typing import Any, NamedTuple

import msgspec

_TERMINAL = frozenset(
    {
        *("CANCELED", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "COMPLETED", "COMPLETED_WITH_ERRORS", "TIMED_OUT"),
        "SKIPPED",
    }
)
"""``TaskModel.Status`` of tasks that have ended."""


class Standing(NamedTuple):
    """What versions of a task with one ``updateTime`` are compared by, in this order; the greater one is the later."""

    terminal: bool
    """Whether the task has ended."""

    end_time: float
    """``endTime``, epoch milliseconds; 0 where there is none."""

    marks: int
    """How many of ``executed`` and ``retried`` are set: Conductor sets them after the end, and never takes one back."""

    poll_count: float
    """``pollCount``: how often a worker has asked for the task."""

    digest: bytes
    """SHA-256 of the document: with all else equal, any rule will do that needs to know nothing but the two."""


def standing_of(document: bytes) -> Standing:
    """The standing of ``document``, as it is stored; what it does not say, or not as Conductor does, counts least."""
    fields = _fields(document)
    return Standing(
        isinstance(fields.status, str) and fields.status in _TERMINAL,
        _number(fields.end_time),
        (fields.executed is True) + (fields.retried is True),
        _number(fields.poll_count),
        digest_of(document),
    )


def digest_of(document: bytes) -> bytes:
    """``Standing.digest``, which databases can make too."""
    return hashlib.sha256(document).digest()


class _Fields(msgspec.Struct, rename="camel"):
    """The fields of a document that count here."""

    status: Any = None
    end_time: Any = None
    executed: Any = None
    retried: Any = None
    poll_count: Any = None


_decode = msgspec.json.Decoder(_Fields).decode


def _fields(document: bytes) -> _Fields:
    try:
        return _decode(document)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:  # lone surrogates, which msgspec does not take
        values = json.loads(document, parse_int=float)
    except (ValueError, RecursionError):
        return _Fields()
    if not isinstance(values, dict):
        return _Fields()
    return _Fields(*(values.get(key) for key in ("status", "endTime", "executed", "retried", "pollCount")))


def _number(value: object) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
