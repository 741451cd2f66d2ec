"""Measure one server process: its calls, its reads, and the state of its store and of its large answers."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from taskgate.service.in_flight import InFlight
from taskgate.service.readiness import CallerKeys
from taskgate.stores.base import TaskStore
from taskgate.telemetry.block import Block, Family
from taskgate.telemetry.calls import CallMeter, call_families
from taskgate.telemetry.reads import READ_FAMILIES, MeteredStore

_SAMPLE_INTERVAL: Final = 0.5
"""Seconds between two looks at the gauges: costs a process nothing, and is shorter than any scrape interval."""

_STATE_FAMILIES: Final = [
    Family(name="taskgate_store_available", kind="gauge", help="Server processes whose last probe the store answered."),
    Family(
        name="taskgate_store_circuit_open",
        kind="gauge",
        help="Server processes that refuse reads, because the store is known to be away.",
    ),
    Family(
        name="taskgate_store_connections",
        kind="gauge",
        help="Connections to the store, by state; for SQLite, the threads that read.",
        labels=("state",),
        series=(("busy",), ("idle",)),
    ),
    Family(
        name="taskgate_auth_keys_unreadable",
        kind="gauge",
        help="Server processes that could not read the keys of callers when they last tried (--auth).",
    ),
    Family(name="taskgate_store_reads_waiting", kind="gauge", help="Reads that wait for a connection or a thread."),
    Family(name="taskgate_large_answers_bytes", kind="gauge", help="Bytes of large answers in flight or reserved."),
    Family(name="taskgate_large_answers_limit_bytes", kind="gauge", help="The most of them (--in-flight-mib)."),
    Family(name="taskgate_large_answers_waiting", kind="gauge", help="Calls that wait for room for a large answer."),
]


class ServerMeter:
    """The measurements of this process, written to the block ``descriptor``."""

    def __init__(self, descriptor: int, methods: Mapping[str, str]) -> None:
        """``methods`` are the gRPC paths that the server has, and their types."""
        self._block = Block([*call_families(methods), *READ_FAMILIES, *_STATE_FAMILIES], descriptor)
        self.calls = CallMeter(self._block, methods)
        self._sampling: asyncio.Task[None] | None = None

    def store(self, store: TaskStore) -> TaskStore:
        """Return ``store`` with its reads counted."""
        return MeteredStore(store, self._block)

    def start(
        self, store: TaskStore, in_flight: InFlight, available: Callable[[], bool], keys: CallerKeys | None
    ) -> None:
        """Look at the gauges until ``stop``.

        ``available`` says whether the store answered its last probe; ``keys`` is as in ``watch_readiness``.
        """
        self._sampling = asyncio.create_task(self._sample(store, in_flight, available, keys))

    def stop(self) -> None:
        """End what ``start`` began. Idempotent."""
        if self._sampling is not None:
            self._sampling.cancel()

    async def _sample(
        self, store: TaskStore, in_flight: InFlight, available: Callable[[], bool], keys: CallerKeys | None
    ) -> None:
        numbers, place = self._block.numbers, self._block.place
        busy, idle = (place("taskgate_store_connections", state) for state in ("busy", "idle"))
        while True:
            state = store.state()
            numbers[place("taskgate_store_available")] = available()
            numbers[place("taskgate_store_circuit_open")] = state.refusing
            numbers[place("taskgate_auth_keys_unreadable")] = keys is not None and not keys.readable
            numbers[busy], numbers[idle] = state.busy, state.idle
            numbers[place("taskgate_store_reads_waiting")] = state.waiting
            numbers[place("taskgate_large_answers_bytes")] = in_flight.used
            numbers[place("taskgate_large_answers_limit_bytes")] = in_flight.limit
            numbers[place("taskgate_large_answers_waiting")] = in_flight.waiting
            await asyncio.sleep(_SAMPLE_INTERVAL)
