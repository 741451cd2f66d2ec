"""Writing tasks into Redis: what ``taskgate import`` does there.

A task is a hash under ``[namespace.][stack.][domain.]TASK.<task ID>`` with fields ``document`` and ``update_time``, so
that one command reads it and a script can compare times where they are. The string ``[...]LAYOUT`` marks keys that
begin so as taskgate's; others are left alone.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from hiredis import ReplyError

from taskgate.layout import Layout
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.interrupts import interrupts_held
from taskgate.stores.loop_thread import LoopThread
from taskgate.stores.redis.connection import pack
from taskgate.stores.redis.faults import Unreachable, code_of, reply_reason, unavailable
from taskgate.stores.redis.link import MAX_WAITING, Patience
from taskgate.stores.redis.location import Kind, Location
from taskgate.stores.redis.servers import servers_of
from taskgate.stores.redis.slots import slot_of
from taskgate.stores.writer import Writer

LAYOUT_VERSION = b"1"
"""What the mark says of the layout above."""

_PATIENCE = Patience(connect=2.0, silence=30.0, total=35.0, waiting=2 * MAX_WAITING, ends=False)

WRITE_PATIENCE = 20.0
"""Seconds for which a write is tried again while no server takes it: a failover, a restart."""

_PASSING = frozenset({"LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "TRYAGAIN", "NOREPLICAS"})
"""Errors worth waiting for the end of."""

_RETRY_PAUSE = 0.2

_INTERRUPT_GRACE = 3.0
"""Seconds that Ctrl-C waits for the answers to what was sent."""

_SLOTS_AT_ONCE = 256
"""Scripts that are on their way to a cluster at a time."""

_SCAN_KEYS = "1000"
"""Keys that the server looks at in one go, half a millisecond or so."""

_PUT = files("taskgate.stores.redis").joinpath("put.lua").read_text()


class RedisWriter(Writer):
    """See ``TaskWriter``.

    On one server, Sentinel or not, ``write`` is one script: all of it, or nothing. In a cluster no transaction spans
    nodes: there each slot's tasks are written at once, and an interruption (Ctrl-C, an outage) may leave those of some
    slots and not of others; ``total`` counts what was written, and the same import run again writes the rest.

    Where a connection is lost before the answer came, the same is sent again. What had been written by then counts as
    unchanged; what cannot be sent again counts as not written, though it may have been.
    """

    def __init__(self, location: Location) -> None:
        """Connect, and mark the keys as ours; raises StoreUnavailable if that fails or they are not."""
        super().__init__(location.name)
        self._keyspace = location.keyspace(Layout.TASKGATE)
        self._in_one = location.kind is not Kind.CLUSTER
        self._interrupts: Sequence[int] = ()  # what came while a write was under way
        self._thread = LoopThread()
        self._servers = servers_of(location, _PATIENCE)
        try:
            self.created = self._thread.run(self._claim())
        except Unreachable as error:
            self.close()
            raise unavailable(self._name, error.reason) from error
        except BaseException:
            self.close()
            raise

    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        for task in tasks:
            task.document.decode()  # what is not UTF-8 is refused before anything is written
        counts = WriteCounts()
        try:
            with interrupts_held() as held:
                self._interrupts = held
                try:
                    self._thread.run_unless(held, _INTERRUPT_GRACE, self._put_all(tasks, counts))
                finally:
                    self.total += counts
        except Unreachable as error:
            raise unavailable(self._name, error.reason) from error
        return counts

    def _release(self) -> None:
        self._thread.run(self._servers.close())
        self._thread.close()

    async def _put_all(self, tasks: Sequence[StoredTask], counts: WriteCounts) -> None:
        """Write ``tasks`` and add to ``counts`` whatever the database has confirmed, as it does."""
        if self._in_one:
            parts = [tasks] if tasks else []
        else:
            by_slot = defaultdict[int, list[StoredTask]](list)
            for task in tasks:
                by_slot[slot_of(self._key(task))].append(task)
            parts = list(by_slot.values())
        left = iter(parts)
        problems: list[Unreachable] = []

        async def put_some() -> None:
            for part in left:
                if problems or self._interrupts:
                    return
                try:
                    reply = await self._patiently(self._key(part[0]), self._put(part))
                except Unreachable as error:
                    problems.append(error)
                else:
                    counts.__iadd__(WriteCounts(*reply))

        await asyncio.gather(*(put_some() for _ in parts[:_SLOTS_AT_ONCE]))
        if problems:
            raise problems[0]

    def _put(self, tasks: Sequence[StoredTask]) -> bytes:
        keys = [self._key(task) for task in tasks]
        values = [value for task in tasks for value in (str(task.update_time), task.document)]
        return pack("EVAL", _PUT, str(len(keys)), *keys, *values)

    def _key(self, task: StoredTask) -> bytes:
        return f"{self._keyspace}TASK.{task.task_id}".encode()

    async def _patiently(self, key: bytes, command: bytes) -> Any:
        """The answer, asked for again and again while what keeps it from us may pass; raises Unreachable."""
        until = time.monotonic() + WRITE_PATIENCE
        while True:
            try:
                reply = await self._servers.ask(key, command)
            except Unreachable as error:
                problem = error
            else:
                if not isinstance(reply, ReplyError):
                    return reply
                problem = Unreachable(reply_reason(reply))
                if code_of(reply) not in _PASSING:
                    raise problem from reply
            if self._interrupts or time.monotonic() > until:
                raise problem
            await asyncio.sleep(_RETRY_PAUSE)

    async def _claim(self) -> bool:
        """See that the keys are ours; True if they have become so just now. Raises Unreachable."""
        mark = f"{self._keyspace}LAYOUT".encode()
        while True:
            version = await self._answer(mark, "GET", mark)
            if version == LAYOUT_VERSION:
                return False
            if version is not None:
                raise Unreachable(f"its layout is not {LAYOUT_VERSION.decode()}, which this taskgate writes")
            if not await self._has_keys():
                if await self._answer(mark, "SET", mark, LAYOUT_VERSION, "NX") is not None:
                    return True
            elif await self._answer(mark, "GET", mark) is None:  # else another writer was first, and these are its keys
                raise Unreachable(
                    f"what has keys {self._keyspace}* there belongs to another program (Conductor's own?), and taskgate"
                    " writes only where nobody else does; 'stack' in the URL chooses other keys"
                )

    async def _has_keys(self) -> bool:
        """Whether any key begins as ours do."""
        found = await asyncio.gather(*(self._server_has_keys(ask) for ask in await self._servers.each()))
        return any(found)

    async def _server_has_keys(self, ask: Callable[[bytes], Awaitable[Any]]) -> bool:
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in self._keyspace) + "*"
        cursor: str | bytes = "0"
        while True:
            cursor, keys = _checked(await ask(pack("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_KEYS)))
            if keys:
                return True
            if cursor == b"0":
                return False

    async def _answer(self, key: bytes, *command: str | bytes) -> Any:
        return _checked(await self._servers.ask(key, pack(*command)))


def _checked(reply: Any) -> Any:
    if isinstance(reply, ReplyError):
        raise Unreachable(reply_reason(reply)) from reply
    return reply
