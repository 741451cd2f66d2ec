"""Conversions of large values, one after the other in a ``ConversionProcess``, for as long as somebody waits."""

import asyncio
import errno
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import structlog

from taskgate.base.errors import Overloaded, shortened
from taskgate.documents.conversion import Conversion, Converted
from taskgate.service.conversion_process import ConversionEndedError, ConversionProcess

MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
"""Stored values that may wait for their turn, together."""

TRIES: Final = 2
"""Processes that a conversion may end, as by taking all memory, before its callers are refused."""

REFUSED_SECONDS: Final = 10.0
"""For so long a conversion that has been given up is refused at once: others wait behind each of its tries."""

_MOST_REFUSED: Final = 64

_SHORT_OF: Final = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Why a process cannot be started now, and perhaps can later: processes, memory, files."""

IDLE_SECONDS: Final = 300.0
"""A process without work is ended after this time: it takes 25 MB, and a tenth of a second to start."""


@dataclass(slots=True, eq=False)
class _Job:
    """One conversion, and the callers who wait for it; it ends when there are none."""

    conversion: Conversion
    task_id: str
    stored: bytes
    callers: set[asyncio.Future[Converted]] = field(default_factory=set)


class LargeConversions:
    """Converts one value at a time, in the order of the calls.

    The process is started for the first of them, and anew after it has been killed because nobody waited any more for
    what it did. Calls for equal values share a conversion that has not begun.

    A conversion whose process is killed by others, as the kernel does where memory runs out, is tried once more.
    """

    def __init__(self, python: str, *, idle_seconds: float = IDLE_SECONDS) -> None:
        """``python`` is the interpreter to run; inside Envoy, ``sys.executable`` does not name one."""
        self._python = python
        self._idle_seconds = idle_seconds
        self._process: ConversionProcess | None = None
        self._thread = ThreadPoolExecutor(1, "conversion")
        self._waiting: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._running: _Job | None = None
        self._given_up: OrderedDict[tuple[Conversion, str, int], float] = OrderedDict()
        self._worker: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("taskgate.conversions")

    async def convert(self, conversion: Conversion, task_id: str, stored: bytes) -> Converted:
        """As ``conversion.convert``.

        Raises:
            Overloaded: too much is waiting, the process was killed each time, or it cannot be started.
            ConversionFailedError: the conversion has a fault, and is not tried again.
        """
        self._refuse_what_was_given_up(conversion, task_id, stored)
        job = self._job(conversion, task_id, stored)
        del stored  # an equal one is in the job
        caller: asyncio.Future[Converted] = asyncio.get_running_loop().create_future()
        job.callers.add(caller)
        try:
            return await caller
        finally:
            job.callers.discard(caller)
            if not job.callers:
                self._drop(job)

    async def close(self) -> None:
        """End the process; calls that still wait are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        if self._idle is not None:
            self._idle.cancel()
        ended = self._end_process()
        self._thread.shutdown(wait=False)
        if ended is not None:
            await asyncio.wrap_future(ended)

    def _job(self, conversion: Conversion, task_id: str, stored: bytes) -> _Job:
        """One that waits for the same, or a new one at the end of the queue."""
        for job in self._waiting:
            if job.task_id == task_id and job.conversion is conversion and job.stored == stored:
                return job
        if self._waiting and self._waiting_bytes + len(stored) > MAX_WAITING_BYTES:
            raise Overloaded(
                f"Overloaded: {self._waiting_bytes >> 20} MiB of large tasks wait to be converted; try again",
                limit="conversions_waiting",
            )
        job = _Job(conversion, task_id, stored)
        self._waiting.append(job)
        self._waiting_bytes += len(stored)
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return job

    def _drop(self, job: _Job) -> None:
        """Nobody waits for it any more."""
        if job is self._running and self._process is not None:
            self._process.end()
        elif job in self._waiting:
            self._waiting.remove(job)
            self._waiting_bytes -= len(job.stored)

    async def _work(self) -> None:
        """Take one job after the other until there are none."""
        if self._idle is not None:
            self._idle.cancel()
        try:
            while self._waiting:
                self._running = job = self._waiting.popleft()
                self._waiting_bytes -= len(job.stored)
                await self._run(job)
                self._running = None
                del job  # it may have megabytes
        finally:
            self._worker = None
            for caller in self._callers():  # there are some only if this has been cancelled
                caller.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_process)

    async def _run(self, job: _Job) -> None:
        """Do it, and tell its callers; raises nothing."""
        converted, problem = None, None
        try:
            converted = await self._answer(job)
        except Exception as error:  # noqa: BLE001 - it is raised where the question was asked
            problem = error
        for caller in job.callers:
            if caller.done():  # cancelled in this very moment
                continue
            if converted is not None:
                caller.set_result(converted)
            elif problem is not None:
                caller.set_exception(problem)

    async def _answer(self, job: _Job) -> Converted:
        for _ in range(TRIES):
            try:
                return await self._answer_once(job)
            except ConversionEndedError:
                if ended := self._end_process():
                    await asyncio.wrap_future(ended)
                if not job.callers:  # it was ended because of that
                    break
                self._log.warning("a large conversion was killed", task_id=job.task_id, bytes=len(job.stored))
        else:
            self._give_up(job)
        raise _no_room(job.task_id)

    async def _answer_once(self, job: _Job) -> Converted:
        if self._process is None or not self._process.alive:
            self._end_process()
            try:
                self._process = ConversionProcess(self._python)
            except OSError as error:
                if error.errno not in _SHORT_OF:
                    raise
                self._log.error("the process of large conversions cannot be started", reason=str(error))
                raise _no_room(job.task_id) from error
        loop = asyncio.get_running_loop()
        convert = self._process.convert
        return await loop.run_in_executor(self._thread, convert, job.conversion, job.task_id, job.stored)

    def _give_up(self, job: _Job) -> None:
        if len(self._given_up) >= _MOST_REFUSED:
            self._given_up.popitem(last=False)
        given_up = job.conversion, job.task_id, hash(job.stored)
        self._given_up[given_up] = monotonic() + REFUSED_SECONDS
        self._given_up.move_to_end(given_up)

    def _refuse_what_was_given_up(self, conversion: Conversion, task_id: str, stored: bytes) -> None:
        while self._given_up and next(iter(self._given_up.values())) <= monotonic():  # the oldest stands first
            self._given_up.popitem(last=False)
        # Hashing megabytes holds up the event loop. As a rule there is nothing to compare with, and none are.
        if self._given_up and (conversion, task_id, hash(stored)) in self._given_up:
            raise _no_room(task_id)

    def _callers(self) -> list[asyncio.Future[Converted]]:
        jobs = [*self._waiting, *([] if self._running is None else [self._running])]
        return [caller for job in jobs for caller in job.callers]

    def _end_process(self) -> Future[None] | None:
        """Kill the process if there is one; the answer comes when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.end()
        return self._thread.submit(process.wait)


def _no_room(task_id: str) -> Overloaded:
    name = shortened(task_id)
    return Overloaded(
        f"Task {name} is large, and the process that converts such tasks was killed before it was done, as happens"
        " where memory runs out; try again later",
        task_id=name,
        limit="conversion_process",
    )
