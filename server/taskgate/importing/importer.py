"""Documents from many sources into one store: in batches, with everything counted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from taskgate.errors import StoreUnavailable
from taskgate.importing.admission import Refused, admit
from taskgate.importing.reader import Fault, Found, Piece, read_pieces, read_workflow
from taskgate.importing.source import Intake, Source, reason_of
from taskgate.stores.base import StoredTask, TaskWriter, WriteCounts
from taskgate.task_id import TaskIdFormat

BATCH_TASKS = 1000
BATCH_BYTES = 8 * 1024 * 1024
"""A batch is written when it has so many tasks, or so many bytes of documents."""

_PIECES_PER_REPORT = 1000


@dataclass(frozen=True, slots=True)
class Reject:
    """A document that is not stored, or a fault of its source; ``line`` is None where there are no lines."""

    source: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the source that is being read has got; ``total_bytes`` is None where it cannot be known.

    ``documents`` and ``rejects`` are those of the whole import.
    """

    source: str
    bytes_read: int
    total_bytes: int | None
    documents: int
    rejects: int


@dataclass(slots=True)
class SourceSummary:
    """What was in one source: task documents that were accepted, and rejects."""

    name: str
    documents: int = 0
    rejects: int = 0


@dataclass(slots=True)
class ImportSummary:
    """What an import did.

    ``written`` counts what is in the store, exactly, also if the import was stopped. ``stopped_by`` is the
    KeyboardInterrupt or StoreUnavailable that ended it early, else None.
    """

    written: WriteCounts
    sources: list[SourceSummary] = field(default_factory=list)
    stopped_by: KeyboardInterrupt | StoreUnavailable | None = None

    @property
    def documents(self) -> int:
        """Task documents that were accepted; more than were written only if the import was stopped."""
        return sum(source.documents for source in self.sources)

    @property
    def rejects(self) -> int:
        """Rejects of all sources."""
        return sum(source.rejects for source in self.sources)

    @property
    def complete(self) -> bool:
        """Whether everything that was given is in the store now."""
        return self.stopped_by is None and not self.rejects


def run_import(
    sources: Sequence[Source],
    writer: TaskWriter,
    task_id_format: TaskIdFormat,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_reject: Callable[[Reject], None] = lambda _: None,
) -> ImportSummary:
    """Write the tasks of all sources with ``writer``, which must be new.

    A source that cannot be read is a reject, and the others go on. A stop, by Ctrl-C or by the store, loses the batch
    that is not yet written, as a whole, and is told in the summary.
    """
    run = _Import(writer, task_id_format, on_progress, on_reject)
    try:
        for source in sources:
            run.take_source(source)
        run.write_batch()
    except (KeyboardInterrupt, StoreUnavailable) as stop:
        run.summary.stopped_by = stop
    return run.summary


class _Import:
    """One run; holds the batch between sources."""

    def __init__(
        self,
        writer: TaskWriter,
        task_id_format: TaskIdFormat,
        on_progress: Callable[[Progress], None],
        on_reject: Callable[[Reject], None],
    ) -> None:
        self.summary = ImportSummary(writer.total)
        self._writer = writer
        self._task_id_format = task_id_format
        self._on_progress = on_progress
        self._on_reject = on_reject
        self._batch: list[StoredTask] = []
        self._batch_bytes = 0

    def take_source(self, source: Source) -> None:
        """Read all of ``source``."""
        counts = SourceSummary(source.name)
        self.summary.sources.append(counts)
        try:
            stream = source.open()
        except (OSError, ValueError) as error:
            self._reject(counts, None, f"cannot be opened: {reason_of(error)}")
            return
        with stream:
            intake = Intake(stream)
            self._take_pieces(read_pieces(intake.read), counts, lambda: self._report(source, intake))
        if intake.fault is not None:
            self._reject(counts, None, intake.fault)
        self._report(source, intake)

    def write_batch(self) -> None:
        """Write what has been collected."""
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            self._writer.write(batch)

    def _take_pieces(self, pieces: Iterable[Piece], counts: SourceSummary, report: Callable[[], None]) -> None:
        for number, piece in enumerate(pieces, 1):
            if isinstance(piece, Fault):
                self._reject(counts, piece.line, piece.reason)
            else:
                self._take(piece, counts)
            if not number % _PIECES_PER_REPORT:
                report()

    def _take(self, found: Found, counts: SourceSummary, *, in_workflow: bool = False) -> None:
        try:
            task = admit(found.text, self._task_id_format)
        except Refused as refused:
            self._reject(counts, found.line, refused.reason)
            return
        if task is not None:
            counts.documents += 1
            self._add(task)
        elif in_workflow:
            self._reject(counts, found.line, "a Workflow inside a Workflow")
        else:
            self._take_workflow(found, counts)

    def _take_workflow(self, workflow: Found, counts: SourceSummary) -> None:
        for piece in read_workflow(workflow):
            if isinstance(piece, Found):
                self._take(piece, counts, in_workflow=True)

    def _add(self, task: StoredTask) -> None:
        self._batch.append(task)
        self._batch_bytes += len(task.document)
        if len(self._batch) >= BATCH_TASKS or self._batch_bytes >= BATCH_BYTES:
            self.write_batch()

    def _reject(self, counts: SourceSummary, line: int | None, reason: str) -> None:
        counts.rejects += 1
        self._on_reject(Reject(counts.name, line, reason))

    def _report(self, source: Source, intake: Intake) -> None:
        self._on_progress(
            Progress(source.name, intake.bytes_read, source.size, self.summary.documents, self.summary.rejects)
        )
