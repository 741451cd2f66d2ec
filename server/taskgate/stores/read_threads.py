"""Threads that put blocking questions to a database on behalf of one event loop.

``loop.run_in_executor`` would do, at two to three times the price: it makes two futures, a lock and a wake-up call for
each read, and a timeout adds a timer. Here a read is one queue entry, answers that are ready together share a wake-up,
and one timer watches all.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from taskgate.errors import StoreUnavailable
from taskgate.stores.refusals import CLOSED, overloaded

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class ReadThreads(Generic[Question, Answer]):
    """Answers questions with the blocking function ``answer``, up to ``threads`` at once.

    ``store`` is what error messages call the database. Questions that wait while no question at all has been answered
    for ``timeout`` seconds fail with StoreUnavailable; one that finds ``max_waiting`` others in the queue fails with
    Overloaded: an outage never piles up work, and a queue behind large documents is no outage.
    """

    def __init__(
        self,
        store: str,
        answer: Callable[[Question], Answer],
        *,
        threads: int = 4,
        timeout: float = 2.0,
        max_waiting: int = 1024,
    ) -> None:
        self._store = store
        self._answer = answer
        self._max_threads = threads
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._threads: list[threading.Thread] = []
        # None ends a thread. Questions whose caller has gone stay in here, and count, until a thread drops them.
        self._questions: SimpleQueue[tuple[asyncio.Future[Answer], Question] | None] = SimpleQueue()
        self._deadlines: dict[asyncio.Future[Answer], float] = {}  # oldest first; put off by answers to others
        self._answered = 0.0  # when the database last answered, by the clock that loops use
        self._watch: asyncio.TimerHandle | None = None
        self._answers: deque[tuple[asyncio.Future[Answer], Answer | None, BaseException | None]] = deque()
        self._loop_told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closed = False
        """Whether every further question is refused."""

    @property
    def moving(self) -> bool:
        """Whether questions wait while others are answered: the database is busy, and there."""
        return self._questions.qsize() > 0 and time.monotonic() - self._answered < self._timeout

    async def ask(self, question: Question) -> Answer:
        """The answer, or whatever ``answer`` raises; StoreUnavailable if there is none in time, or Overloaded."""
        if self.closed:
            raise StoreUnavailable(CLOSED, store=self._store)
        if self._questions.qsize() >= self._max_waiting:
            raise overloaded(self._max_waiting)
        self._loop = loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._deadlines[future] = loop.time() + self._timeout
        if self._watch is None:
            self._watch = loop.call_later(self._timeout, self._fail_overdue)
        try:
            self._questions.put((future, question))
            if len(self._threads) < self._max_threads and (not self._threads or self._questions.qsize()):
                self._start_thread()
            return await future
        finally:
            del self._deadlines[future]

    async def close(self) -> None:
        """End the threads; a read that runs may finish, one that waits fails.

        Waits ``timeout`` seconds for each thread at most: one that hangs in the kernel is left behind.
        """
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for _ in self._threads:
            self._questions.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, self._timeout)

    def _start_thread(self) -> None:
        # Daemons: a read that hangs in the kernel must not keep the process from ending.
        thread = threading.Thread(target=self._work, name=f"read-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (item := self._questions.get()) is not None:
            future, question = item
            if future.done():  # cancelled or overdue
                continue
            answer: Answer | None = None
            problem: BaseException | None = None
            if self.closed:
                problem = StoreUnavailable(CLOSED, store=self._store)
            else:
                try:
                    answer = self._answer(question)
                except BaseException as error:  # noqa: BLE001 - it is raised where the question was asked
                    problem = error
            self._answers.append((future, answer, problem))
            # Between two questions a thread holds on to nothing: a document may have megabytes.
            del item, future, question, answer, problem
            if not self._loop_told:
                self._loop_told = True
                if not self._tell_loop():
                    return

    def _tell_loop(self) -> bool:
        assert self._loop is not None  # noqa: S101 - there was a question
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop was closed first; nobody is waiting any more
            return False
        return True

    def _deliver(self) -> None:
        self._loop_told = False  # before looking, or an answer that comes now would be left lying
        while self._answers:
            future, answer, problem = self._answers.popleft()
            if problem is None:
                self._answered = time.monotonic()
            if future.done():
                continue
            if problem is None:
                future.set_result(answer)  # type: ignore[arg-type] # None only where Answer includes it
            else:
                future.set_exception(problem)

    def _fail_overdue(self) -> None:
        self._watch = None
        assert self._loop is not None  # noqa: S101 - there was a question
        self._deliver()  # a loop that was busy elsewhere comes here first
        now = self._loop.time()
        for future, deadline in self._deadlines.items():
            due = max(deadline, self._answered + self._timeout)
            if due > now:
                self._watch = self._loop.call_at(due, self._fail_overdue)
                return
            if not future.done():
                future.set_exception(
                    StoreUnavailable(f"it did not answer within {self._timeout:g} s", store=self._store)
                )
