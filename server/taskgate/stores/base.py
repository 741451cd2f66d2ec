"""What a store must do. Every "must" here has a test in ``tests/conformance``, run against every store.

A store knows tasks as documents under IDs and nothing about RPC; the layer above knows nothing about databases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


class TaskStore(Protocol):
    """Read access for the server: used by many calls of one event loop at once."""

    async def get_document(self, task_id: str) -> bytes | None:
        """The stored document of ``task_id``, or None if no task has exactly this ID.

        - Must return the bytes as stored, whatever they are and however many.
        - Must compare IDs exactly: case, spaces and Unicode forms count.
        - Must take any string; one that no database could hold is an ID that no task has.
        - Must see every write that was finished before the read began.
        - Must return the old document or the new one, whole, while a writer replaces it.
        - Must leave the event loop free while the database is locked or away, or waits for its disk.
        - Must answer later reads as usual after a read was cancelled; none must stand in a queue behind it, and no
          small one behind many large ones.
        - Over a network, must fail at once when the database is known to be away, but for one read at a time.

        Raises:
            StoreUnavailable: must be raised within 3 seconds when the database is away, locked, damaged or closed. The
                message must be one sentence without a driver's words, and without anything that says where the
                database is; ``private`` must name it, without its password.
            Overloaded: must be raised at once when more reads wait than there is room for.
            DocumentUnreadable: must be raised when the stored value is neither text nor bytes.
        """
        ...

    async def check(self) -> None:
        """Return if a read would be answered now.

        - Must raise StoreUnavailable where a read would, in the same words.
        - Must not be refused because many reads wait: those that are under way are answered.
        - Must return again, without a new store object, once the database is back.
        """
        ...

    async def close(self) -> None:
        """Release every thread, file and connection.

        - Must be safe to call twice, and on a store that was never used.
        - Must make later reads and checks raise StoreUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredTask:
    """One task to write: ``document`` in UTF-8, its ``update_time`` in epoch milliseconds (0 where it has none)."""

    task_id: str
    update_time: int
    document: bytes


@dataclass(slots=True)
class WriteCounts:
    """What writing did; the four add up to the number of tasks given."""

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
    """Write access for an import: synchronous, for one thread, a context manager that closes itself.

    Opening one must create the database and the layout where they are missing, must leave alone what somebody else
    made, and must raise StoreUnavailable, in the same kind of words as a read, where it can do neither.
    """

    created: bool
    """Must tell whether opening made the layout; False if it was there before."""

    total: WriteCounts
    """Must be the sum over all writes that are in the database, exactly, also after Ctrl-C or an error.

    Only a write whose commit was not answered may be missing, and the error must say that it may be.
    """

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """Write ``tasks`` in one transaction and say what that did.

        - Must have written all of them or none, whatever interrupts it.
        - Must count a task as *added* if its ID is new; as *unchanged* if the same ``update_time`` and bytes are
          stored; as *older*, keeping what is stored, if that is the later version; else as *replaced*.
        - Must take for the later version the one of the later ``update_time`` or, between two of one ``update_time``,
          of the greater ``Standing``: the same versions leave the same one, in whatever order and number of writes.
        - Must treat several tasks with one ID as if they were written one after the other.
        - Must never hold up a reader.
        - Must wait a while for another writer to finish.

        Raises:
            StoreUnavailable: must be raised, in one sentence, when the database is locked for long, full, read-only,
                damaged, gone or closed.
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
