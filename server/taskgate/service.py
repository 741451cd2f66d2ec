"""The one question taskgate answers, free of any transport and any database."""

import asyncio
import sys

from taskgate.conversion import LargeConversions
from taskgate.document import MAX_DOCUMENT_BYTES, CheckedDocuments, DocumentError, check_document
from taskgate.conductor_task import project_task_model
from taskgate.errors import DocumentTooLarge, DocumentUnreadable, TaskNotFound
from taskgate.layout import Layout
from taskgate.stores.base import TaskStore
from taskgate.task_id import TaskIdFormat, check_task_id
from taskgate.task_message import task_from_document

_LARGE_DOCUMENT_BYTES = 256 * 1024
"""Larger documents are worked on in a thread; smaller ones are done sooner than a thread is asked."""

_INLINE_CONVERSION_BYTES = 16 * 1024
"""Larger documents are converted in a thread: 25 µs for each kilobyte, and there may be hundreds of calls at once."""

_LARGE_CONVERSION_BYTES = 1024 * 1024
"""Larger documents are converted in a process of their own: see ``conversion``."""


class TaskService:
    """Task executions by ID, from ``store``."""

    def __init__(
        self,
        store: TaskStore,
        task_id_format: TaskIdFormat,
        *,
        layout: Layout = Layout.TASKGATE,
        python: str = sys.executable,
    ) -> None:
        """``layout`` is what the store holds, ``python`` the interpreter that large conversions run in."""
        self._layout = layout
        self._store = store
        self._task_id_format = task_id_format
        self._checked = CheckedDocuments()
        self._conversions = LargeConversions(python)

    async def get_task_json(self, task_id: str) -> bytes:
        """The task's REST document: one JSON object in UTF-8, byte for byte as stored.

        Raises:
            InvalidTaskId: the ID is not of the configured format; no store was asked.
            TaskNotFound: no stored task has this ID.
            StoreUnavailable: the store cannot answer now.
            DocumentUnreadable: the stored value is not a JSON object.
            DocumentTooLarge: the document is over ``MAX_DOCUMENT_BYTES``.
        """
        document = await self._read(task_id)
        try:
            if len(document) > _LARGE_DOCUMENT_BYTES:
                await asyncio.to_thread(self._checked.check, document)
            else:
                check_document(document)
        except DocumentError as error:
            raise DocumentUnreadable(task_id) from error
        return document

    async def get_task(self, task_id: str) -> bytes:
        """The task as a serialised ``Task`` message.

        Raises:
            TaskNotRepresentable: the document holds a value that ``Task`` has no place for.
            InvalidTaskId, TaskNotFound, StoreUnavailable, DocumentUnreadable, DocumentTooLarge: as ``get_task_json``.
        """
        document = await self._read(task_id)
        try:
            if len(document) > _LARGE_CONVERSION_BYTES:
                return await self._conversions.convert(document)
            if len(document) > _INLINE_CONVERSION_BYTES:
                return await asyncio.to_thread(_converted, document)
            return _converted(document)
        except DocumentError as error:
            raise DocumentUnreadable(task_id) from error

    async def _read(self, task_id: str) -> bytes:
        check_task_id(task_id, self._task_id_format)
        document = await self._store.get_document(task_id)
        if document is None:
            raise TaskNotFound(task_id)
        if len(document) > MAX_DOCUMENT_BYTES:
            raise DocumentTooLarge(
                f"Task {task_id} is a document of {len(document)} bytes; at most {MAX_DOCUMENT_BYTES} can be served",
                task_id=task_id,
                document_bytes=str(len(document)),
                maximum_bytes=str(MAX_DOCUMENT_BYTES),
            )
        return document


def _converted(document: bytes) -> bytes:
    message: bytes = task_from_document(document).SerializeToString()
    return message
