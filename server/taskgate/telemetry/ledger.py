"""Add up what the processes of a node have counted, those that have ended included.

Prometheus takes a counter that falls for a restart from 0. So the numbers of a process that has ended stay in the sums,
however it ended, and the sums never fall while the supervisor runs. Labels name no worker: a restart would begin new
series, and sums over a node are what graphs and alerts need. Gauges count for running processes only.
"""

import threading
from asyncio.subprocess import Process

from taskgate.telemetry.block import BlockReader, Totals, add, new_descriptor, without_gauges


class Lease:
    """The block of one process. It counts as running until ``follow`` or ``end`` says otherwise."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        """For the process to inherit; it belongs to the ledger."""
        self._process: Process | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self._ended or (self._process is not None and self._process.returncode is not None)

    def follow(self, process: Process) -> None:
        """End it with ``process``."""
        self._process = process

    def end(self) -> None:
        """End it now: the process could not be started."""
        self._ended = True


class Ledger:
    """The blocks of a node's processes, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[tuple[BlockReader, Lease]] = []
        self._ended: Totals = {}

    def open(self) -> "Lease":
        """Return a new block, for one process."""
        lease = Lease(new_descriptor())
        with self._lock:
            self._take_ended()  # here too: without scrapes, processes that fail again and again would pile up
            self._running.append((BlockReader(lease.descriptor), lease))
        return lease

    def read(self) -> tuple[Totals, Totals]:
        """Return the sums over all processes so far, without gauges; and those over running ones, with gauges."""
        with self._lock:
            self._take_ended()
            running: Totals = {}
            for block, _ in self._running:
                add(running, block.read())
            everything: Totals = {}
            add(everything, self._ended)
            add(everything, without_gauges(running))
            return everything, running

    def _take_ended(self) -> None:
        for entry in [entry for entry in self._running if entry[1].ended]:
            add(self._ended, without_gauges(entry[0].read()))
            self._running.remove(entry)
            entry[0].close()
