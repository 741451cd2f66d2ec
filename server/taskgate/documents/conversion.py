"""Convert a stored value into an answer: Conductor's row into a document, a document into the typed task."""

import time
from enum import Enum
from typing import NamedTuple

from taskgate.base.errors import DocumentTooLarge, DocumentUnreadable, TaskNotFound, shortened
from taskgate.documents.conductor import NullRowError, project_task_model
from taskgate.documents.document import MAX_DOCUMENT_BYTES, DocumentError
from taskgate.documents.task_message import task_from_document


class Conversion(Enum):
    """The kinds of conversion. ``conversion_process`` sends the values over its socket."""

    ROW_TO_DOCUMENT = b"d"
    """Conductor's ``TaskModel`` to the REST document."""
    DOCUMENT_TO_TASK = b"t"
    """The REST document to a serialised ``Task``."""
    ROW_TO_TASK = b"b"
    """Conductor's ``TaskModel`` to a serialised ``Task``."""


class Converted(NamedTuple):
    """The result of a conversion."""

    answer: bytes
    cacheable: bool
    """Whether the answer does not depend on the time."""


def convert(conversion: Conversion, task_id: str, stored: bytes) -> Converted:
    """Convert ``stored``, the store's value for ``task_id``.

    Raises:
        TaskNotFound: the row is null.
        DocumentUnreadable: the value is not a document or row; ``__cause__`` says why.
        DocumentTooLarge: the document made of a row is over ``MAX_DOCUMENT_BYTES``.
        TaskNotRepresentable: the document holds a value that ``Task`` cannot hold.
    """
    try:
        if conversion is Conversion.DOCUMENT_TO_TASK:
            document, cacheable = stored, True
        else:
            document, cacheable = project_task_model(stored, time.time_ns() // 1_000_000)
            check_servable(task_id, document)
        if conversion is Conversion.ROW_TO_DOCUMENT:
            return Converted(document, cacheable)
        message: bytes = task_from_document(document).SerializeToString()
    except NullRowError as error:
        raise TaskNotFound(task_id) from error
    except DocumentError as error:
        raise DocumentUnreadable(task_id) from error
    return Converted(message, cacheable)


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
