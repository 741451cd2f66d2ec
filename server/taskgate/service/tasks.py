"""Look up a task by its ID and return its document or its typed message: the service behind every transport."""

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from taskgate.base.errors import DocumentTooLarge, DocumentUnreadable, Overloaded, PermissionDenied, TaskNotFound
from taskgate.base.layout import Layout
from taskgate.base.task_id import TaskIdFormat, check_task_id
from taskgate.documents.conversion import Conversion, Converted, check_servable, convert
from taskgate.documents.document import CheckedDocuments, DocumentError, check_document, sha256
from taskgate.documents.masking import Masking
from taskgate.documents.workflow_type import workflow_type_of
from taskgate.service.conversion_cache import ConversionCache, key_of
from taskgate.service.in_flight import COUNTED_BYTES, InFlight, Room
from taskgate.service.large_conversions import LargeConversions
from taskgate.service.view import UNKNOWN, Reader
from taskgate.stores.base import TaskStore

_LARGE_DOCUMENT_BYTES = 256 * 1024
"""Larger documents are checked in a thread; checking a smaller one is faster than the switch to a thread."""

_MIDDLE_DOCUMENT_BYTES = 16 * 1024
"""Larger documents are checked once and remembered; checking a smaller one is faster than remembering it."""

_INLINE_CONVERSION_BYTES = {
    Conversion.ROW_TO_DOCUMENT: 64 * 1024,  # 6 µs for each kilobyte
    Conversion.DOCUMENT_TO_TASK: 16 * 1024,  # 25 µs for each kilobyte, with perhaps hundreds of calls in flight
    Conversion.ROW_TO_TASK: 16 * 1024,
    Conversion.DOCUMENT_TO_MASKED_DOCUMENT: 32 * 1024,  # 3 to 30 µs for each kilobyte
    Conversion.ROW_TO_MASKED_DOCUMENT: 16 * 1024,
    Conversion.DOCUMENT_TO_MASKED_TASK: 16 * 1024,
    Conversion.ROW_TO_MASKED_TASK: 16 * 1024,
    Conversion.WORKFLOW_TYPE: 32 * 1024,  # 1 µs for each kilobyte, 100 if they are all brackets
}
"""Larger values are converted in a separate process, see ``conversion_process``: a thread would take the interpreter
lock from the event loop."""

_MASKED_TASK = {
    Conversion.DOCUMENT_TO_TASK: Conversion.DOCUMENT_TO_MASKED_TASK,
    Conversion.ROW_TO_TASK: Conversion.ROW_TO_MASKED_TASK,
}

_SHOWN_TYPE_CHARACTERS = 64

_HUGE_CONVERSION_BYTES = 2 * 1024 * 1024
"""Larger values are converted in a second process: they may take seconds, and smaller ones do not wait for them."""

_MAX_SIZES = 4096
"""How many sizes of large documents are remembered, to reserve room before reading one again."""

_THREADS = 1
"""More threads would only compete with the event loop for the interpreter lock."""


