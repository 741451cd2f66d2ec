"""Queue of the reads that wait for a connection: first come, first served, and bounded."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeAlias, TypeVar

from taskgate.stores.refusals import overloaded

C = TypeVar("C")
Turn: TypeAlias = tuple[int, asyncio.Future[C | None]]
"""A place, and the future to wait for there: a connection, or None when there is room to make one."""


class ReadQueue(Generic[C]):
    """Up to ``max_waiting`` reads, in the order of their places.

    A read keeps its place if it has to wait again, because another read used the room that it was offered.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._turns: deque[Turn[C]] = deque()  # by place
        self._places = itertools.count(1)

    def __len__(self) -> int:
        """Return how many reads wait."""
        return len(self._turns)

    def join(self, *, refusable: bool) -> Turn[C]:
        """Take the place at the end; with ``refusable`` False, at the front. Raises Overloaded if too many wait."""
        if refusable and len(self._turns) >= self._max_waiting:
            raise overloaded(self._max_waiting)
        number, end = next(self._places), asyncio.get_running_loop().create_future()
        if refusable:
            turn = (number, end)
            self._turns.append(turn)
        else:
            turn = (-number, end)
            self._turns.appendleft(turn)
        return turn

    def rejoin(self, turn: Turn[C]) -> Turn[C]:
        """Return a new turn at the place of one that has ended."""
        place = turn[0]
        again: Turn[C] = (place, asyncio.get_running_loop().create_future())
        self._turns.insert(sum(1 for _ in itertools.takewhile(lambda other: other[0] < place, self._turns)), again)
        return again

    def leave(self, turn: Turn[C]) -> None:
        """Remove a turn that was cancelled."""
        with suppress(ValueError):  # an offer has skipped it
            self._turns.remove(turn)

    def offer_connection(self, connection: C) -> bool:
        """Give the first read a connection; False if no read waits."""
        return self._offer(connection)

    def offer_room(self) -> None:
        """Let the first read make a connection. The room is not reserved: another read may use it first."""
        self._offer(None)

    def fail(self, error: Callable[[], Exception]) -> None:
        """End every wait with an exception of its own."""
        while self._turns:
            _, turn = self._turns.popleft()
            if not turn.done():
                turn.set_exception(error())

    def _offer(self, given: C | None) -> bool:
        while self._turns:
            _, turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(given)
                return True
        return False
