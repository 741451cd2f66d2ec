"""Share connections to one Redis server among all callers. Open them on demand, and replace broken ones."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from taskgate.stores.base import StoreState
from taskgate.stores.network.circuit import Circuit
from taskgate.stores.redis.connection import Connection, pack
from taskgate.stores.redis.faults import ConnectionLost, Unreachable
from taskgate.stores.redis.shared_attempt import SharedAttempt
from taskgate.stores.refusals import overloaded

MAX_WAITING: Final = 1024
"""Commands in flight; one more is refused at once."""

_MAX_CONNECTIONS: Final = 4
"""The first does most of the work; the others let small answers pass a large one."""

_BUSY: Final = 64
"""Answers owed from which a server that keeps sending counts as busy and available: it needs no probe."""

_ASKING: Final = pack("ASKING")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds, and whether to fail fast."""

    connect: float
    """For a connection to be ready."""

    silence: float
    """For a server that owes an answer to send a byte."""

    total: float
    """For an answer that may lead from one node of a cluster to another."""

    fail_fast: bool
    """Whether commands are refused at once while a server is known to be away."""


class Multiplexer:
    """Sends commands to the server that ``connect`` reaches, which may be a different one each time.

    An outage fails fast. Without a connection, all callers wait for the one attempt in flight and share its failure.
    Once the outage is known, callers are refused (``Circuit``).
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], timeouts: Timeouts) -> None:
        """``connect`` raises Unreachable."""
        self._connect = connect
        self._timeouts = timeouts
        self._circuit = Circuit(Unreachable)
        self._connections: list[Connection] = []
        self._connecting = SharedAttempt(self._open_one, pause_after_success=False)
        self._waiting = 0

    @property
    def busy(self) -> bool:
        """Whether many answers are owed and some are arriving."""
        return self._waiting >= _BUSY and any(map(self._heard, self._connections))

    @property
    def idle(self) -> bool:
        """Whether no command and no connection attempt is in flight."""
        return not self._waiting and not self._connecting.under_way

    @property
    def connected(self) -> bool:
        """Whether a command could be sent now."""
        return bool(self._alive())

    async def ask(self, command: bytes, *, asking: bool = False, refusable: bool = True) -> Any:
        """Return the answer, as ``Connection.send`` does. ``asking`` sends ASKING first (Redis Cluster).

        If the connection ends, the command is sent again on another one: the server may have restarted since the last
        command. With ``refusable`` False, it is sent even to a server that is known to be away or has many commands in
        flight. Raises Unreachable, or Overloaded.
        """
        if refusable and self._circuit.reason is not None:
            return await self._circuit.probe(lambda: self.ask(command, asking=asking, refusable=False))
        if refusable and self._waiting >= MAX_WAITING:
            raise overloaded(MAX_WAITING)
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

    def state(self) -> StoreState:
        """Return the state now."""
        alive = self._alive()
        busy = sum(connection.waiting > 0 for connection in alive)
        return StoreState(busy, len(alive) - busy, self._waiting, refusing=self._circuit.reason is not None)

    async def close(self) -> None:
        """End every connection; later commands raise Unreachable."""
        await self._connecting.close()
        for connection in self._connections:
            await connection.close()
        self._connections.clear()

    async def _ask(self, command: bytes, *, asking: bool) -> Any:
        for _ in range(_MAX_CONNECTIONS):  # a restart ends all of them, and each shows it only when it is tried
            try:
                return await _send(self._pick() or await self._connected(), command, asking=asking)
            except ConnectionLost as lost:
                if lost.silent:
                    raise
        return await _send(self._pick() or await self._connected(), command, asking=asking)

    def _note_trouble(self, error: Unreachable) -> None:
        """Refuse other callers, unless only one connection ended, or another one works."""
        broken = isinstance(error, ConnectionLost) and not error.silent
        if self._timeouts.fail_fast and not broken and not any(map(self._heard, self._alive())):
            self._circuit.open(error.reason)

    def _alive(self) -> list[Connection]:
        return [each for each in self._connections if each.problem is None]

    def _heard(self, connection: Connection) -> bool:
        return connection.heard_within(self._timeouts.silence)

    def _pick(self) -> Connection | None:
        """Return a connection that no large answer holds up; at the limit, the one that owes the fewest answers."""
        for connection in self._connections:
            if connection.problem is None and not connection.held_up:
                return connection
        alive = self._alive()
        return None if len(alive) < _MAX_CONNECTIONS else min(alive, key=attrgetter("waiting"))

    async def _connected(self) -> Connection:
        """Return a new connection; if that fails, a working one. Raises Unreachable."""
        try:
            return await self._connecting.outcome()
        except Unreachable:
            if alive := self._alive():
                return alive[0]
            raise

    async def _open_one(self) -> Connection:
        self._connections = self._alive()
        try:
            connection = await self._connect()
        except ConnectionLost as lost:  # cut while being made, for example by the restart that ended the last one
            if lost.silent:
                raise
            connection = await self._connect()
        self._connections.append(connection)
        return connection


def _send(connection: Connection, command: bytes, *, asking: bool) -> asyncio.Future[Any]:
    if asking:
        # Both leave in one packet. The answer to ASKING is ignored: a refusal shows in the answer to the command.
        connection.send(_ASKING).add_done_callback(lambda done: done.cancelled() or done.exception())
    return connection.send(command)