class TaskService:
    """Serve task executions by ID from ``store``."""

    def __init__(
        self,
        store: TaskStore,
        task_id_format: TaskIdFormat,
        *,
        layout: Layout = Layout.TASKGATE,
        in_flight: InFlight | None = None,
        python: str = sys.executable,
        mask: Sequence[str] = (),
    ) -> None:
        """``layout`` is what the store holds, ``python`` the interpreter that runs large conversions.

        ``mask`` has the patterns of the keys that are hidden from callers whose view is masked.

        ``in_flight`` is the budget for large answers. A method with a ``caller`` counts its answer there and sets
        ``caller.room``, which the transport must release. Without a ``caller`` nothing is counted.
        """
        self._in_flight = in_flight or InFlight(sys.maxsize, own_bytes=0)
        self._layout = layout
        self._store = store
        self._task_id_format = task_id_format
        self._sizes: dict[str, int] = {}  # of large documents, at their last read
        self._large = CheckedDocuments(sha256)
        self._middle = CheckedDocuments(hash)
        self._threads = ThreadPoolExecutor(_THREADS, "check")
        self.conversion_cache = ConversionCache()
        self._masking = Masking(mask) if mask else None
        self._large_conversions = LargeConversions(python, masking=self._masking)
        self._huge_conversions = LargeConversions(python, masking=self._masking)

    async def get_task_json(self, task_id: str, caller: Reader | None = None) -> bytes:
        """Return the task's REST document: one JSON object in UTF-8, byte for byte as stored, or as Conductor answers.

        For a caller whose view is masked, the values of masked keys are replaced; all other bytes are the same.

        Raises:
            InvalidTaskId: the ID is not of the configured format; the store was not asked.
            TaskNotFound: no stored task has this ID.
            PermissionDenied: the caller may not read tasks of this workflow type, or it cannot be told.
            StoreUnavailable: the store cannot answer now.
            Overloaded: too many reads or large conversions wait, or a large answer has no room.
            DocumentUnreadable: the stored value is not a JSON object, or not a row that Conductor can read.
            DocumentTooLarge: the document is over ``MAX_DOCUMENT_BYTES``.
        """
        view = UNKNOWN if caller is None else caller.view or UNKNOWN
        if view.workflow_types is None:
            stored = await self._read(task_id, caller)
        else:
            stored = await self._read_permitted(task_id, caller, view.workflow_types)
        masked = self._masking is not None and view.masked
        if self._layout is Layout.CONDUCTOR:
            conversion = Conversion.ROW_TO_MASKED_DOCUMENT if masked else Conversion.ROW_TO_DOCUMENT
            return await self._answer(conversion, task_id, stored, caller)
        if masked:
            return await self._answer(Conversion.DOCUMENT_TO_MASKED_DOCUMENT, task_id, stored, caller)
        try:
            if len(stored) <= _MIDDLE_DOCUMENT_BYTES:
                check_document(stored)
            else:
                await self._check_larger(stored, None if caller is None else caller.room)
        except DocumentError as error:
            raise DocumentUnreadable(task_id) from error
        return stored

    async def get_task(self, task_id: str, caller: Reader | None = None) -> bytes:
        """Return the task as a serialised ``Task`` message.

        Raises:
            TaskNotRepresentable: the document holds a value that ``Task`` cannot hold.
            InvalidTaskId, TaskNotFound, PermissionDenied, StoreUnavailable, Overloaded, DocumentUnreadable,
                DocumentTooLarge: as ``get_task_json``.
        """
        view = UNKNOWN if caller is None else caller.view or UNKNOWN
        if view.workflow_types is None:
            stored = await self._read(task_id, caller)
        else:
            stored = await self._read_permitted(task_id, caller, view.workflow_types)
        from_rows = self._layout is Layout.CONDUCTOR
        conversion = Conversion.ROW_TO_TASK if from_rows else Conversion.DOCUMENT_TO_TASK
        if self._masking is not None and view.masked:
            conversion = _MASKED_TASK[conversion]
        return await self._answer(conversion, task_id, stored, caller)

    async def close(self) -> None:
        """End the conversion processes and cancel the calls that wait for them. The store stays open."""
        await self._large_conversions.close()
        await self._huge_conversions.close()
        self._threads.shutdown(wait=False)

    async def _check_larger(self, stored: bytes, room: Room | None) -> None:
        """``check_document`` for a document that is not known to have passed it. Raises DocumentError."""
        if room is not None and room.checked:
            return
        if len(stored) <= _LARGE_DOCUMENT_BYTES:
            self._middle.check(stored)
        else:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._large.check, stored)
        if room is not None:
            room.checked = True

    async def _read_permitted(self, task_id: str, caller: Reader | None, allowed: frozenset[str]) -> bytes:
        """Read a task of one of the workflow types ``allowed``. Errors say nothing of a task that is of another.

        Raises PermissionDenied, and what ``_read`` raises of the call and of the store.
        """
        if not allowed:
            raise PermissionDenied("the caller has no role that may read tasks")
        try:
            stored = await self._read(task_id, caller)
        except (DocumentTooLarge, DocumentUnreadable) as error:
            raise PermissionDenied("its workflow type cannot be told: it is too large or unreadable") from error
        except Overloaded as error:  # names the size of the answer
            limit = error.metadata.get("limit", "")
            if not limit.startswith("in_flight_bytes"):
                raise
            raise Overloaded("Overloaded: large answers take all the room; try again", limit=limit) from error
        if len(stored) <= _INLINE_CONVERSION_BYTES[Conversion.WORKFLOW_TYPE]:
            found = workflow_type_of(stored)
        else:
            known = await self._convert_or_reuse(Conversion.WORKFLOW_TYPE, task_id, stored)
            found = known.decode(errors="surrogatepass") or None
        if found is None:
            raise PermissionDenied("its workflow type cannot be told: the document names none, or several")
        if found not in allowed:
            raise PermissionDenied(f"it is of workflow type {found[:_SHOWN_TYPE_CHARACTERS]!a}")
        return stored

    async def _read(self, task_id: str, caller: Reader | None) -> bytes:
        check_task_id(task_id, self._task_id_format)
        size = self._sizes.get(task_id)
        if size is None or caller is None:
            stored = await self._store.get_document(task_id)
            if stored is not None and len(stored) <= COUNTED_BYTES:  # the fast path: most documents are small
                return stored
            stored = self._check_stored(task_id, stored)
            if caller is None:
                return stored
            size = len(stored)
            room = caller.room = self._in_flight.room(caller)
            if room.take(task_id, stored):
                return room.document
            del stored  # free its memory while waiting
        else:
            room = caller.room = self._in_flight.room(caller)
        return await self._read_large(task_id, size, room)

    async def _read_large(self, task_id: str, size: int, room: Room) -> bytes:
        """Wait for room for a document of about ``size`` bytes, then read it."""
        await room.wait(size, shared=room.may_share(task_id))
        try:
            while not room.take(
                task_id, stored := self._check_stored(task_id, await self._store.get_document(task_id))
            ):
                size = len(stored)
                del stored
                await room.wait(size)
        except (TaskNotFound, DocumentUnreadable, DocumentTooLarge):  # needs no room: let the next call fail at once
            self._sizes.pop(task_id, None)
            raise
        if len(room.document) <= COUNTED_BYTES:  # it has shrunk since its last read
            self._sizes.pop(task_id, None)
        return room.document

    def _check_stored(self, task_id: str, stored: bytes | None) -> bytes:
        """Return the value just read, and remember its size. Raises TaskNotFound and DocumentTooLarge."""
        if stored is None:
            raise TaskNotFound(task_id)
        check_servable(task_id, stored)
        if len(stored) > COUNTED_BYTES:
            self._sizes[task_id] = len(stored)
            if len(self._sizes) > _MAX_SIZES:
                del self._sizes[next(iter(self._sizes))]
        return stored

    async def _answer(self, conversion: Conversion, task_id: str, stored: bytes, caller: Reader | None) -> bytes:
        """Convert ``stored``, and take room for the answer in place of the stored value."""
        answer = await self._convert_or_reuse(conversion, task_id, stored)
        if caller is None:
            return answer
        key = conversion, task_id
        if caller.room is not None:
            return caller.room.replace(key, answer)
        if len(answer) <= COUNTED_BYTES:
            return answer
        room = caller.room = self._in_flight.room(caller)  # the stored value was small and has no room
        while not room.take(key, answer):
            size = len(answer)
            del answer  # free its memory while waiting
            await room.wait(size)
            answer = await self._convert_or_reuse(conversion, task_id, stored)
        return room.document

    async def _convert_or_reuse(self, conversion: Conversion, task_id: str, stored: bytes) -> bytes:
        """Return the answer for ``stored``, which was just read: from the cache, or converted now."""
        if not self.conversion_cache.accepts(stored):
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
            self.conversion_cache.put(key, converted.answer)
        return converted.answer

    async def _convert(self, conversion: Conversion, task_id: str, stored: bytes) -> Converted:
        if len(stored) <= _INLINE_CONVERSION_BYTES[conversion]:
            return convert(conversion, task_id, stored, self._masking)
        large = len(stored) <= _HUGE_CONVERSION_BYTES
        conversions = self._large_conversions if large else self._huge_conversions
        return await conversions.convert(conversion, task_id, stored)
