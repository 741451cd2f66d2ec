"""Several server processes kept running: started, watched, replaced when they die, drained at the end."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from taskgate.addresses import MAX_PORT, Address
from taskgate.errors import SettingsError
from taskgate.reservations import reserve_all
from taskgate.settings import Settings

START_TIMEOUT = 30.0
"""Seconds a worker has to bind its port."""

_SHORT_LIFE = 5.0
"""A worker that dies within this many seconds of its start is restarted with growing delays."""

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0


@dataclass(slots=True)
class _Worker:
    settings: Settings
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerPool:
    """Processes of ``python -m taskgate.worker``, ``per_address`` of them on each of ``addresses``.

    Workers that share an address get their connections from the kernel; those with one each get calls from Envoy.
    The pool holds every address bound, without listening, for as long as it lives: no stranger can take the port of a
    worker that is being replaced.
    """

    def __init__(self, settings: Settings, addresses: Sequence[Address], *, per_address: int = 1) -> None:
        """Reserve the addresses; raises SettingsError if one is taken. ``self.addresses`` then has no port 0."""
        self._reservations = reserve_all(addresses, key="grpc")
        self.addresses = [reservation.address for reservation in self._reservations]
        self._workers = [
            _Worker(settings.model_copy(update={"grpc": address}))
            for address in self.addresses
            for _ in range(per_address)
        ]
        self._guards: list[asyncio.Task[None]] = []
        self._stopping = False
        self._log = structlog.get_logger("taskgate.workers")

    @property
    def pids(self) -> list[int]:
        """Process IDs of the workers that run now."""
        return [w.process.pid for w in self._workers if w.process is not None and w.process.returncode is None]

    async def start(self) -> None:
        """Start all workers and wait until each has bound its port.

        Raises SettingsError if one ends before that; its own words are on standard error.
        """
        self._guards = [asyncio.create_task(self._keep_running(worker)) for worker in self._workers]
        started = asyncio.gather(*(worker.ready.wait() for worker in self._workers))
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await _first_of(started, *self._guards)
        except TimeoutError as error:
            raise SettingsError(f"workers: a server process did not start within {START_TIMEOUT:g} s") from error

    async def stop(self, grace: float) -> None:
        """Ask every worker to drain, and end those that still run after ``grace`` seconds."""
        self._stopping = True
        running = [w.process for w in self._workers if w.process is not None and w.process.returncode is None]
        for process in running:
            with suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(grace):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            self._log.warning("workers did not drain in time; ending them", seconds=grace)
        for guard in self._guards:
            guard.cancel()
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
        for reservation in self._reservations:
            reservation.close()

    def abandon(self) -> None:
        """End all at once, with the calls that they have."""
        for worker in self._workers:
            if worker.process is not None:
                with suppress(ProcessLookupError):
                    worker.process.kill()

    async def _keep_running(self, worker: _Worker) -> None:
        """Start a worker, and again whenever it ends, until the pool stops. Returns only if it never came up."""
        delay = _FIRST_DELAY
        while not self._stopping:
            began = time.monotonic()
            code = await self._run_once(worker)
            if self._stopping:
                return
            if not worker.ready.is_set():
                raise SettingsError(f"workers: a server process ended with code {code} before it could listen")
            short = time.monotonic() - began < _SHORT_LIFE
            delay = min(delay * 2, _LONGEST_DELAY) if short else _FIRST_DELAY
            self._log.warning("worker ended; replacing it", grpc=str(worker.settings.grpc), code=code, delay=delay)
            await asyncio.sleep(delay)

    async def _run_once(self, worker: _Worker) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "taskgate.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # gRPC's core would tell of every malformed header of a caller's, in lines of its own that are no JSON.
            env={"GRPC_VERBOSITY": "NONE", **os.environ},
            start_new_session=True,  # a terminal's Ctrl-C goes to the supervisor alone, which drains in order
        )
        worker.process = process
        assert process.stdin is not None  # noqa: S101 - for the type checker: PIPE was asked for
        assert process.stdout is not None  # noqa: S101 - same
        with suppress(BrokenPipeError, ConnectionResetError):  # it died at once; its exit code says so below
            process.stdin.write(worker.settings.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        if await process.stdout.readline():
            worker.ready.set()
            self._log.info("worker listens", grpc=str(worker.settings.grpc), pid=process.pid)
        return await process.wait()


def consecutive_addresses(first: Address, count: int) -> list[Address]:
    """``count`` addresses from ``first`` on; all of them port 0 if the first is.

    Raises SettingsError if they would go past the last port.
    """
    if first.port == 0:
        return [Address(first.host, 0) for _ in range(count)]
    if first.port + count - 1 > MAX_PORT:
        raise SettingsError(f"grpc: {count} workers from port {first.port} on go past port {MAX_PORT}")
    return [Address(first.host, first.port + index) for index in range(count)]


async def _first_of(success: asyncio.Future[Any], *failures: asyncio.Future[Any]) -> None:
    """Wait for ``success``; raise what the first of ``failures`` to end raised."""
    done, _ = await asyncio.wait((success, *failures), return_when=asyncio.FIRST_COMPLETED)
    if success not in done:
        success.cancel()
    for future in done:
        future.result()
