"""Ask the node of a Redis Cluster that has the key. Read the slot map again whenever a node fails or refuses.

Only primaries are asked, so that every read sees each finished write.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from hiredis import ReplyError

from taskgate.base.errors import Overloaded
from taskgate.stores.base import StoreState
from taskgate.stores.network.circuit import Circuit
from taskgate.stores.network.url_parts import Endpoint
from taskgate.stores.redis.connection import pack
from taskgate.stores.redis.dialer import Dialer
from taskgate.stores.redis.faults import Unreachable, checked, code_of, reply_reason, see_that_it_reads, silence_reason
from taskgate.stores.redis.multiplexer import Multiplexer, Timeouts
from taskgate.stores.redis.race import first_answer
from taskgate.stores.redis.shared_attempt import SharedAttempt
from taskgate.stores.redis.slots import SlotMap, slot_of

_CLUSTER_SLOTS = pack("CLUSTER", "SLOTS")

_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"})
"""Errors after which another node may have the answer."""

_ASKED_AT_ONCE = 5
"""Nodes that are asked for the map together; chosen anew each time."""

_TRY_AGAIN_AFTER = 0.05
"""Seconds to wait when a node answers TRYAGAIN: keys are moving."""

_GRACE = 0.05
"""Seconds that a check gives the other nodes when one has answered, which closes the circuits of recovered nodes."""

_TRIES = 6
"""Nodes that one command may be sent to; more than two redirections mean that slots are being moved."""

_UNSERVED = reply_reason(ReplyError("CLUSTERDOWN"))


class Cluster:
    """See ``Servers``. Starts from any of ``seeds``, and learns the other nodes from them."""

    def __init__(self, seeds: Sequence[Endpoint], dialer: Dialer, timeouts: Timeouts) -> None:
        """Open no connection yet."""
        self._seeds = seeds
        self._dialer = dialer
        self._timeouts = timeouts
        self._circuit = Circuit(Unreachable)  # for when no node answers
        self._multiplexers: dict[Endpoint, Multiplexer] = {}
        self._map = SlotMap()
        self._new_map = SharedAttempt(self._read_map, pause_after_success=True)

    async def ask(self, key: bytes, command: bytes) -> Any:
        """See ``Servers``."""
        if self._circuit.reason is not None:
            return await self._circuit.probe(partial(self._ask, key, command))
        return await self._ask(key, command)

    async def _ask(self, key: bytes, command: bytes) -> Any:
        until = asyncio.get_running_loop().time() + self._timeouts.total
        slot = slot_of(key)
        owner = self._map.owners[slot]
        if owner is None:
            return await self._ask_around(slot, command, until)
        try:
            reply = await self._ask_node(owner, command)
        except Unreachable as error:
            return await self._ask_around(slot, command, until, failed=(owner, error))
        if type(reply) is ReplyError and code_of(reply) in _ELSEWHERE:
            return await self._ask_around(slot, command, until)
        return reply

    async def each(self) -> Sequence[Callable[[bytes], Awaitable[Any]]]:
        """See ``Servers``."""
        await self._new_map.outcome()
        return [partial(self._ask_node, primary) for primary in self._map.primaries]

    async def check(self, prefix: bytes, read: Callable[[bytes], bytes]) -> None:
        """See ``Servers``. One node that answers is enough.

        All taskgates see the same cluster: if one missing node made them unready, an outage of some tasks would become
        an outage of all.
        """
        try:
            await self._check_any(prefix, read)
        except Unreachable:
            await self._new_map.outcome()  # as a read would do next; it may name other nodes
            await self._check_any(prefix, read)

    def state(self) -> StoreState:
        """See ``Servers``. Reads are refused if no node answers; those of one node's tasks do not count."""
        states = [multiplexer.state() for multiplexer in self._multiplexers.values()]
        busy, idle, waiting = (sum(getattr(state, name) for state in states) for name in ("busy", "idle", "waiting"))
        return StoreState(busy, idle, waiting, refusing=self._circuit.reason is not None)

    async def close(self) -> None:
        """See ``Servers``."""
        await self._new_map.close()
        for multiplexer in self._multiplexers.values():
            await multiplexer.close()

    async def _ask_node(self, node: Endpoint, command: bytes, *, asking: bool = False, refusable: bool = True) -> Any:
        multiplexer = self._multiplexers.get(node)
        if multiplexer is None:
            multiplexer = self._multiplexers[node] = Multiplexer(partial(self._dialer.connect, node), self._timeouts)
        try:
            reply = await multiplexer.ask(command, asking=asking, refusable=refusable)
        except Unreachable as error:
            raise Unreachable(error.reason, node=str(node)) from error
        self._circuit.close()
        return reply

    async def _ask_around(
        self, slot: int, command: bytes, until: float, failed: tuple[Endpoint, Unreachable] | None = None
    ) -> Any:
        """Ask the owner in a new map, and follow redirections; ``failed`` is the node that just failed, and why."""
        try:
            async with asyncio.timeout_at(until):
                await self._new_map.outcome()
                owner = self._map.owners[slot]
                if failed is not None and owner == failed[0]:
                    raise failed[1]
                return await self._follow(slot, owner, command)
        except TimeoutError as error:
            raise Unreachable(silence_reason(self._timeouts.total)) from error

    async def _follow(self, slot: int, node: Endpoint | None, command: bytes) -> Any:
        asking = False
        reply: Any = None
        for _ in range(_TRIES):
            if node is None:
                raise Unreachable(_UNSERVED)
            reply = await self._ask_node(node, command, asking=asking)
            match code_of(reply) if isinstance(reply, ReplyError) else None:
                case "MOVED":
                    node, asking = _named(reply, node), False
                    self._map.owners[slot] = node
                case "ASK":  # this command only: the slot has not moved yet
                    node, asking = _named(reply, node), True
                case "TRYAGAIN":
                    await asyncio.sleep(_TRY_AGAIN_AFTER)
                case _:
                    return reply
        return reply

    async def _check_any(self, prefix: bytes, read: Callable[[bytes], bytes]) -> None:
        if not self._map.nodes:
            await self._new_map.outcome()
        keys = self._map.key_of_each(prefix)
        if not keys:
            raise Unreachable(_UNSERVED)
        if not any(multiplexer.busy for multiplexer in self._multiplexers.values()):
            await first_answer((self._check_one(node, read(key)) for node, key in keys.items()), _GRACE)

    async def _check_one(self, node: Endpoint, command: bytes) -> None:
        see_that_it_reads(await self._ask_node(node, command, refusable=False))

    async def _read_map(self) -> None:
        """Read the slot map from any node. Raises Unreachable if none has one."""
        try:
            self._map = SlotMap(await first_answer(self._map_of(node) for node in self._whom_to_ask()))
            await self._forget_departed()
        except Unreachable as error:
            if self._timeouts.fail_fast:
                self._circuit.open(error.reason)
            raise

    def _whom_to_ask(self) -> Iterable[Endpoint]:
        """Return a few nodes, connected ones first, otherwise in random order."""
        nodes = list(self._map.nodes.union(self._seeds))
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node not in self._multiplexers or not self._multiplexers[node].connected)
        return islice(nodes, _ASKED_AT_ONCE)

    async def _map_of(self, node: Endpoint) -> list[tuple[int, int, list[Endpoint]]]:
        """Return the ranges of slots that ``node`` knows, each with its primary and then its replicas."""
        try:
            reply = checked(await self._ask_node(node, _CLUSTER_SLOTS))
        except Overloaded as error:  # another node may not be
            raise Unreachable(error.message) from error
        except Unreachable as error:
            raise Unreachable(error.reason) from error  # without the node: raised only if none has answered
        return [
            (first, last, [Endpoint(host.decode() if host else node.host, port) for host, port, *_ in nodes])
            for first, last, *nodes in reply
        ]

    async def _forget_departed(self) -> None:
        """Close connections to nodes that left the map, for example after a rolling replacement of all nodes."""
        departed = self._multiplexers.keys() - self._map.nodes - set(self._seeds)
        for multiplexer in [self._multiplexers.pop(node) for node in departed if self._multiplexers[node].idle]:
            await multiplexer.close()


def _named(error: ReplyError, asked: Endpoint) -> Endpoint:
    """Return the node that MOVED or ASK names; without a host it is another port of the node ``asked``."""
    host, _, port = str(error).split(" ")[-1].rpartition(":")
    return Endpoint(host or asked.host, int(port))
