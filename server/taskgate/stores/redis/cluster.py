"""Which node of a Redis Cluster has a key: what the nodes say, learnt again whenever one of them fails or refuses.

Only primaries are asked, so that a finished write is seen by every later read.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from hiredis import ReplyError

from taskgate.base.errors import Overloaded
from taskgate.stores.network.circuit import Circuit
from taskgate.stores.network.url_parts import Endpoint
from taskgate.stores.redis.connection import Dialer, pack
from taskgate.stores.redis.faults import Unreachable, code_of, reply_reason, see_that_it_reads, silence_reason
from taskgate.stores.redis.link import Link, Patience
from taskgate.stores.redis.race import first_answer
from taskgate.stores.redis.slots import SLOTS, slot_of
from taskgate.stores.refusals import CLOSED

_CLUSTER_SLOTS = pack("CLUSTER", "SLOTS")

_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"})
"""Errors that another node may answer better."""

_ASKED_AT_ONCE = 5
"""Nodes that are asked for the map together; the next time it is others."""

_PAUSE = 0.05
"""Seconds between two maps, however many reads want a new one."""

_GRACE = 0.05
"""Seconds that a check gives the other nodes when one has answered: those that are back are then known to be."""

_TRIES = 6
"""Nodes that one question may be sent to; more redirections than two mean that slots are moving right now."""

_PROBES_TRIED = 2000
"""Keys that are tried to find one in a slot of each node."""

_UNSERVED = reply_reason(ReplyError("CLUSTERDOWN"))


class Cluster:
    """See ``Servers``. Starts from any of ``seeds``; the nodes that these name are then known as well."""

    def __init__(self, seeds: Sequence[Endpoint], dialer: Dialer, patience: Patience) -> None:
        """Nothing is opened here."""
        self._seeds = seeds
        self._dialer = dialer
        self._patience = patience
        self._circuit = Circuit(Unreachable)  # for when no node answers
        self._links: dict[Endpoint, Link] = {}
        self._owners: list[Endpoint | None] = [None] * SLOTS
        self._known: set[Endpoint] = set()  # replicas too
        self._probes: dict[Endpoint, bytes] = {}
        self._learning: asyncio.Task[Unreachable | None] | None = None
        self._learn_again = 0.0

    async def ask(self, key: bytes, command: bytes) -> Any:
        """See ``Servers``."""
        if self._circuit.reason is not None:
            return await self._circuit.probe(partial(self._ask, key, command))
        return await self._ask(key, command)

    async def _ask(self, key: bytes, command: bytes) -> Any:
        until = asyncio.get_running_loop().time() + self._patience.total
        slot = slot_of(key)
        owner = self._owners[slot]
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
        await self._learn()
        owners = dict.fromkeys(owner for owner in self._owners if owner is not None)
        return [partial(self._ask_node, owner) for owner in owners]

    async def check(self, prefix: bytes, read: Callable[[bytes], bytes]) -> None:
        """See ``Servers``. One node that answers is enough.

        All taskgates see the same cluster: were they not ready for want of one node, an outage of some tasks would be
        one of all.
        """
        try:
            await self._check_any(prefix, read)
        except Unreachable:
            await (
                self._learn()
            )  # there may be others by now; if not, it is what a read would do next, and says the same
            await self._check_any(prefix, read)

    async def close(self) -> None:
        """See ``Servers``."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait((self._learning,))
        for link in self._links.values():
            await link.close()

    async def _ask_node(self, node: Endpoint, command: bytes, *, asking: bool = False, refusable: bool = True) -> Any:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = Link(partial(self._dialer.connect, node), self._patience)
        try:
            reply = await link.ask(command, asking=asking, refusable=refusable)
        except Unreachable as error:
            raise Unreachable(error.reason, node=str(node)) from error
        self._circuit.close()
        return reply

    async def _ask_around(
        self, slot: int, command: bytes, until: float, failed: tuple[Endpoint, Unreachable] | None = None
    ) -> Any:
        """Ask as a new map has it, and go where nodes point to; ``failed`` has just not answered, and why."""
        try:
            async with asyncio.timeout_at(until):
                await self._learn()
                owner = self._owners[slot]
                if failed is not None and owner == failed[0]:
                    raise failed[1]
                return await self._follow(slot, owner, command)
        except TimeoutError as error:
            raise Unreachable(silence_reason(self._patience.total)) from error

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
                    self._owners[slot] = node
                case "ASK":  # this question only: the slot has not moved yet
                    node, asking = _named(reply, node), True
                case "TRYAGAIN":
                    await asyncio.sleep(_PAUSE)
                case _:
                    return reply
        return reply

    async def _check_any(self, prefix: bytes, read: Callable[[bytes], bytes]) -> None:
        if not any(self._owners):
            await self._learn()
        if not self._probes:
            self._find_probes(prefix)
        if not self._probes:
            raise Unreachable(_UNSERVED)
        if not any(link.busy for link in self._links.values()):
            questions = (self._check_one(owner, read(key)) for owner, key in self._probes.items())
            await first_answer(questions, _GRACE)

    async def _check_one(self, node: Endpoint, command: bytes) -> None:
        see_that_it_reads(await self._ask_node(node, command, refusable=False))

    def _find_probes(self, prefix: bytes) -> None:
        """A key that begins with ``prefix`` for each node, as far as they are found soon."""
        for number in range(_PROBES_TRIED):
            key = b"%b%d" % (prefix, number)
            owner = self._owners[slot_of(key)]
            if owner is not None:
                self._probes.setdefault(owner, key)

    async def _learn(self) -> None:
        """Get a new map; those who want one at the same time share it. Raises Unreachable if no node has one."""
        if self._learning is None:
            self._learning = asyncio.create_task(self._try_to_learn())
        problem = await asyncio.shield(self._learning)
        if problem is not None:
            raise Unreachable(problem.reason) from problem

    async def _try_to_learn(self) -> Unreachable | None:
        loop = asyncio.get_running_loop()
        try:
            if (pause := self._learn_again - loop.time()) > 0:
                await asyncio.sleep(pause)
            self._take(await first_answer(self._map_of(node) for node in self._whom_to_ask()))
            await self._forget_departed()
        except Unreachable as error:
            if self._patience.ends:
                self._circuit.open(error.reason)
            return error
        except asyncio.CancelledError:  # by ``close`` alone; those who wait are not cancelled
            return Unreachable(CLOSED)
        else:
            return None
        finally:
            self._learn_again = loop.time() + _PAUSE
            self._learning = None

    def _whom_to_ask(self) -> Iterable[Endpoint]:
        """A few nodes: connected ones first, in no order beyond that."""
        nodes = list(self._known.union(self._seeds))
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node not in self._links or not self._links[node].connected)
        return islice(nodes, _ASKED_AT_ONCE)

    async def _map_of(self, node: Endpoint) -> list[tuple[int, int, list[Endpoint]]]:
        """Ranges of slots as ``node`` knows them, each with its primary and then its replicas."""
        try:
            reply = await self._ask_node(node, _CLUSTER_SLOTS)
        except Overloaded as error:  # another one may be less so
            raise Unreachable(error.message) from error
        except Unreachable as error:
            # No word about which node: none of them has answered if anybody hears of it.
            raise error.__cause__ if isinstance(error.__cause__, Unreachable) else error from error
        if isinstance(reply, ReplyError):
            raise Unreachable(reply_reason(reply)) from reply
        return [
            (first, last, [Endpoint(host.decode() if host else node.host, port) for host, port, *_ in nodes])
            for first, last, *nodes in reply
        ]

    def _take(self, ranges: list[tuple[int, int, list[Endpoint]]]) -> None:
        self._owners = [None] * SLOTS
        self._known = set()
        self._probes = {}
        for first, last, nodes in ranges:
            self._owners[first : last + 1] = [nodes[0]] * (last + 1 - first)
            self._known.update(nodes)

    async def _forget_departed(self) -> None:
        """Close what leads to nodes that no map names any more, as when every node was replaced one after another."""
        departed = [node for node in self._links if node not in self._known and node not in self._seeds]
        for link in [self._links.pop(node) for node in departed if self._links[node].idle]:
            await link.close()


def _named(error: ReplyError, asked: Endpoint) -> Endpoint:
    """The node that MOVED or ASK names; without a host it is another port of the one that was asked."""
    host, _, port = str(error).split(" ")[-1].rpartition(":")
    return Endpoint(host or asked.host, int(port))
