"""Base of the PostgreSQL and MySQL writers: each batch is a transaction, on a connection that may break.

Also defines the table comment that marks taskgate's own tables.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import WriteCounts
from taskgate.stores.writing.interrupts import interrupts_held
from taskgate.stores.writing.loop_thread import LoopThread
from taskgate.stores.writing.writer import Writer

_MARK: Final = "taskgate layout "
_LAYOUT_VERSION: Final = 1

COMMENT: Final = f"{_MARK}{_LAYOUT_VERSION}"
"""The comment on tables that taskgate creates."""

PREPARE_TIMEOUT: Final = 90.0
"""Seconds for connecting and creating the layout, which may wait for other writers doing the same."""

BATCH_TIMEOUT: Final = 300.0
"""Deadline of a batch, in seconds: by then the server has stopped answering."""

INTERRUPT_GRACE: Final = 3.0
"""Seconds that Ctrl-C waits for the answer to a commit."""


class SqlWriter(Writer):
    """Write batches, each in one transaction. Several writers may run at once, without affecting readers."""

    def __init__(
        self,
        name: str,
        explain: Callable[[str, Exception], StoreUnavailable | None],
        lost: tuple[type[Exception], ...],
    ) -> None:
        """``explain`` returns the public form of an error of the driver or the network, or None.

        ``lost`` are the errors that leave a commit unanswered.
        """
        super().__init__(name)
        self._explain = explain
        self._lost = lost
        self._connection: Any = None
        self._loop = LoopThread()

    def _open(self) -> None:
        try:
            with self._faults():
                self._loop.run(self._prepare_in_time())
        except BaseException:
            self.close()
            raise

    def _commit_after(self, put: Coroutine[Any, Any, WriteCounts], size: int) -> WriteCounts:
        """Connect if needed, write ``size`` tasks by ``put``, commit, and return the counts that ``put`` returned.

        After an unanswered commit, the tasks may or may not be stored: StoreUnavailable says so, and ``total`` leaves
        them out. Ctrl-C raises KeyboardInterrupt, with such an error as its context.
        """
        with self._faults():
            counts = self._loop.run(self._put_in_time(put))
            with interrupts_held() as held:
                try:
                    if not self._loop.run_unless(held, INTERRUPT_GRACE, self._committed()):
                        raise self._unknown("it did not answer", size)
                except self._lost as error:
                    raise self._unknown("the connection was lost", size) from error
                self.total += counts
        return counts

    def _unknown(self, why: str, size: int) -> StoreUnavailable:
        total = self.total
        before = total.added + total.replaced + total.unchanged + total.older
        return StoreUnavailable(
            f"{why} when the last batch was to be committed: {before:,} tasks before it are dealt with,"
            f" its {size:,} may or may not be stored; run the import again, which writes nothing twice",
            store=self._name,
        )

    async def _prepare_in_time(self) -> None:
        async with asyncio.timeout(PREPARE_TIMEOUT):
            await self._prepare()

    async def _put_in_time(self, put: Coroutine[Any, Any, WriteCounts]) -> WriteCounts:
        if self._connection is None:
            try:
                await self._prepare_in_time()
            except BaseException:
                put.close()
                raise
        async with asyncio.timeout(BATCH_TIMEOUT):
            return await put

    async def _committed(self) -> bool:
        await self._commit()
        return True

    def _release(self) -> None:
        self._loop.run(self._disconnect())
        self._loop.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """On any error, disconnect to end the transaction, and raise its public form if any."""
        try:
            yield
        except BaseException as error:
            if not self._closed:
                self._loop.run(self._disconnect())
            public = self._explain(self._name, error) if isinstance(error, Exception) else None
            if public is None:
                raise
            raise public from error

    @abstractmethod
    async def _prepare(self) -> None:
        """Connect, and create or verify the layout."""

    @abstractmethod
    async def _commit(self) -> None:
        """Commit; raises one of the ``lost`` errors if the server does not answer."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Terminate any connection without waiting; the server rolls back uncommitted changes."""


def foreign(comment: str) -> str | None:
    """Return why taskgate must not write to a table with this comment, or None."""
    if not comment.startswith(_MARK):
        return "it belongs to another program (Conductor's own?), and taskgate writes only into tables it made"
    if comment != COMMENT:
        return f"it has layout {comment.removeprefix(_MARK)}, and this taskgate writes layout {_LAYOUT_VERSION}"
    return None
