"""What the writers of PostgreSQL and MySQL do alike: a batch is a transaction, on a connection that may break.

And the mark by which they know their own tables: a comment.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator
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

_ASK_INTERVAL: Final = 0.5

PREPARE_TIMEOUT: Final = 90.0
"""Seconds for connecting and making the layout, which may wait for other writers that do the same."""

BATCH_TIMEOUT: Final = 300.0
"""Seconds after which a batch is given up: the server has stopped answering."""

INTERRUPT_GRACE: Final = 3.0
"""Seconds that Ctrl-C waits for a commit to be answered."""


class SqlWriter(Writer):
    """Writes batches, each in one transaction; several may write at once, and readers notice nothing of it."""

    def __init__(self, name: str, explain: Callable[[str, Exception], StoreUnavailable | None]) -> None:
        """``explain`` puts an error of the driver or of the network in words for people, as far as it has any."""
        super().__init__(name)
        self._explain = explain
        self._connection: Any = None
        self._loop = LoopThread()

    def _open(self) -> None:
        try:
            with self._faults():
                self._loop.run(self._prepare_in_time())
        except BaseException:
            self.close()
            raise

    def _commit_after(self, put: Coroutine[Any, Any, WriteCounts]) -> WriteCounts:
        """Write by ``put``, on a connection that there is, and which returns what that did; and commit.

        Ctrl-C is raised as a KeyboardInterrupt; where what became of the batch is not known, its context says so.
        """
        with self._faults():
            counts = self._loop.run(self._put_in_time(put))
            with interrupts_held() as held:
                if not self._loop.run_unless(held, INTERRUPT_GRACE, self._committed()):
                    raise self._unknown("it did not answer when a batch was to be committed")
                self.total += counts
        return counts

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
        self._loop.run(self._leave())
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

    async def _was_committed(self, ask: Callable[[], Awaitable[bool | None]], seconds: float) -> bool:
        """Whether a batch is stored though its connection was lost: what ``ask`` finds out on another one.

        It is asked again while it says None, for as many ``seconds``. Raises StoreUnavailable if it never knows.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = await ask()
            if answer is not None:
                return answer
            await asyncio.sleep(_ASK_INTERVAL)
        raise self._unknown("the connection was lost while a batch was committed")

    def _unknown(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"{why}, and it is not known whether that batch is stored", store=self._name)

    @abstractmethod
    async def _prepare(self) -> None:
        """Connect, and make the layout, or see that it is there."""

    @abstractmethod
    async def _commit(self) -> None:
        """Commit; where the connection is lost over it, ask on another one what came of it."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """End the connection, if there is one, without waiting for anything; what it did not commit is undone."""

    async def _leave(self) -> None:
        """What is to be done at the end."""
        await self._disconnect()


def foreign(comment: str) -> str | None:
    """Why a table with this comment is not for us to write to, or None."""
    if not comment.startswith(_MARK):
        return "it belongs to another program (Conductor's own?), and taskgate writes only into tables it made"
    if comment != COMMENT:
        return f"it has layout {comment.removeprefix(_MARK)}, and this taskgate writes layout {_LAYOUT_VERSION}"
    return None
