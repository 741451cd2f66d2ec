"""Write tasks into Redis, for ``taskgate import``.

A task is a hash under ``[namespace.][stack.][domain.]TASK.<task ID>`` with fields ``document`` and ``update_time``, so
that one command reads it and a script can tell whether it has changed since it was compared. The string ``[...]LAYOUT``
marks keys with this prefix as taskgate's; others are left alone.
"""

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from hiredis import ReplyError

from taskgate.base.layout import Layout
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.redis.connection import pack
from taskgate.stores.redis.faults import Unreachable, checked, code_of, reply_reason, unavailable
from taskgate.stores.redis.location import Kind, Location
from taskgate.stores.redis.multiplexer import Timeouts
from taskgate.stores.redis.servers import servers_of
from taskgate.stores.redis.slots import slot_of
from taskgate.stores.writing.interrupts import interrupts_held
from taskgate.stores.writing.loop_thread import LoopThread
from taskgate.stores.writing.standing import Standing, digest_of, standing_of
from taskgate.stores.writing.writer import Writer, compare, portions

LAYOUT_VERSION = b"1"
"""The value of the LAYOUT mark for this layout."""

_TIMEOUTS = Timeouts(connect=2.0, silence=30.0, total=35.0, fail_fast=False)

WRITE_TIMEOUT = 20.0
"""Seconds for which a write is retried while no server accepts it, as in a failover or a restart."""

