"""Keep processes running: start and watch them, replace those that end or hang, restart them in turn, drain them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import structlog

from taskgate.base.errors import SettingsError, StartError
from taskgate.processes.reserved_ports import Reservation

_SHORT_LIFE = 5.0
"""If a process ends within this many seconds of its start, it is restarted after a growing delay."""

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0

_OVERLAP = 1.0
"""Seconds for which a process that is being replaced keeps serving beside its successor."""

_WATCH_RETRY_DELAY = 1.0
"""Seconds until a process is watched again, after an error while watching it."""

_LAST_CALLS_GRACE = 2.0
"""Seconds to finish calls in flight for a process that still answers them but accepts no new ones."""


class Problem(NamedTuple):
    """Why a running process must be replaced."""

    what: str
    answers: bool = False
    """Whether the process still answers its calls in flight."""


class Supervised(Protocol):
    """One process. When it has ended, which ``wait`` reports, ``start`` may be called again."""

    @property
    def pid(self) -> int | None:
        """The process ID while it runs, else None."""

    @property
    def admin(self) -> Path | None:
        """The Unix socket of its admin interface while it runs, if it has one."""

    async def start(self, *, replacement: bool = False) -> object:
        """Start it and wait until it accepts calls. Raises SettingsError, StartError or OSError if it does not.

        ``replacement`` says that it comes after another process, which may have created what this one does not find. If
        cancelled, let it finish the calls that it may already have, and end it.
        """

    async def wait(self) -> int:
        """Wait until it ends, for any reason; return its exit code, negative for a signal."""

    async def hung(self) -> Problem:
        """Return when it hangs, serves no new callers, or has ended."""

    async def drain(self, seconds: float) -> None:
        """Start draining and keep serving for ``seconds``. Idempotent: a repeated call restarts the drain."""

    async def stop(self, grace: float) -> None:
        """Give calls in flight up to ``grace`` seconds, then end it. Idempotent, and safe at any time."""

    def kill(self) -> None:
        """End it at once, together with its calls in flight."""

    def abandon(self) -> None:
        """``kill`` it and remove its temporary files, without waiting; for a supervisor that ends at once."""


P = TypeVar("P", bound=Supervised)


@dataclass(slots=True)
class _Slot(Generic[P]):
    """One of the processes to keep running: how to make it, and the current one."""

    number: int
    make: Callable[[], P]
    process: P
    watcher: asyncio.Task[None] | None = None


class Supervisor(Generic[P]):
    """One process for each of ``makers``, kept running from ``start`` to ``stop``."""

    def __init__(
        self, makers: Sequence[Callable[[], P]], *, name: str, grace: float, reservations: Sequence[Reservation] = ()
    ) -> None:
        """``name`` is the log's name for a process, ``grace`` the seconds in which a replaced one finishes its calls.

        ``reservations`` are the addresses of the processes; ``stop`` releases them.
        """
        self._slots = [_Slot(number, make, make()) for number, make in enumerate(makers)]
        self._name = name
        self._grace = grace
        self._reservations = reservations
        self._restarting: asyncio.Task[None] | None = None
        self._in_transition: list[P] = []  # a predecessor that finishes its calls, or a successor that is starting
        self._stopping = False
        self._log = structlog.get_logger("taskgate.supervision")
        self.replacements = {"failed": 0, "requested": 0}
        """How many processes were replaced, because they ended or hung, and by ``restart``."""

    async def start(self) -> None:
        """Start all and wait until they accept calls. Raises SettingsError or StartError if one does not."""
        starts = [asyncio.create_task(slot.process.start()) for slot in self._slots]
        try:
            await asyncio.gather(*starts)
        except OSError as error:
            raise StartError(f"cannot start a process: {error.strerror or error}") from error
        finally:
            await _cancel(*starts)
        for slot in self._slots:
            await self._watch(slot)

    def restart(self) -> None:
        """Begin to replace all, one after the other. Each starts to drain when its successor accepts calls."""
        if self._restarting is not None and not self._restarting.done():
            self._log.warning("a restart is under way already")
        elif not self._stopping:
            self._restarting = asyncio.create_task(self._restart())

    async def drain(self, seconds: float) -> None:
        """Drain all processes in parallel, as ``Supervised.drain``, and replace none from now on.

        This cancels a restart, and drains its predecessor and its successor too.
        """
        await self._stop_replacing()
        await asyncio.gather(*(self._drain(process, seconds) for process in self._processes()))

    async def stop(self, grace: float) -> None:
        """Stop all processes in parallel, as ``Supervised.stop``; then release the addresses."""
        await self._stop_replacing()
        await _cancel(*(slot.watcher for slot in self._slots if slot.watcher is not None))
        await asyncio.gather(*(self._stop(process, grace) for process in self._processes()))
        for reservation in self._reservations:
            reservation.close()

    def pids(self) -> list[int | None]:
        """Return the process IDs by number; None for one that does not run."""
        return [slot.process.pid for slot in self._slots]

    def admins(self) -> list[Path]:
        """Return the admin sockets of processes that have one, of predecessors and successors too."""
        return [process.admin for process in self._processes() if process.admin is not None]

    def abandon(self) -> None:
        """Kill all processes, together with their calls in flight, without waiting."""
        for process in self._processes():
            self._abandon(process)

    def _processes(self) -> list[P]:
        return [slot.process for slot in self._slots] + self._in_transition

    async def _stop_replacing(self) -> None:
        self._stopping = True
        if self._restarting is not None:
            await _cancel(self._restarting)

    async def _restart(self) -> None:
        for slot in self._slots:
            successor = slot.make()
            self._in_transition.append(successor)
            try:
                await successor.start(replacement=True)
            except Exception as error:  # noqa: BLE001 - any failure, such as OSError for lack of memory, ends the restart
                self._in_transition.remove(successor)
                self._log.error("restart given up", reason=str(error), exc_info=_exc_info(error))
                return
            self._in_transition.remove(successor)
            predecessor, slot.process = slot.process, successor
            self._in_transition.append(predecessor)
            await self._watch(slot)
            await self._drain(predecessor, _OVERLAP)
            await self._stop(predecessor, self._grace)
            self._in_transition.remove(predecessor)
            self.replacements["requested"] += 1
            self._log.info(f"{self._name} restarted", number=slot.number, pid=successor.pid)

    async def _drain(self, process: P, seconds: float) -> None:
        """Drain ``process``; log a failure and continue: ``_stop`` follows, and others drain at the same time."""
        try:
            await process.drain(seconds)
        except Exception:  # noqa: BLE001 - see the docstring
            self._log.exception(f"{self._name} could not be drained")

    async def _stop(self, process: P, grace: float) -> None:
        """Stop ``process``; if that fails, log it and kill the process. Others stop at the same time."""
        try:
            await process.stop(grace)
        except Exception:  # noqa: BLE001 - see the docstring
            self._log.exception(f"{self._name} could not be stopped in order; killing it")
            self._abandon(process)

    def _abandon(self, process: P) -> None:
        try:
            process.abandon()
        except Exception:  # noqa: BLE001 - the others must end too
            self._log.exception(f"{self._name} could not be killed")

    async def _watch(self, slot: _Slot[P]) -> None:
        """Watch the process that is now in ``slot`` instead of its predecessor."""
        before, slot.watcher = slot.watcher, asyncio.create_task(self._keep_running(slot.number, slot.process))
        if before is not None:
            await _cancel(before)

    async def _keep_running(self, number: int, process: P) -> None:
        """Restart ``process`` whenever it ends or hangs; return when the supervisor stops.

        After an error, watch again: otherwise the end of the process would go unnoticed.
        """
        failures, logged = 0, False
        began = time.monotonic()
        while True:
            try:
                problem = await _until_gone(process)
            except Exception:  # noqa: BLE001 - no caller awaits this task, and it must continue
                if not logged:  # once: a lasting error would fill the log
                    self._log.exception(f"{self._name} cannot be watched; trying again", number=number)
                logged = True
                await asyncio.sleep(_WATCH_RETRY_DELAY)
                continue
            if self._stopping:
                return
            failures = failures + 1 if time.monotonic() - began < _SHORT_LIFE else 0
            self.replacements["failed"] += 1
            self._log.error(f"{self._name} gone; replacing it", number=number, problem=problem)
            failures = await self._start_again(process, failures)
            self._log.info(f"{self._name} replaced", number=number)
            began, logged = time.monotonic(), False

    async def _start_again(self, process: P, failures: int) -> int:
        """Start ``process``, retrying until it succeeds; return the failures in a row, ``failures`` included."""
        while True:
            await asyncio.sleep(_delay(failures))
            try:
                await process.start(replacement=True)
            except Exception as error:  # noqa: BLE001 - after any error, only this task can start it
                failures += 1
                self._log.error(
                    f"{self._name} cannot start; trying again",
                    reason=str(error),
                    delay=_delay(failures),
                    exc_info=_exc_info(error),
                )
            else:
                return failures


def _exc_info(error: Exception) -> Exception | None:
    """Return ``error`` if the log needs its traceback, or None if its message says enough."""
    return None if isinstance(error, (SettingsError, StartError, OSError)) else error


def _delay(failures: int) -> float:
    """Return the seconds to wait before the next start, after ``failures`` in a row."""
    return min(_FIRST_DELAY * 2.0 ** min(failures - 1, 10), _LONGEST_DELAY) if failures else 0.0


async def _until_gone(process: Supervised) -> str:
    """Wait until ``process`` ends, or hangs and is ended; return a description for the log."""
    ended = asyncio.create_task(process.wait())
    hung = asyncio.create_task(process.hung())
    try:
        await asyncio.wait((ended, hung), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            # It may be silent because it is ending; then its end comes within a moment.
            await asyncio.wait((ended,), timeout=0.05)
        if ended.done():
            return f"it ended with code {ended.result()}"
        problem = hung.result()
        if problem.answers:
            await process.stop(_LAST_CALLS_GRACE)
        else:
            process.kill()
        await ended
        return f"{problem.what}, and was ended"
    finally:
        ended.cancel()
        hung.cancel()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks`` and wait until each has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
