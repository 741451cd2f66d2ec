"""Define what a caller may see of the tasks: all, some workflow types, masked values."""

from dataclasses import dataclass
from typing import Protocol

from taskgate.service.in_flight import Caller


@dataclass(frozen=True, slots=True)
class View:
    """The restrictions of one caller.

    - ``workflow_types``: the workflow types whose tasks the caller may read; None for all.
    - ``masked``: whether the keys of the setting ``mask`` are hidden from the caller.
    """

    workflow_types: frozenset[str] | None
    masked: bool


UNKNOWN = View(workflow_types=None, masked=True)
"""What a caller sees who was not asked for a token: all tasks, masked if the setting ``mask`` is set."""

NOTHING = View(workflow_types=frozenset(), masked=True)
"""What a caller without a role sees. The service denies its reads, when it knows which task the audit has to name."""


class Reader(Caller, Protocol):
    """The fields of a call that the service reads and sets."""

    view: View | None
    """None for a caller who was not asked for a token."""
