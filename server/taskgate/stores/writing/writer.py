"""Base of the writers of all databases: count tasks, refuse writes after closing, and close once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.refusals import CLOSED
from taskgate.stores.writing.standing import Standing, standing_of

T = TypeVar("T")

PORTION_BYTES: Final = 8 * 1024 * 1024
"""Bytes of stored documents read at once, to compare them with new ones; a larger one is read alone."""


class Writer(ABC):
    """A ``TaskWriter`` without a database: subclasses implement writing and releasing."""

    def __init__(self, name: str) -> None:
        """``name`` is the name of the store in messages."""
        self.created = False
        self.total = WriteCounts()
        self._name = name
        self._closed = False

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """See ``TaskWriter``."""
        if self._closed:
            raise StoreUnavailable(CLOSED, store=self._name)
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
        """Implement ``write`` of an open writer; adds to ``total``."""

    @abstractmethod
    def _release(self) -> None:
        """Release everything; called once."""


def compare(
    tasks: Sequence[StoredTask],
    times: Mapping[str, int],
    standing_of_stored: Callable[[StoredTask], Standing | None],
) -> tuple[WriteCounts, list[StoredTask]]:
    """Return what writing ``tasks`` in order does, as ``TaskWriter`` counts it, and the tasks to store.

    ``times`` are the update times of tasks that are already stored. ``standing_of_stored`` is called for a task whose
    update time equals the stored one. It returns None if the documents are equal too.
    """
    counts = WriteCounts()
    changed: dict[str, StoredTask] = {}

    def order_of(task: StoredTask, before: StoredTask | None, time: int) -> int:
        """Positive if ``task`` is later than the existing version, negative if older, 0 if equal."""
        if task.update_time != time:
            return 1 if task.update_time > time else -1
        if before is None:
            there = standing_of_stored(task)
        else:
            there = None if before.document == task.document else standing_of(before.document)
        if there is None:
            return 0
        return 1 if standing_of(task.document) > there else -1

    for task in tasks:
        before = changed.get(task.task_id)
        time = times.get(task.task_id) if before is None else before.update_time
        if time is None:
            counts.added += 1
        elif (order := order_of(task, before, time)) > 0:
            counts.replaced += 1
        else:
            counts.older += order < 0
            counts.unchanged += order == 0
            continue
        changed[task.task_id] = task
    return counts, list(changed.values())


def portions(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Split ``items``, in order, into lists of up to ``PORTION_BYTES`` by ``size``, or of one larger item."""
    portion: list[T] = []
    total = 0
    for item in items:
        if portion and total + size(item) > PORTION_BYTES:
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += size(item)
    if portion:
        yield portion
