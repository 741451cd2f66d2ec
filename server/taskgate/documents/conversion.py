"""What a stored value becomes before it is answered: Conductor's row a document, a document the typed task."""

import time
from enum import Enum
from typing import NamedTuple

from taskgate.base.errors import DocumentTooLarge, DocumentUnreadable, TaskNotFound, shortened
from taskgate.documents.conductor import NoTaskError, project_task_model
from taskgate.documents.document import MAX_DOCUMENT_BYTES, DocumentError
from taskgate.documents.task_message import task_from_document


class Conversion(Enum):
    """From what to what. Values are how ``conversion_process`` is told."""

    ROW_TO_DOCUMENT = b"d"
    """Conductor's ``TaskModel`` to the REST document."""
    DOCUMENT_TO_TASK = b"t"
    """The REST document to a serialised ``Task``."""
    ROW_TO_TASK = b"b"
    """Both in turn."""


class Converted(NamedTuple):
    """What a stored value became."""

    answer: bytes
    lasts: bool
    """Whether it would become the same at any other time."""


def convert(conversion: Conversion, task_id: str, stored: bytes) -> Converted:
    """``stored``, the value that the store has for ``task_id``, as ``conversion`` says.

    Raises:
        TaskNotFound: it is a row that is null.
        DocumentUnreadable: it is not what it should be; ``__cause__`` says why.
        DocumentTooLarge: the document made of it is over ``MAX_DOCUMENT_BYTES``.
        TaskNotRepresentable: the document holds a value that ``Task`` has no place for.
    """
    try:
        if conversion is Conversion.DOCUMENT_TO_TASK:
            document, lasts = stored, True
        else:
            document, lasts = project_task_model(stored, time.time_ns() // 1_000_000)
            check_servable(task_id, document)
        if conversion is Conversion.ROW_TO_DOCUMENT:
            return Converted(document, lasts)
        message: bytes = task_from_document(document).SerializeToString()
    except NoTaskError as error:
        raise TaskNotFound(task_id) from error
    except DocumentError as error:
        raise DocumentUnreadable(task_id) from error
    return Converted(message, lasts)


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
