"""What the writers of all databases do alike: they count, refuse to write once closed, and close once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from taskgate.errors import StoreUnavailable
from taskgate.stores.base import StoredTask, WriteCounts


class Writer(ABC):
    """A ``TaskWriter`` without a database: what it writes, and what it has to release, is for those that have one."""

    def __init__(self, name: str) -> None:
        """``name`` is what messages call the store."""
        self.created = False
        self.total = WriteCounts()
        self._name = name
        self._closed = False

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """See ``TaskWriter``."""
        if self._closed:
            raise StoreUnavailable(f"The store {self._name} is closed")
        return self._write(tasks)

    def close(self) -> None:
        """See ``TaskWriter``."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        """Return this writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @abstractmethod
    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """``write`` of a writer that is open; adds to ``total``."""

    @abstractmethod
    def _release(self) -> None:
        """Release everything; called once."""


def compare(
    tasks: Sequence[StoredTask], times: dict[str, int], is_stored: Callable[[StoredTask], bool]
) -> tuple[WriteCounts, list[StoredTask]]:
    """What writing ``tasks`` one after the other does, as ``TaskWriter`` counts it, and which have to be stored.

    ``times`` are the update times of those that are stored already, and are brought up to date; ``is_stored`` says
    whether the document that is stored under a task's ID is the task's.
    """
    counts = WriteCounts()
    changed: dict[str, StoredTask] = {}
    for task in tasks:
        known = times.get(task.task_id)
        if known is None:
            counts.added += 1
        elif known > task.update_time:
            counts.older += 1
            continue
        elif known == task.update_time and _is_same(task, changed.get(task.task_id), is_stored):
            counts.unchanged += 1
            continue
        else:
            counts.replaced += 1
        times[task.task_id] = task.update_time
        changed[task.task_id] = task
    return counts, list(changed.values())


def _is_same(task: StoredTask, before: StoredTask | None, is_stored: Callable[[StoredTask], bool]) -> bool:
    """Whether ``task`` changes nothing; ``before`` is the one of the same batch that was written under its ID."""
    return is_stored(task) if before is None else before.document == task.document
