"""Import documents from many sources into one store, in batches, and count the outcomes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from taskgate.base.errors import StoreUnavailable
from taskgate.base.task_id import TaskIdFormat
from taskgate.importing.prefetch import prefetch
from taskgate.importing.reader import Fault, Piece, Reader, read_workflow
from taskgate.importing.source import InputStream, Source, reason_of
from taskgate.importing.validation import RejectedDocument, validate_task
from taskgate.stores.base import StoredTask, TaskWriter, WriteCounts

BATCH_TASKS = 4000
BATCH_BYTES = 8 * 1024 * 1024
"""A batch is written when it reaches ``BATCH_TASKS`` tasks or ``BATCH_BYTES`` bytes of documents."""

_EVENTS_PER_REPORT = 4000
_EVENTS_AHEAD = 4  # two batches, each followed by a report, are read while one is written


@dataclass(frozen=True, slots=True)
class Reject:
    """A document that is not stored, or a fault of its source; ``line`` is None for a fault of the whole source."""

    source: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress in the current source; ``total_bytes`` is None if it cannot be known.

    ``documents`` and ``rejects`` are those of the whole import.
    """

    source: str
    bytes_read: int
    total_bytes: int | None
    documents: int
    rejects: int


@dataclass(slots=True)
class SourceSummary:
    """Counts of one source: accepted task documents, and rejects."""

    name: str
    documents: int = 0
    rejects: int = 0


@dataclass(slots=True)
class ImportSummary:
    """Outcome of an import.

    ``written`` is the exact count of what is in the store, also if the import was stopped. ``stopped_by`` is the
    KeyboardInterrupt or StoreUnavailable that ended it early, else None.
    """

    written: WriteCounts
    sources: list[SourceSummary] = field(default_factory=list)
    stopped_by: KeyboardInterrupt | StoreUnavailable | None = None

    @property
    def documents(self) -> int:
        """Accepted task documents; more than were written only if the import was stopped."""
        return sum(source.documents for source in self.sources)

    @property
    def rejects(self) -> int:
        """Rejects of all sources."""
        return sum(source.rejects for source in self.sources)

    @property
    def complete(self) -> bool:
        """Whether everything in the sources is in the store now."""
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

    A source that cannot be read is a reject, and the import continues with the others. A stop, by Ctrl-C or by the
    store, loses the whole batch that is not yet written; the summary reports it. The callbacks run in this thread.
    """
    summary = ImportSummary(writer.total)
    try:
        # SQLite writes without the interpreter lock: meanwhile a thread can read and check the next documents.
        with closing(prefetch(_events(sources, task_id_format, summary), _EVENTS_AHEAD)) as events:
            for event in events:
                match event:
                    case Reject():
                        on_reject(event)
                    case Progress():
                        on_progress(event)
                    case batch:
                        writer.write(batch)
    except (KeyboardInterrupt, StoreUnavailable) as stop:
        summary.stopped_by = stop
    return summary


def _events(
    sources: Sequence[Source], task_id_format: TaskIdFormat, summary: ImportSummary
) -> Iterator[list[StoredTask] | Reject | Progress]:
    """Yield batches to write, rejects, and progress."""
    batch: list[StoredTask] = []
    batch_bytes = 0
    for source in sources:
        for event in _Reading(source, task_id_format, summary).events():
            if not isinstance(event, StoredTask):
                yield event
                continue
            batch.append(event)
            batch_bytes += len(event.document)
            if len(batch) >= BATCH_TASKS or batch_bytes >= BATCH_BYTES:
                yield batch
                batch, batch_bytes = [], 0
    if batch:
        yield batch


class _Reading:
    """One source being read."""

    def __init__(self, source: Source, task_id_format: TaskIdFormat, summary: ImportSummary) -> None:
        self._source = source
        self._task_id_format = task_id_format
        self._summary = summary
        self._counts = SourceSummary(source.name)
        summary.sources.append(self._counts)

    def events(self) -> Iterator[StoredTask | Reject | Progress]:
        """Yield all tasks and rejects in order, with progress reports between them and at the end."""
        try:
            opened = self._source.open()
        except (OSError, ValueError) as error:
            yield self._reject(None, f"cannot be opened: {reason_of(error)}")
            return
        with opened:
            stream = InputStream(opened)
            reader = Reader(stream.read)
            number = 0
            for piece in reader.pieces():
                if piece is None:
                    yield self._progress(stream, reader)
                    continue
                for event in self._validate(piece):
                    yield event
                    number += 1
                    if not number % _EVENTS_PER_REPORT:
                        yield self._progress(stream, reader)
        if stream.fault is not None:
            yield self._reject(None, stream.fault)
        yield self._progress(stream, reader)

    def _validate(self, piece: Piece, *, in_workflow: bool = False) -> Iterator[StoredTask | Reject]:
        if isinstance(piece, Fault):
            yield self._reject(piece.line, piece.reason)
            return
        try:
            task = validate_task(piece.text, self._task_id_format)
        except RejectedDocument as rejected:
            yield self._reject(piece.line, rejected.reason)
            return
        if task is not None:
            self._counts.documents += 1
            yield task
        elif in_workflow:
            yield self._reject(piece.line, "a Workflow inside a Workflow")
        else:
            for element in read_workflow(piece):
                yield from self._validate(element, in_workflow=True)

    def _reject(self, line: int | None, reason: str) -> Reject:
        self._counts.rejects += 1
        return Reject(self._source.name, line, reason)

    def _progress(self, stream: InputStream, reader: Reader) -> Progress:
        summary, size = self._summary, self._source.size
        done = stream.bytes_read if size is None else round(stream.bytes_read * reader.share)
        return Progress(self._source.name, done, size, summary.documents, summary.rejects)