_PASSING = frozenset({"LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "TRYAGAIN", "NOREPLICAS"})
"""Temporary errors, after which a retry makes sense."""

_RETRY_PAUSE = 0.2

_INTERRUPT_GRACE = 3.0
"""Seconds that Ctrl-C waits for the answers to commands in flight."""

_SLOTS_AT_ONCE = 256
"""Scripts in flight to a cluster at a time."""

_SCAN_KEYS = "1000"
"""Keys that the server scans in one step of about half a millisecond."""

_PUT = files("taskgate.stores.redis").joinpath("put.lua").read_text()

_GET = """
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('HMGET', key, 'update_time', 'document') end
return found
"""


class _Stored:
    """A stored task: its update time, also as text, and the parts of its document that are compared."""

    def __init__(self, time_text: bytes, size: int, document: bytes | None) -> None:
        """``document`` is None if it has not been read."""
        self.time_text = time_text
        self.size = size
        self.update_time = int(time_text) if time_text.removeprefix(b"-").isdigit() else 0  # 0: unknown
        self.standing = None if document is None else standing_of(document)
        self.sum = "" if document is None else hashlib.sha1(document, usedforsecurity=False).hexdigest()


class RedisWriter(Writer):
    """See ``TaskWriter``.

    On one server, with or without Sentinel, ``write`` is one script: all or nothing. In a cluster no transaction spans
    nodes. There the tasks of each slot are written at once, so an interruption (Ctrl-C, an outage) may leave only the
    tasks of some slots written. ``total`` counts what was written, and a repeated import writes the rest.

    If a connection is lost before the answer, the script is sent again. Tasks that were already written then count as
    unchanged. If it cannot be sent again, they count as not written, though they may have been.
    """

    def __init__(self, location: Location) -> None:
        """Connect, and mark the keys as ours. Raises StoreUnavailable if that fails or the keys are not ours."""
        super().__init__(location.name)
        self._keyspace = location.keyspace(Layout.TASKGATE)
        self._in_one = location.kind is not Kind.CLUSTER
        self._interrupts: Sequence[int] = ()  # received during a write
        self._looking = asyncio.Lock()
        self._thread = LoopThread()
        self._servers = servers_of(location, _TIMEOUTS)
        try:
            self.created = self._thread.run(self._claim())
        except Unreachable as error:
            self.close()
            raise unavailable(self._name, error) from error
        except BaseException:
            self.close()
            raise

    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        for task in tasks:
            task.document.decode()  # refuse what is not UTF-8 before writing anything
        counts = WriteCounts()
        try:
            with interrupts_held() as held:
                self._interrupts = held
                try:
                    self._thread.run_unless(held, _INTERRUPT_GRACE, self._put_all(tasks, counts))
                finally:
                    self.total += counts
        except Unreachable as error:
            raise unavailable(self._name, error) from error
        return counts

    def _release(self) -> None:
        self._thread.run(self._servers.close())
        self._thread.close()

    async def _put_all(self, tasks: Sequence[StoredTask], counts: WriteCounts) -> None:
        """Write ``tasks``, and add to ``counts`` as the database confirms them."""
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
                    counts.__iadd__(await self._put_part(part))
                except Unreachable as error:
                    problems.append(error)

        await asyncio.gather(*(put_some() for _ in parts[:_SLOTS_AT_ONCE]))
        if problems:
            raise problems[0]

    async def _put_part(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """Write ``tasks``, whose keys are on one server, all at once.

        Assume that none is stored until the server answers otherwise. If another writer has changed one meanwhile, the
        server writes nothing and returns the stored state, and the comparison starts again from there.
        """
        there: dict[str, _Stored] = {}

        def standing_of_stored(task: StoredTask) -> Standing | None:
            standing = there[task.task_id].standing
            assert standing is not None  # noqa: S101 - as ``_look`` leaves it
            return None if standing.digest == digest_of(task.document) else standing

        while True:
            times = {task_id: stored.update_time for task_id, stored in there.items()}
            counts, changed = compare(tasks, times, standing_of_stored)
            if not changed:
                return counts
            reply = await self._ask_until_answered(self._key(changed[0]), self._put(changed, there))
            if reply is None:
                return counts
            for task, time_text, same, size in zip(changed, reply[::3], reply[1::3], reply[2::3], strict=True):
                there.pop(task.task_id, None)
                if time_text:
                    there[task.task_id] = _Stored(time_text, size, task.document if same else None)
            await self._look(tasks, there)

    def _put(self, tasks: Sequence[StoredTask], there: Mapping[str, _Stored]) -> bytes:
        keys = [self._key(task) for task in tasks]
        values: list[str | bytes] = []
        for task in tasks:
            stored = there.get(task.task_id)
            # The sum is empty for a document that its update time alone decided: it was not read.
            expected = ("", "") if stored is None else (stored.time_text, stored.sum)
            values += (str(task.update_time), task.document, *expected)
        return pack("EVAL", _PUT, str(len(keys)), *keys, *values)

    async def _look(self, tasks: Sequence[StoredTask], there: dict[str, _Stored]) -> None:
        """Read the unknown documents of ``there`` that have the same update time as one of ``tasks``."""
        unknown = {
            task.task_id: task
            for task in tasks
            if (stored := there.get(task.task_id))
            and stored.standing is None
            and stored.update_time == task.update_time
        }
        for part in portions(unknown.values(), lambda task: there[task.task_id].size):
            keys = [self._key(task) for task in part]
            async with self._looking:  # a cluster has many writes in flight, and a portion may have megabytes
                reply = await self._ask_until_answered(keys[0], pack("EVAL", _GET, str(len(keys)), *keys))
            for task, (time_text, document) in zip(part, reply, strict=True):
                del there[task.task_id]
                if document is not None:
                    there[task.task_id] = _Stored(time_text or b"0", len(document), document)

    def _key(self, task: StoredTask) -> bytes:
        return f"{self._keyspace}TASK.{task.task_id}".encode()

    async def _ask_until_answered(self, key: bytes, command: bytes) -> Any:
        """Return the answer; retry while the server refuses for a temporary reason. Raises Unreachable."""
        until = time.monotonic() + WRITE_TIMEOUT
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
        """Ensure that the keys are ours. Return True if they were claimed just now. Raises Unreachable."""
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
            elif await self._answer(mark, "GET", mark) is None:  # else another taskgate has claimed them
                raise Unreachable(
                    f"what has keys {self._keyspace}* there belongs to another program (Conductor's own?), and taskgate"
                    " writes only under keys that no other program uses; 'stack' in the URL chooses other keys"
                )

    async def _has_keys(self) -> bool:
        """Whether any key has our prefix."""
        found = await asyncio.gather(*(self._server_has_keys(ask) for ask in await self._servers.each()))
        return any(found)

    async def _server_has_keys(self, ask: Callable[[bytes], Awaitable[Any]]) -> bool:
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in self._keyspace) + "*"
        cursor: str | bytes = "0"
        while True:
            cursor, keys = checked(await ask(pack("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_KEYS)))
            if keys:
                return True
            if cursor == b"0":
                return False

    async def _answer(self, key: bytes, *command: str | bytes) -> Any:
        return checked(await self._servers.ask(key, pack(*command)))
