"""Count a store's reads by outcome, and their durations: a ``TaskStore`` around a ``TaskStore``."""

import asyncio
import time
from bisect import bisect_left
from typing import Final

from taskgate.base.errors import DocumentUnreadable, Overloaded, StoreUnavailable
from taskgate.stores.base import StoreState, TaskStore
from taskgate.telemetry.block import Block, Family
from taskgate.telemetry.calls import SECONDS

_READS, _SECONDS = "taskgate_store_reads", "taskgate_store_read_seconds"

_OUTCOMES: Final[dict[type[BaseException], str]] = {
    StoreUnavailable: "unavailable",
    Overloaded: "overloaded",
    DocumentUnreadable: "unreadable",
    asyncio.CancelledError: "cancelled",
}
_FOUND, _NOT_FOUND, _ERROR = "found", "not_found", "error"

READ_FAMILIES: Final = [
    Family(
        name=_READS,
        kind="counter",
        help="Reads of the store, by outcome. Calls that share a read count one each.",
        labels=("outcome",),
        series=tuple((outcome,) for outcome in (_FOUND, _NOT_FOUND, *_OUTCOMES.values(), _ERROR)),
    ),
    Family(name=_SECONDS, kind="histogram", help="Seconds of a read of the store, with its waits.", buckets=SECONDS),
]


class MeteredStore:
    """Read from ``store``, and count in ``block``."""

    def __init__(self, store: TaskStore, block: Block) -> None:
        self._store = store
        self._read = store.get_document
        self._numbers = block.numbers
        self._seconds = block.place(_SECONDS)
        self._total = self._seconds + len(SECONDS) + 1
        self._found, self._not_found = block.place(_READS, _FOUND), block.place(_READS, _NOT_FOUND)
        self._error = block.place(_READS, _ERROR)
        self._outcomes = {kind: block.place(_READS, outcome) for kind, outcome in _OUTCOMES.items()}

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        began = time.perf_counter()
        try:
            document = await self._read(task_id)
            outcome = self._not_found if document is None else self._found
        except BaseException as error:
            outcome = self._outcomes.get(type(error), self._error)
            raise
        else:
            return document
        finally:
            took = time.perf_counter() - began
            numbers = self._numbers
            numbers[outcome] += 1
            numbers[self._seconds + bisect_left(SECONDS, took)] += 1
            numbers[self._total] += took

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._store.check()

    def state(self) -> StoreState:
        """See ``TaskStore``."""
        return self._store.state()

    async def close(self) -> None:
        """See ``TaskStore``."""
        await self._store.close()
