"""Define what a store must do. Every "must" here has a test in ``tests/conformance``, run against every store.

A store maps IDs to documents and knows nothing about RPC; the layer above knows nothing about databases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class StoreState:
    """The state of a store at one moment, for metrics."""

    busy: int
    """Connections with a read, or for a file, threads that read."""
    idle: int
    """Connections or threads that could read at once."""
    waiting: int
    """Reads that wait for a connection or a thread; where reads share connections, all that have no answer yet."""
    refusing: bool = False
    """Whether reads are refused because the database is known to be away."""


class TaskStore(Protocol):
    """Read access for the server, used by many calls of one event loop at once."""

    async def get_document(self, task_id: str) -> bytes | None:
        """Return the stored document of ``task_id``, or None if no task has exactly this ID.

        - Must return the bytes as stored, whatever their content and number.
        - Must compare IDs exactly: case, spaces and Unicode forms count.
        - Must accept any string; a string that no database could hold is the ID of no task.
        - Must see every write that was finished before the read began.
        - Must return the old document or the new one, whole, while a writer replaces it.
        - Must leave the event loop free while the database is locked or away, or waits for its disk.
        - Must answer later reads as usual after a read was cancelled. No read must queue behind the cancelled one, and
          no small read behind many large ones.
        - Over a network, must fail at once when the database is known to be away, except for one read at a time.

        Raises:
            StoreUnavailable: must be raised within 3 seconds when the database is away, locked, damaged or closed. The
                message must be one sentence without a driver's words, and must not say where the database is;
                ``private`` must name the database, without its password.
            Overloaded: must be raised at once when more reads wait than the queue has room for.
            DocumentUnreadable: must be raised when the stored value is neither text nor bytes.
        """
        ...

    async def check(self) -> None:
        """Return if a read would be answered now.

        - Must raise StoreUnavailable where a read would, in the same words.
        - Must not be refused because many reads wait: the reads in flight are answered.
        - Must return again, without a new store object, once the database is back.
        """
        ...

    def state(self) -> StoreState:
        """Return the state now; must be quick, and must work on a closed store too."""
        ...

    async def close(self) -> None:
        """Release every thread, file and connection.

        - Must be safe to call twice, and on a store that was never used.
        - Must make later reads and checks raise StoreUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredTask:
    """One task to write: ``document`` in UTF-8, its ``update_time`` in epoch milliseconds (0 if it has none)."""

    task_id: str
    update_time: int
    document: bytes


@dataclass(slots=True)
class WriteCounts:
    """Outcomes of a write; the four add up to the number of tasks given."""

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

    Opening a writer must create the database and the layout if they are missing, and must not touch the data of another
    program. If it can do neither, it must raise StoreUnavailable, in the same kind of words as a read.
    """

    created: bool
    """Must tell whether opening created the layout; False if it existed before."""

    total: WriteCounts
    """Must be the sum over all writes that are in the database, exactly, also after Ctrl-C or an error.

    Only a write whose commit was not answered may be missing, and the error must say that it may be.
    """

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """Write ``tasks`` in one transaction and return the outcomes.

        - Must have written all of them or none, whatever interrupts it.
        - Must count a task as *added* if its ID is new; as *unchanged* if the same ``update_time`` and bytes are
          stored; as *older*, keeping the stored version, if that is the later one; else as *replaced*.
        - Must treat the version with the later ``update_time`` as the later one; if these are equal, the version with
          the greater ``Standing``. The same versions leave the same one, in any order and number of writes.
        - Must treat several tasks with one ID as if they were written one after the other.
        - Must never block a reader.
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
