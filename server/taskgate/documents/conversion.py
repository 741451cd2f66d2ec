"""Convert a stored value into an answer: Conductor's row into a document, a document into the typed task.

A masked answer is made of the masked document, so that both forms of a task hide the same values.
"""

import time
from enum import Enum
from typing import NamedTuple

from taskgate.base.errors import DocumentTooLarge, DocumentUnreadable, TaskNotFound, shortened
from taskgate.documents.conductor import NullRowError, project_task_model
from taskgate.documents.document import MAX_DOCUMENT_BYTES, DocumentError, check_document
from taskgate.documents.masking import Masking
from taskgate.documents.task_message import task_from_document
from taskgate.documents.workflow_type import workflow_type_of


class Conversion(Enum):
    """The kinds of conversion. ``conversion_process`` sends the values over its socket."""

    ROW_TO_DOCUMENT = b"d"
    """Conductor's ``TaskModel`` to the REST document."""
    DOCUMENT_TO_TASK = b"t"
    """The REST document to a serialised ``Task``."""
    ROW_TO_TASK = b"b"
    """Conductor's ``TaskModel`` to a serialised ``Task``."""
    DOCUMENT_TO_MASKED_DOCUMENT = b"D"
    ROW_TO_MASKED_DOCUMENT = b"R"
    DOCUMENT_TO_MASKED_TASK = b"T"
    ROW_TO_MASKED_TASK = b"B"
    WORKFLOW_TYPE = b"w"
    """A document or row to the name of its workflow type; empty if it has none (``workflow_type_of``)."""


class Converted(NamedTuple):
    """The result of a conversion."""

    answer: bytes
    cacheable: bool
    """Whether the answer does not depend on the time."""


_FROM_ROW = {
    Conversion.ROW_TO_DOCUMENT,
    Conversion.ROW_TO_TASK,
    Conversion.ROW_TO_MASKED_DOCUMENT,
    Conversion.ROW_TO_MASKED_TASK,
}
_TO_TASK = {
    Conversion.DOCUMENT_TO_TASK,
    Conversion.ROW_TO_TASK,
    Conversion.DOCUMENT_TO_MASKED_TASK,
    Conversion.ROW_TO_MASKED_TASK,
}
_MASKED = {
    Conversion.DOCUMENT_TO_MASKED_DOCUMENT,
    Conversion.ROW_TO_MASKED_DOCUMENT,
    Conversion.DOCUMENT_TO_MASKED_TASK,
    Conversion.ROW_TO_MASKED_TASK,
}


def convert(conversion: Conversion, task_id: str, stored: bytes, masking: Masking | None = None) -> Converted:
    """Convert ``stored``, the store's value for ``task_id``; masked conversions need ``masking``.

    Raises:
        TaskNotFound: the row is null.
        DocumentUnreadable: the value is not a document or row; ``__cause__`` says why.
        DocumentTooLarge: the document made of a row, or by masking, is over ``MAX_DOCUMENT_BYTES``.
        TaskNotRepresentable: the document holds a value that ``Task`` cannot hold.
    """
    if conversion is Conversion.WORKFLOW_TYPE:
        return Converted((workflow_type_of(stored) or "").encode(errors="surrogatepass"), cacheable=True)
    try:
        document, cacheable = stored, True
        if conversion in _FROM_ROW:
            document, cacheable = project_task_model(stored, time.time_ns() // 1_000_000)
            check_servable(task_id, document)
        if conversion in _MASKED:
            document = _masked(masking, task_id, document)
        if conversion not in _TO_TASK:
            return Converted(document, cacheable)
        message: bytes = task_from_document(document).SerializeToString()
    except NullRowError as error:
        raise TaskNotFound(task_id) from error
    except DocumentError as error:
        raise DocumentUnreadable(task_id) from error
    return Converted(message, cacheable)


def _masked(masking: Masking | None, task_id: str, document: bytes) -> bytes:
    if masking is None:
        raise ValueError("a masked conversion without patterns")
    check_document(document)
    document = masking.apply(document)
    check_servable(task_id, document)  # a mask may be longer than the value
    return document


def check_servable(task_id: str, document: bytes) -> None:
    """Raise DocumentTooLarge if ``document`` is over ``MAX_DOCUMENT_BYTES``."""
    if len(document) > MAX_DOCUMENT_BYTES:
        name = shortened(task_id)
        raise DocumentTooLarge(
            f"Task {name} is a document of {len(document)} bytes; at most {MAX_DOCUMENT_BYTES} can be served",
            task_id=name,
            document_bytes=str(len(document)),
            maximum_bytes=str(MAX_DOCUMENT_BYTES),
        )
