"""One connection to one Redis server, shared by any number of callers.

Redis answers in the order of the commands, so many can be in flight at once: those of one turn of the event loop leave
in one packet, and each answer goes to the oldest command. The place of a cancelled caller stays in the queue, so that
no later caller gets its answer.

hiredis, from the makers of Redis, parses. ``docs/architecture.md`` says why redis-py does not do the rest.
"""

import asyncio
from collections import deque
from typing import Any, cast

import hiredis

from taskgate.stores.redis.faults import CLOSED_BY_SERVER, NOT_REDIS, ConnectionLost, reply_reason, silence_reason

_LAST_CHANCE = 0.05
"""Seconds for a busy event loop to read what has arrived, before a server counts as silent."""

_LARGE_PART = 64 * 1024
"""Bytes of an unfinished answer that make it a large one."""

_SLOW_ANSWER = 0.01
"""Seconds without a byte from the server after which the next answer counts as a large one."""

_MORE = object()


def pack(*command: str | bytes) -> bytes:
    """Return a command and its arguments in the form that ``Connection.send`` takes."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub means any number of them
    return packed


class Connection(asyncio.Protocol):
    """An open connection, as ``Dialer.connect`` makes it."""

    def __init__(self, silence: float) -> None:
        """Give up a server that owes an answer and sends nothing for ``silence`` seconds."""
        self._loop = asyncio.get_running_loop()
        self._silence = silence
        self._replies = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._suspected = False
        self._ended = self._loop.create_future()
        self.problem: str | None = None
        """Why the connection cannot be used any more, or None."""

    @property
    def waiting(self) -> int:
        """The number of answers owed."""
        return len(self._waiting)

    @property
    def held_up(self) -> bool:
        """Whether a large answer is arriving or being made: a new command has to wait for all of it."""
        return self._replies.len() > _LARGE_PART or (
            bool(self._waiting) and self._loop.time() - self._heard > _SLOW_ANSWER
        )

    def heard_within(self, seconds: float) -> bool:
        """Whether a byte arrived within the last ``seconds``."""
        return self._loop.time() - self._heard < seconds

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """Send one command that ``pack`` made.

        The future's result is the answer: bytes, None, an integer, a list, or a ``hiredis.ReplyError``, which is not
        raised. The future raises ConnectionLost.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self.problem is not None:
            answer.set_exception(ConnectionLost(self.problem))
            return answer
        if not self._waiting:
            self._heard = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_later(self._silence, self._listen)
        self._waiting.append(answer)
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(command)
        return answer

    async def close(self) -> None:
        """Close at once; all waiting callers get ConnectionLost."""
        self._end("the connection was closed")
        await asyncio.wait((self._ended,), timeout=1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._heard = self._loop.time()
        self._suspected = False
        waiting = self._waiting
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not _MORE:
                if waiting:
                    answer = waiting.popleft()
                    if not answer.done():  # its caller may have been cancelled
                        answer.set_result(reply)
                else:
                    self._unasked(reply)
        except hiredis.ProtocolError:
            self._end(NOT_REDIS)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        del exc
        self._end(CLOSED_BY_SERVER)
        if not self._ended.done():
            self._ended.set_result(None)

    def _flush(self) -> None:
        if self._transport is not None and self.problem is None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _unasked(self, reply: object) -> None:
        """End the connection: Redis sends an unasked reply only as an error, which says why it is about to close."""
        self._end(reply_reason(reply) if isinstance(reply, hiredis.ReplyError) else NOT_REDIS)

    def _listen(self) -> None:
        """Give up a server that owes an answer and is silent."""
        self._watch = None
        if not self._waiting:
            return
        due = self._heard + self._silence
        if due > self._loop.time():
            self._watch = self._loop.call_at(due, self._listen)
        elif not self._suspected:
            self._suspected = True
            self._watch = self._loop.call_later(_LAST_CHANCE, self._listen)
        else:
            self._end(silence_reason(self._silence), silent=True)

    def _end(self, problem: str, *, silent: bool = False) -> None:
        if self.problem is None:
            self.problem = problem
            if self._transport is not None:
                self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(ConnectionLost(self.problem, silent=silent))
