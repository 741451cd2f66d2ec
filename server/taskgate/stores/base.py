"""What a store must do. Every "must" here has a test in ``tests/conformance``, run against every store.

A store knows tasks as documents under IDs and nothing about RPC; the layer above knows nothing about databases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


class TaskStore(Protocol):
    """Read access for the server: asynchronous, shared by all calls, never blocking the event loop."""

    async def get_document(self, task_id: str) -> bytes | None:
        """The stored document of ``task_id``, or None if no task has exactly this ID.

        Must return the bytes as written, whatever they are, up to ``MAX_DOCUMENT_BYTES`` and beyond. Must compare IDs
        exactly: case, trailing spaces and Unicode forms count. Must return, within one read, either the old or the new
        document while a writer replaces it. Must not hold up other coroutines while the database is cold or locked.

        Raises:
            StoreUnavailable: must be raised, within seconds, when the database is away, locked, damaged, overloaded or
                closed; its message must name the store and hold no password and no driver's text.
            DocumentUnreadable: must be raised when the stored value is neither text nor bytes.
        """
        ...

    async def check(self) -> None:
        """Return if a read would be answered now; must raise StoreUnavailable, with the reason, if not.

        Must succeed again, without a new store object, once the database is back.
        """
        ...

    async def close(self) -> None:
        """Release everything. Must be safe to call twice; reads after it must raise StoreUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class StoredTask:
    """One task to write: ``update_time`` in epoch milliseconds (0 where the document has none), minified ``document``."""

    task_id: str
    update_time: int
    document: bytes


@dataclass(slots=True)
class WriteCounts:
    """What one write did; the four add up to the number of tasks given."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    older: int = 0

    def __iadd__(self, other: "WriteCounts") -> Self:
        """Add ``other``'s counts to these."""
        self.added += other.added
        self.replaced += other.replaced
        self.unchanged += other.unchanged
        self.older += other.older
        return self


class TaskWriter(Protocol):
    """Write access for an import: synchronous, one per process, used as a context manager."""

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """Write ``tasks`` in one transaction: after an error or a crash, must have written all of them or none.

        Must count a task as *added* if its ID is new, *unchanged* if the same bytes are stored, *older* (and must keep
        the stored document) if the stored ``update_time`` is later, otherwise *replaced*. Must treat several tasks
        with one ID as if written one after the other. Must never block a reader.

        Raises:
            StoreUnavailable: the database is locked for long, full, read-only, damaged or not ours.
        """
        ...

    def close(self) -> None:
        """Release everything; must be safe to call twice."""
        ...

    def __enter__(self) -> Self:
        """Return this writer."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        ...
