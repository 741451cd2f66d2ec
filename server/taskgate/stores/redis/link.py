"""Connections to one Redis server, opened when there is something to ask and replaced when they break."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from taskgate.stores.network.circuit import Circuit
from taskgate.stores.redis.connection import Connection, pack
from taskgate.stores.redis.faults import ConnectionLost, Unreachable
from taskgate.stores.refusals import CLOSED, overloaded

MAX_WAITING = 1024
"""Questions that may be under way; one more is refused at once."""

_MAX_CONNECTIONS = 4
"""One does all the work; others let small answers pass a large one."""

_PAUSE = 0.05
"""Seconds between the end of an attempt to connect and the beginning of the next."""

_BUSY = 64
"""Answers owed from which on a server that keeps sending is busy, and nobody need ask whether it is there."""

_ASKING = pack("ASKING")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, and how many may."""

    connect: float
    """For a connection to be ready."""

    silence: float
    """For a sign of life from a server that owes an answer; one that sent something since is not away."""

    total: float
    """For an answer that may lead from one node of a cluster to another."""

    waiting: int
    """Questions that one server may have before it."""

    ends: bool
    """Whether questions are refused at once while a server is known to be away."""


class Link:
    """Puts questions to the server that ``connect`` leads to, which may be another one each time.

    An outage fails fast: while there is no connection, everybody waits for the one attempt that is under way, and
    shares its failure; once that is known, others are refused (``Circuit``).
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], patience: Patience) -> None:
        """``connect`` raises Unreachable."""
        self._connect = connect
        self._patience = patience
        self._circuit = Circuit(Unreachable)
        self._connections: list[Connection] = []
        self._attempt: asyncio.Task[Connection | Unreachable] | None = None
        self._next_attempt = 0.0
        self._waiting = 0
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether many answers are owed and are coming."""
        return self._waiting >= _BUSY and any(map(self._heard, self._connections))

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not self._waiting and self._attempt is None

    @property
    def connected(self) -> bool:
        """Whether a question could be sent now."""
        return any(each.problem is None for each in self._connections)

    async def ask(self, command: bytes, *, asking: bool = False, refusable: bool = True) -> Any:
        """The answer, as ``Connection.send`` has it; ``asking`` sends ASKING first (Redis Cluster).

        A question that meets the end of a connection is put once more, on another one: the server may have been
        restarted since the last one. ``refusable`` is False for one that is put even to a server that is known to be
        away, or has many before it. Raises Unreachable, or Overloaded.
        """
        if refusable and self._circuit.reason is not None:
            return await self._circuit.probe(lambda: self.ask(command, asking=asking, refusable=False))
        if refusable and self._waiting >= self._patience.waiting:
            raise overloaded(self._patience.waiting)
        self._waiting += 1
        try:
            reply = await self._ask(command, asking=asking)
        except Unreachable as error:
            self._note_trouble(error)
            raise
        else:
            self._circuit.close()
            return reply
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End every connection; later questions raise Unreachable."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait((self._attempt,))
        for connection in self._connections:
            await connection.close()
        self._connections.clear()

    async def _ask(self, command: bytes, *, asking: bool) -> Any:
        for _ in range(_MAX_CONNECTIONS):  # a restart ends all of them, and each is known to be lost when it is tried
            connection = self._pick() or await self._connected()
            try:
                return await _send(connection, command, asking=asking)
            except ConnectionLost as lost:
                if lost.silent:
                    raise
        return await _send(self._pick() or await self._connected(), command, asking=asking)

    def _note_trouble(self, error: Unreachable) -> None:
        """Refuse others, unless this was one connection's end, or another one is as it should be."""
        broken = isinstance(error, ConnectionLost) and not error.silent
        alive = (each for each in self._connections if each.problem is None)
        if self._patience.ends and not broken and not any(map(self._heard, alive)):
            self._circuit.open(error.reason)

    def _heard(self, connection: Connection) -> bool:
        return connection.heard_within(self._patience.silence)

    def _pick(self) -> Connection | None:
        """A connection that no large answer holds up; if there are none and can be no more, one with few before us."""
        alive = [each for each in self._connections if each.problem is None]
        for connection in alive:
            if not connection.held_up:
                return connection
        return None if len(alive) < _MAX_CONNECTIONS else min(alive, key=attrgetter("waiting"))

    async def _connected(self) -> Connection:
        """A new connection; if there can be none, one that is there. Raises Unreachable."""
        outcome = await asyncio.shield(self._begin_attempt())
        if isinstance(outcome, Connection):
            return outcome
        for connection in self._connections:
            if connection.problem is None:
                return connection
        raise Unreachable(outcome.reason) from outcome

    def _begin_attempt(self) -> asyncio.Task[Connection | Unreachable]:
        """The attempt to connect that is under way, or a new one."""
        if self._closed:
            raise Unreachable(CLOSED)
        if self._attempt is None:
            self._attempt = asyncio.create_task(self._try_to_connect())
        return self._attempt

    async def _try_to_connect(self) -> Connection | Unreachable:
        loop = asyncio.get_running_loop()
        try:
            if (pause := self._next_attempt - loop.time()) > 0:
                await asyncio.sleep(pause)
            self._connections = [each for each in self._connections if each.problem is None]
            try:
                connection = await self._connect()
            except ConnectionLost as lost:  # cut while it was made, as by the restart that it is made for
                if lost.silent:
                    raise
                connection = await self._connect()
            self._connections.append(connection)
        except Unreachable as error:
            self._next_attempt = loop.time() + _PAUSE
            return error
        except asyncio.CancelledError:  # by ``close`` alone; those who wait are not cancelled
            return Unreachable(CLOSED)
        else:
            return connection
        finally:
            self._attempt = None


def _send(connection: Connection, command: bytes, *, asking: bool) -> asyncio.Future[Any]:
    if asking:
        # Both leave in one packet; what comes of the first is seen in the second.
        connection.send(_ASKING).add_done_callback(lambda done: done.cancelled() or done.exception())
    return connection.send(command)
