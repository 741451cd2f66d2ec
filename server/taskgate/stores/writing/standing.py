"""Decide which of two versions of a task is later, by a total order: imports in any order give the same result.

``updateTime`` is compared first, but does not suffice: Conductor does not change it when a task ends, so the finished
task and the version before it often share one. ``Standing`` decides between versions with equal ``updateTime``.
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
    """The sort key of versions of a task with equal ``updateTime``, in this order; the greater one is later."""

    terminal: bool
    """Whether the task has ended."""

    end_time: float
    """``endTime``, epoch milliseconds; 0 if missing."""

    marks: int
    """How many of ``executed`` and ``retried`` are set: Conductor sets them after the end, and never clears one."""

    poll_count: float
    """``pollCount``: how often a worker has polled the task."""

    digest: bytes
    """SHA-256 of the document: the tie-breaker, since any rule that depends only on the two documents will do."""


def standing_of(document: bytes) -> Standing:
    """Return the standing of a stored ``document``. Fields that are missing, or not as Conductor's, count least."""
    fields = _fields(document)
    return Standing(
        isinstance(fields.status, str) and fields.status in _TERMINAL,
        _number(fields.end_time),
        (fields.executed is True) + (fields.retried is True),
        _number(fields.poll_count),
        digest_of(document),
    )


def digest_of(document: bytes) -> bytes:
    """Return ``Standing.digest``, which databases can compute too."""
    return hashlib.sha256(document).digest()


class _Fields(msgspec.Struct, rename="camel"):
    """The fields of a document that ``Standing`` uses."""

    status: Any = None
    end_time: Any = None
    executed: Any = None
    retried: Any = None
    poll_count: Any = None


_decode = msgspec.json.Decoder(_Fields).decode


def _fields(document: bytes) -> _Fields:
    try:
        return _decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # lone surrogates, which msgspec rejects
        values = json.loads(document, parse_int=float)
    except (ValueError, RecursionError):
        return _Fields()
    if not isinstance(values, dict):
        return _Fields()
    return _Fields(*(values.get(key) for key in ("status", "endTime", "executed", "retried", "pollCount")))


def _number(value: object) -> float:
    """Return ``value``; 0 for what is no number, or NaN, which has no place in an order."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else 0  # noqa: PLR0124 - false for NaN alone
