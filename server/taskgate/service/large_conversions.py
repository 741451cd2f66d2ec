"""Queue large values for conversion in a ``ConversionProcess``, and stop converting when all callers have left."""

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
from taskgate.documents.masking import Masking
from taskgate.service.conversion_process import ConversionEndedError, ConversionProcess

MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
"""Total size of the stored values that may wait in the queue."""

TRIES: Final = 2
"""How often a conversion may run; each try may lose its process, for example by taking all memory."""

REFUSED_SECONDS: Final = 10.0
"""How long a conversion that failed all its tries is refused at once: every try delays the queue behind it."""

_MAX_REFUSED: Final = 64

_SHORTAGES: Final = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Errors of a process start that may succeed later: processes, memory or files are short."""

IDLE_SECONDS: Final = 300.0
"""How long an idle process is kept: it takes 25 MB, and a tenth of a second to start."""


@dataclass(slots=True, eq=False)
class _Job:
    """A conversion and the callers that wait for it; it is abandoned when the last of them leaves."""

    conversion: Conversion
    task_id: str
    stored: bytes
    callers: set[asyncio.Future[Converted]] = field(default_factory=set)


class LargeConversions:
    """Convert one value at a time, in the order of the calls.

    The first call starts the process. When all callers of the running conversion have left, the process is killed; the
    next conversion starts a new one. Calls for equal values share a conversion that still waits.

    If the process is killed from outside, for example by the kernel for lack of memory, its conversion is tried again.
    """

    def __init__(self, python: str, *, masking: Masking | None = None, idle_seconds: float = IDLE_SECONDS) -> None:
        """``python`` is the interpreter to run; inside Envoy, ``sys.executable`` does not name one.

        ``masking`` is for conversions that mask.
        """
        self._python = python
        self._masking = masking
        self._idle_seconds = idle_seconds
        self._process: ConversionProcess | None = None
        self._thread = ThreadPoolExecutor(1, "conversion")
        self._waiting: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._running: _Job | None = None
        self._refused: OrderedDict[tuple[Conversion, str, int], float] = OrderedDict()
        self._worker: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("taskgate.conversions")

    async def convert(self, conversion: Conversion, task_id: str, stored: bytes) -> Converted:
        """Wait for ``conversion.convert`` in the process.

        Raises:
            Overloaded: the queue is full, the process was killed at each try, or it cannot be started.
            ConversionFailedError: the conversion has a bug; it is not tried again.
            TaskgateError: what ``conversion.convert`` raised.
        """
        self._check_not_refused(conversion, task_id, stored)
        job = self._enqueue(conversion, task_id, stored)
        del stored  # the job holds an equal one
        caller: asyncio.Future[Converted] = asyncio.get_running_loop().create_future()
        job.callers.add(caller)
        try:
            return await caller
        finally:
            job.callers.discard(caller)
            if not job.callers:
                self._abandon(job)

    async def close(self) -> None:
        """End the process and cancel the calls that still wait."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        if self._idle is not None:
            self._idle.cancel()
        ended = self._end_process()
        self._thread.shutdown(wait=False)
        if ended is not None:
            await asyncio.wrap_future(ended)

    def _enqueue(self, conversion: Conversion, task_id: str, stored: bytes) -> _Job:
        """Return the waiting job for an equal value, or a new one at the end of the queue. Raises Overloaded."""
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

    def _abandon(self, job: _Job) -> None:
        """Kill the process of a running job, and take a waiting one from the queue."""
        if job is self._running and self._process is not None:
            self._process.end()
        elif job in self._waiting:
            self._waiting.remove(job)
            self._waiting_bytes -= len(job.stored)

    async def _work(self) -> None:
        """Run the jobs one after the other until the queue is empty."""
        if self._idle is not None:
            self._idle.cancel()
        try:
            while self._waiting:
                self._running = job = self._waiting.popleft()
                self._waiting_bytes -= len(job.stored)
                await self._run(job)
                self._running = None
                del job  # free megabytes before waiting
        finally:
            self._worker = None
            for caller in self._callers():  # left over only if this task was cancelled
                caller.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_process)

    async def _run(self, job: _Job) -> None:
        """Run a job and give its callers the result or the error. Raises nothing."""
        converted, problem = None, None
        try:
            converted = await self._answer(job)
        except Exception as error:  # noqa: BLE001 - raised again in each caller
            problem = error
        for caller in job.callers:
            if caller.done():  # just cancelled
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
                if not job.callers:  # ``_abandon`` killed it
                    break
                self._log.warning("a large conversion was killed", task_id=job.task_id, bytes=len(job.stored))
        else:
            self._refuse_for_now(job)
        raise _conversion_refused(job.task_id)

    async def _answer_once(self, job: _Job) -> Converted:
        if self._process is None or not self._process.alive:
            self._end_process()
            try:
                self._process = ConversionProcess(self._python, self._masking)
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    raise
                self._log.error("the process of large conversions cannot be started", reason=str(error))
                raise _conversion_refused(job.task_id) from error
        loop = asyncio.get_running_loop()
        convert = self._process.convert
        return await loop.run_in_executor(self._thread, convert, job.conversion, job.task_id, job.stored)

    def _refuse_for_now(self, job: _Job) -> None:
        if len(self._refused) >= _MAX_REFUSED:
            self._refused.popitem(last=False)
        given_up = job.conversion, job.task_id, hash(job.stored)
        self._refused[given_up] = monotonic() + REFUSED_SECONDS
        self._refused.move_to_end(given_up)

    def _check_not_refused(self, conversion: Conversion, task_id: str, stored: bytes) -> None:
        while self._refused and next(iter(self._refused.values())) <= monotonic():  # oldest first
            self._refused.popitem(last=False)
        # Hash only if there is an entry to compare with: hashing megabytes blocks the event loop.
        if self._refused and (conversion, task_id, hash(stored)) in self._refused:
            raise _conversion_refused(task_id)

    def _callers(self) -> list[asyncio.Future[Converted]]:
        jobs = [*self._waiting, *([] if self._running is None else [self._running])]
        return [caller for job in jobs for caller in job.callers]

    def _end_process(self) -> Future[None] | None:
        """Kill the process, if any. The future is done when it has exited."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.end()
        return self._thread.submit(process.wait)


def _conversion_refused(task_id: str) -> Overloaded:
    name = shortened(task_id)
    return Overloaded(
        f"Task {name} is large and cannot be converted now: the process for large tasks was killed or did not start, as"
        " happens when memory runs out; try again later",
        task_id=name,
        limit="conversion_process",
    )
