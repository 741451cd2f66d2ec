"""What the writers of PostgreSQL and MySQL do alike: a batch is a transaction, on a connection that may break.

And the mark by which they know their own tables: a comment.
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
"""The comment on tables that taskgate makes."""

PREPARE_TIMEOUT: Final = 90.0
"""Seconds for connecting and making the layout, which may wait for other writers that do the same."""

BATCH_TIMEOUT: Final = 300.0
"""Seconds after which a batch is given up: the server has stopped answering."""

INTERRUPT_GRACE: Final = 3.0
"""Seconds that Ctrl-C waits for a commit to be answered."""


class SqlWriter(Writer):
    """Writes batches, each in one transaction; several may write at once, and readers notice nothing of it."""

    def __init__(
        self,
        name: str,
        explain: Callable[[str, Exception], StoreUnavailable | None],
        lost: tuple[type[Exception], ...],
    ) -> None:
        """``explain`` puts an error of the driver or of the network in words for people, as far as it has any.

        ``lost`` are the errors that leave a commit without an answer.
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
        """Write ``size`` tasks by ``put``, on a connection that there is, and which returns what that did; and commit.

        Where the commit was not answered, it is not known whether the tasks are stored: StoreUnavailable says so, and
        ``total`` leaves them out. Ctrl-C is raised as a KeyboardInterrupt; such an error is then its context.
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
        """Whatever goes wrong, leave no transaction behind, and say it in words for people."""
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
        """Connect, and make the layout, or see that it is there."""

    @abstractmethod
    async def _commit(self) -> None:
        """Commit; raises one of the errors that mean a lost connection where the server does not answer."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """End the connection, if there is one, without waiting for anything; what it did not commit is undone."""


def foreign(comment: str) -> str | None:
    """Why a table with this comment is not for us to write to, or None."""
    if not comment.startswith(_MARK):
        return "it belongs to another program (Conductor's own?), and taskgate writes only into tables it made"
    if comment != COMMENT:
        return f"it has layout {comment.removeprefix(_MARK)}, and this taskgate writes layout {_LAYOUT_VERSION}"
    return None
