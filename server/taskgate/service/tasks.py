"""The one question taskgate answers, free of any transport and any database."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from taskgate.base.errors import DocumentTooLarge, DocumentUnreadable, TaskNotFound
from taskgate.base.layout import Layout
from taskgate.base.task_id import TaskIdFormat, check_task_id
from taskgate.documents.conversion import Conversion, Converted, check_servable, convert
from taskgate.documents.document import CheckedDocuments, DocumentError, check_document, sha256
from taskgate.service.conversion_cache import ConversionCache, key_of
from taskgate.service.in_flight import COUNTED_BYTES, Caller, InFlight, Room
from taskgate.service.large_conversions import LargeConversions
from taskgate.stores.base import TaskStore

_LARGE_DOCUMENT_BYTES = 256 * 1024
"""Larger documents are checked in a thread; smaller ones are done sooner than a thread is asked."""

_MIDDLE_DOCUMENT_BYTES = 16 * 1024
"""Smaller documents are checked sooner than it would pay to know that they have been."""

_INLINE_CONVERSION_BYTES = {
    Conversion.ROW_TO_DOCUMENT: 64 * 1024,  # 6 µs for each kilobyte
    Conversion.DOCUMENT_TO_TASK: 16 * 1024,  # 25 µs for each kilobyte, and there may be hundreds of calls at once
    Conversion.ROW_TO_TASK: 16 * 1024,
}
"""Larger values are converted in a process of its own: see ``conversion_process``. In a thread they would take the
interpreter lock from the event loop."""

_HUGE_CONVERSION_BYTES = 2 * 1024 * 1024
"""Larger values are converted in one more: they may take seconds, and others need not wait for them."""

_SIZES = 4096
"""Large documents whose size is known, so that there is room for them before they are read."""

_THREADS = 1
"""More would only take the interpreter lock from the event loop."""


class TaskService:
    """Task executions by ID, from ``store``."""

    def __init__(
        self,
        store: TaskStore,
        task_id_format: TaskIdFormat,
        *,
        layout: Layout = Layout.TASKGATE,
        in_flight: InFlight | None = None,
        python: str = sys.executable,
    ) -> None:
        """``layout`` is what the store holds, ``python`` the interpreter that large conversions run in.

        ``in_flight`` is the budget for large answers: a method that is given a ``caller`` counts its answer there, and
        whoever asked releases ``caller.room``. Without either nothing is counted.
        """
        self._in_flight = in_flight or InFlight(sys.maxsize, own_bytes=0)
        self._layout = layout
        self._store = store
        self._task_id_format = task_id_format
        self._sizes: dict[str, int] = {}  # of large documents, as they were read last
        self._large = CheckedDocuments(sha256)
        self._middle = CheckedDocuments(hash)
        self._threads = ThreadPoolExecutor(_THREADS, "check")
        self.conversion_cache = ConversionCache()
        self._large_conversions = LargeConversions(python)
        self._huge_conversions = LargeConversions(python)

    async def get_task_json(self, task_id: str, caller: Caller | None = None) -> bytes:
        """The task's REST document: one JSON object in UTF-8, byte for byte as stored, or as Conductor would answer.

        Raises:
            InvalidTaskId: the ID is not of the configured format; no store was asked.
            TaskNotFound: no stored task has this ID.
            StoreUnavailable: the store cannot answer now.
            Overloaded: too many reads or large conversions are waiting, or there is no room for a large answer.
            DocumentUnreadable: the stored value is not a JSON object, or no row that Conductor could read.
            DocumentTooLarge: the document is over ``MAX_DOCUMENT_BYTES``.
        """
        stored = await self._read(task_id, caller)
        if self._layout is Layout.CONDUCTOR:
            return await self._made(Conversion.ROW_TO_DOCUMENT, task_id, stored, caller)
        try:
            if len(stored) <= _MIDDLE_DOCUMENT_BYTES:
                check_document(stored)
            else:
                await self._check_larger(stored, None if caller is None else caller.room)
        except DocumentError as error:
            raise DocumentUnreadable(task_id) from error
        return stored

    async def get_task(self, task_id: str, caller: Caller | None = None) -> bytes:
        """The task as a serialised ``Task`` message.

        Raises:
            TaskNotRepresentable: the document holds a value that ``Task`` has no place for.
            InvalidTaskId, TaskNotFound, StoreUnavailable, Overloaded, DocumentUnreadable, DocumentTooLarge: as
                ``get_task_json``.
        """
        stored = await self._read(task_id, caller)
        from_rows = self._layout is Layout.CONDUCTOR
        conversion = Conversion.ROW_TO_TASK if from_rows else Conversion.DOCUMENT_TO_TASK
        return await self._made(conversion, task_id, stored, caller)

    async def close(self) -> None:
        """End what converts; calls that still wait for it are cancelled. The store stays open."""
        await self._large_conversions.close()
        await self._huge_conversions.close()
        self._threads.shutdown(wait=False)

    async def _check_larger(self, stored: bytes, room: Room | None) -> None:
        """``check_document``, unless it is known that ``stored`` has passed. Raises DocumentError."""
        if room is not None and room.checked:
            return
        if len(stored) <= _LARGE_DOCUMENT_BYTES:
            self._middle.check(stored)
        else:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._large.check, stored)
        if room is not None:
            room.checked = True

    async def _read(self, task_id: str, caller: Caller | None) -> bytes:
        check_task_id(task_id, self._task_id_format)
        size = self._sizes.get(task_id)
        if size is None or caller is None:
            stored = await self._store.get_document(task_id)
            if stored is not None and len(stored) <= COUNTED_BYTES:  # as most are: nothing else is done for them
                return stored
            stored = self._noted(task_id, stored)
            if caller is None:
                return stored
            size = len(stored)
            room = caller.room = self._in_flight.room(caller)
            if room.take(task_id, stored):
                return room.document
            del stored  # what it takes is for others meanwhile
        else:
            room = caller.room = self._in_flight.room(caller)
        return await self._read_large(task_id, size, room)

    async def _read_large(self, task_id: str, size: int, room: Room) -> bytes:
        """A document of about ``size`` bytes, read once there is room for it."""
        await room.wait(size, shared=room.may_share(task_id))
        try:
            while not room.take(task_id, stored := self._noted(task_id, await self._store.get_document(task_id))):
                size = len(stored)
                del stored
                await room.wait(size)
        except (TaskNotFound, DocumentUnreadable, DocumentTooLarge):  # refused from now on without waiting for room
            self._sizes.pop(task_id, None)
            raise
        if len(room.document) <= COUNTED_BYTES:  # it was large when it was read last
            self._sizes.pop(task_id, None)
        return room.document

    def _noted(self, task_id: str, stored: bytes | None) -> bytes:
        """``stored``, which has just been read, if it can be served; its size is known from now on."""
        if stored is None:
            raise TaskNotFound(task_id)
        check_servable(task_id, stored)
        if len(stored) > COUNTED_BYTES:
            self._sizes[task_id] = len(stored)
            if len(self._sizes) > _SIZES:
                del self._sizes[next(iter(self._sizes))]
        return stored

    async def _made(self, conversion: Conversion, task_id: str, stored: bytes, caller: Caller | None) -> bytes:
        """``_converted``, with room for the answer in place of what it was made from."""
        answer = await self._converted(conversion, task_id, stored)
        if caller is None:
            return answer
        key = conversion, task_id
        if caller.room is not None:
            return caller.room.replace(key, answer)
        if len(answer) <= COUNTED_BYTES:
            return answer
        room = caller.room = self._in_flight.room(caller)  # what it was made from was small
        while not room.take(key, answer):
            size = len(answer)
            del answer  # what it takes is for others meanwhile
            await room.wait(size)
            answer = await self._converted(conversion, task_id, stored)
        return room.document

    async def _converted(self, conversion: Conversion, task_id: str, stored: bytes) -> bytes:
        """The answer for ``stored``, which the store has just given; made only if it is not kept from another call."""
        if not self.conversion_cache.takes(stored):
            return (await self._convert(conversion, task_id, stored)).answer
        if len(stored) <= _LARGE_DOCUMENT_BYTES:
            key = key_of(conversion, stored)
        else:
            key = await asyncio.get_running_loop().run_in_executor(self._threads, key_of, conversion, stored)
        known = self.conversion_cache.get(key)
        if known is not None:
            return known
        converted = await self._convert(conversion, task_id, stored)
        if converted.cacheable:
            self.conversion_cache.keep(key, converted.answer)
        return converted.answer

    async def _convert(self, conversion: Conversion, task_id: str, stored: bytes) -> Converted:
        if len(stored) <= _INLINE_CONVERSION_BYTES[conversion]:
            return convert(conversion, task_id, stored)
        large = len(stored) <= _HUGE_CONVERSION_BYTES
        conversions = self._large_conversions if large else self._huge_conversions
        return await conversions.convert(conversion, task_id, stored)
