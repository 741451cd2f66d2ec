"""Processes that are kept running: started, watched, replaced when they end or hang, restarted in turn, drained."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import structlog

from taskgate.base.errors import SettingsError
from taskgate.processes.reserved_ports import Reservation

_SHORT_LIFE = 5.0
"""A process that ends within this many seconds of its start is started again after a delay, which grows."""

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0

_OVERLAP = 1.0
"""Seconds for which a process that is being replaced goes on serving beside its successor."""

_WATCH_AGAIN = 1.0
"""Seconds until a process is watched again, after a watch that failed."""

_LAST_CALLS = 2.0
"""Seconds for the calls of a process that answers those that it has, and takes no more."""


class Problem(NamedTuple):
    """Why a process that runs is to be replaced."""

    what: str
    answers: bool = False
    """Whether it still answers the calls that it has."""


class Supervised(Protocol):
    """One process. After its end, which ``wait`` reports, ``start`` may be called again."""

    @property
    def pid(self) -> int | None:
        """The process ID while it runs, else None."""

    async def start(self) -> object:
        """Start it and wait until it takes calls. Raises SettingsError or OSError if it does not.

        One whose start is cancelled finishes the calls that it may have already, and ends.
        """

    async def wait(self) -> int:
        """Wait until it ends, for whatever reason; returns its exit code, negative for a signal."""

    async def hung(self) -> Problem:
        """Return when it hangs or serves no callers, or has ended."""

    async def drain(self, seconds: float) -> None:
        """Wind up for ``seconds`` in which calls are still served; again from anywhere in between, if called again."""

    async def stop(self, grace: float) -> None:
        """Let running calls finish for up to ``grace`` seconds, then end it. Safe to call at any time, and again."""

    def kill(self) -> None:
        """End it at once, with all calls that it has."""

    def abandon(self) -> None:
        """``kill``, and remove what it used; for a supervisor that ends at once."""


P = TypeVar("P", bound=Supervised)


@dataclass(slots=True)
class _Place(Generic[P]):
    """One of the processes that are to run, whichever it is at the moment."""

    number: int
    make: Callable[[], P]
    process: P
    guard: asyncio.Task[None] | None = None


class Supervisor(Generic[P]):
    """One process for each of ``makers``, kept running from ``start`` to ``stop``."""

    def __init__(
        self, makers: Sequence[Callable[[], P]], *, name: str, grace: float, reservations: Sequence[Reservation] = ()
    ) -> None:
        """``name`` is what the log calls a process, ``grace`` the seconds for the calls of one that is restarted.

        ``reservations`` are addresses of the processes; they are let go by ``stop``.
        """
        self._places = [_Place(number, make, make()) for number, make in enumerate(makers)]
        self._name = name
        self._grace = grace
        self._reservations = reservations
        self._restarting: asyncio.Task[None] | None = None
        self._aside: list[P] = []  # a predecessor that finishes its calls, a successor that is not ready yet
        self._stopping = False
        self._log = structlog.get_logger("taskgate.supervision")

    async def start(self) -> None:
        """Start all and wait until they take calls. Raises SettingsError or OSError if one does not."""
        starts = [asyncio.create_task(place.process.start()) for place in self._places]
        try:
            await asyncio.gather(*starts)
        finally:
            await _cancel(*starts)
        for place in self._places:
            await self._guard(place)

    def restart(self) -> None:
        """Begin to replace one after the other: each goes when its successor takes calls, and finishes its own."""
        if self._restarting is not None and not self._restarting.done():
            self._log.warning("a restart is under way already")
        elif not self._stopping:
            self._restarting = asyncio.create_task(self._restart())

    async def drain(self, seconds: float) -> None:
        """As ``Supervised.drain``, all at once; whatever ends is not replaced any more, and a restart goes no further.

        Both generations are drained then: the successor that starts and the predecessor that goes.
        """
        await self._stand_down()
        await asyncio.gather(*(self._drain(process, seconds) for process in self._processes()))

    async def stop(self, grace: float) -> None:
        """As ``Supervised.stop``, all at once; then let go of the addresses."""
        await self._stand_down()
        await _cancel(*(place.guard for place in self._places if place.guard is not None))
        await asyncio.gather(*(self._stop(process, grace) for process in self._processes()))
        for reservation in self._reservations:
            reservation.close()

    def abandon(self) -> None:
        """End all at once, with the calls that they have."""
        for process in self._processes():
            self._abandon(process)

    def _processes(self) -> list[P]:
        return [place.process for place in self._places] + self._aside

    async def _stand_down(self) -> None:
        self._stopping = True
        if self._restarting is not None:
            await _cancel(self._restarting)

    async def _restart(self) -> None:
        for place in self._places:
            successor = place.make()
            self._aside.append(successor)
            try:
                await successor.start()
            except Exception as error:  # noqa: BLE001 - such as OSError: this machine is out of processes, or of memory
                self._aside.remove(successor)
                self._log.error("restart given up", reason=str(error), exc_info=_unexpected(error))
                return
            self._aside.remove(successor)
            predecessor, place.process = place.process, successor
            self._aside.append(predecessor)
            await self._guard(place)
            await self._drain(predecessor, _OVERLAP)
            await self._stop(predecessor, self._grace)
            self._aside.remove(predecessor)
            self._log.info(f"{self._name} restarted", number=place.number, pid=successor.pid)

    async def _drain(self, process: P, seconds: float) -> None:
        """Drain it; a failure is logged, and ends nothing: ``_stop`` follows, and others are drained beside it."""
        try:
            await process.drain(seconds)
        except Exception:  # noqa: BLE001 - as above
            self._log.exception(f"{self._name} could not be drained")

    async def _stop(self, process: P, grace: float) -> None:
        """Stop it, at once if it cannot be done in order; others are stopped beside it."""
        try:
            await process.stop(grace)
        except Exception:  # noqa: BLE001 - as above
            self._log.exception(f"{self._name} could not be stopped in order; ending it")
            self._abandon(process)

    def _abandon(self, process: P) -> None:
        try:
            process.abandon()
        except Exception:  # noqa: BLE001 - the others are to end too
            self._log.exception(f"{self._name} could not be ended")

    async def _guard(self, place: _Place[P]) -> None:
        """Watch the process that is in ``place`` now, instead of the one before."""
        before, place.guard = place.guard, asyncio.create_task(self._keep_running(place.number, place.process))
        if before is not None:
            await _cancel(before)

    async def _keep_running(self, number: int, process: P) -> None:
        """Start ``process`` again whenever it ends or hangs; returns once everything stops.

        A watch that fails is begun again: nothing else would notice that the process is gone.
        """
        failures, told = 0, False
        began = time.monotonic()
        while True:
            try:
                problem = await _until_gone(process)
            except Exception:  # noqa: BLE001 - nothing awaits this; it is to go on
                if not told:  # once, or an error that stays would fill the log
                    self._log.exception(f"{self._name} cannot be watched; trying again", number=number)
                told = True
                await asyncio.sleep(_WATCH_AGAIN)
                continue
            if self._stopping:
                return
            failures = failures + 1 if time.monotonic() - began < _SHORT_LIFE else 0
            self._log.error(f"{self._name} gone; replacing it", number=number, problem=problem)
            failures = await self._start_again(process, failures)
            began, told = time.monotonic(), False

    async def _start_again(self, process: P, failures: int) -> int:
        """Start it, however often it takes; returns the number of failures in a row, ``failures`` included."""
        while True:
            await asyncio.sleep(_delay(failures))
            try:
                await process.start()
            except Exception as error:  # noqa: BLE001 - of whatever kind it is, nobody else starts it
                failures += 1
                self._log.error(
                    f"{self._name} cannot start; trying again",
                    reason=str(error),
                    delay=_delay(failures),
                    exc_info=_unexpected(error),
                )
            else:
                return failures


def _unexpected(error: Exception) -> Exception | None:
    """``error`` if the log should say where it came from; None for one that its words explain."""
    return None if isinstance(error, (SettingsError, OSError)) else error


def _delay(failures: int) -> float:
    """Seconds to wait before the next start, after so many failures in a row."""
    return min(_FIRST_DELAY * 2.0 ** min(failures - 1, 10), _LONGEST_DELAY) if failures else 0.0


async def _until_gone(process: Supervised) -> str:
    """Wait until ``process`` ends, or hangs and is ended; returns what happened."""
    ended = asyncio.create_task(process.wait())
    hung = asyncio.create_task(process.hung())
    try:
        await asyncio.wait((ended, hung), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            # Its end may be what made it silent; it is then only a moment away.
            await asyncio.wait((ended,), timeout=0.05)
        if ended.done():
            return f"it ended with code {ended.result()}"
        problem = hung.result()
        if problem.answers:
            await process.stop(_LAST_CALLS)
        else:
            process.kill()
        await ended
        return f"{problem.what}, and was ended"
    finally:
        ended.cancel()
        hung.cancel()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks`` and wait until each has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
