"""The one question taskgate answers, free of any transport and any database."""

import asyncio
import sys
import time

from taskgate.conductor_task import project_task_model
from taskgate.conversion import LargeConversions
from taskgate.document import MAX_DOCUMENT_BYTES, CheckedDocuments, DocumentError, check_document, sha256
from taskgate.errors import DocumentTooLarge, DocumentUnreadable, TaskNotFound
from taskgate.layout import Layout
from taskgate.stores.base import TaskStore
from taskgate.task_id import TaskIdFormat, check_task_id
from taskgate.task_message import task_from_document

_LARGE_DOCUMENT_BYTES = 256 * 1024
"""Larger documents are worked on in a thread; smaller ones are done sooner than a thread is asked."""

_MIDDLE_DOCUMENT_BYTES = 16 * 1024
"""Smaller documents are checked sooner than it would pay to know that they have been."""

_INLINE_PROJECTION_BYTES = 64 * 1024
"""Larger rows of Conductor's are projected in a thread: 6 µs for each kilobyte."""

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
        self._large = CheckedDocuments(sha256)
        self._middle = CheckedDocuments(hash)
        self._conversions = LargeConversions(python)

    async def get_task_json(self, task_id: str) -> bytes:
        """The task's REST document: one JSON object in UTF-8, byte for byte as stored, or as Conductor would answer.

        Raises:
            InvalidTaskId: the ID is not of the configured format; no store was asked.
            TaskNotFound: no stored task has this ID.
            StoreUnavailable: the store cannot answer now.
            DocumentUnreadable: the stored value is not a JSON object, or no row that Conductor could read.
            DocumentTooLarge: the document is over ``MAX_DOCUMENT_BYTES``.
        """
        stored = await self._read(task_id)
        if self._layout is Layout.CONDUCTOR:
            return await self._project(task_id, stored)
        try:
            if len(stored) > _LARGE_DOCUMENT_BYTES:
                await asyncio.to_thread(self._large.check, stored)
            elif len(stored) > _MIDDLE_DOCUMENT_BYTES:
                self._middle.check(stored)
            else:
                check_document(stored)
        except DocumentError as error:
            raise DocumentUnreadable(task_id) from error
        return stored

    async def get_task(self, task_id: str) -> bytes:
        """The task as a serialised ``Task`` message.

        Raises:
            TaskNotRepresentable: the document holds a value that ``Task`` has no place for.
            InvalidTaskId, TaskNotFound, StoreUnavailable, DocumentUnreadable, DocumentTooLarge: as ``get_task_json``.
        """
        document = await self._read(task_id)
        if self._layout is Layout.CONDUCTOR:
            document = await self._project(task_id, document)
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
        stored = await self._store.get_document(task_id)
        if stored is None:
            raise TaskNotFound(task_id)
        return _of_servable_size(task_id, stored)

    async def _project(self, task_id: str, stored: bytes) -> bytes:
        now = time.time_ns() // 1_000_000
        try:
            if len(stored) > _INLINE_PROJECTION_BYTES:
                document = await asyncio.to_thread(project_task_model, stored, now)
            else:
                document = project_task_model(stored, now)
        except DocumentError as error:
            raise DocumentUnreadable(task_id) from error
        return _of_servable_size(task_id, document)


def _of_servable_size(task_id: str, document: bytes) -> bytes:
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
