"""Run gRPC servers as worker processes, and keep several of them running."""

import asyncio
import itertools
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from taskgate.base.addresses import MAX_PORT, Address
from taskgate.base.errors import SettingsError, StartError
from taskgate.base.settings import Settings
from taskgate.processes.bootstrap import REFUSAL, UNUSABLE_SETTINGS, tell
from taskgate.processes.heartbeat import until_silent
from taskgate.processes.reserved_ports import reserve_all
from taskgate.processes.supervisor import Problem, Supervisor
from taskgate.telemetry.ledger import Lease

START_TIMEOUT = 30.0
"""Seconds within which a worker must bind its port."""

_KILL_AFTER = 5.0
"""Seconds to drain for a worker whose start fails or is cancelled."""


_sockets = itertools.count()
"""Numbers of Unix sockets of workers, each used once."""


class WorkerProcess:
    """One process ``python -m taskgate.processes.worker_main``. ``Supervised`` defines the methods."""

    admin = None
    """It has no admin interface."""

    def __init__(
        self,
        settings: Settings,
        *,
        peer_token: str = "",
        entry: Path | None = None,
        open_block: Callable[[], Lease] | None = None,
    ) -> None:
        """Prepare a worker that listens on ``settings.grpc``, a port that it shares.

        ``peer_token`` is passed to ``GrpcServer``. ``entry`` is the path at which Envoy finds a Unix socket of the
        worker that started last. ``open_block`` makes the memory for its metrics.
        """
        self._open_block = open_block
        self._settings = settings
        self._peer_token = peer_token
        self._entry = entry
        self._process: asyncio.subprocess.Process | None = None
        self._log = structlog.get_logger("taskgate.workers")

    @property
    def pid(self) -> int | None:
        """The process ID while it runs, else None."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self, *, replacement: bool = False) -> None:
        """Start it and wait until it has bound its port. ``replacement`` is as in ``Supervised``.

        Raises SettingsError if it refuses its settings, and StartError if it ends for another reason or does not listen
        within ``START_TIMEOUT``.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._launch(replacement=replacement)
        except TimeoutError as error:
            await self.stop(0)
            raise StartError(f"a server process did not start within {START_TIMEOUT:g} s") from error
        except BaseException:
            await self.stop(_KILL_AFTER)
            raise
        self._log.info("worker listens", grpc=str(self._settings.grpc), pid=self.pid)

    async def wait(self) -> int:
        """Wait until it ends; return its exit code, negative for a signal."""
        assert self._process is not None  # noqa: S101 - ``start`` comes first
        return await self._process.wait()

    async def hung(self) -> Problem:
        """Return when its interpreter or event loop has been silent for too long, or has ended."""
        assert self._process is not None  # noqa: S101 - ``start`` comes first
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: it is a PIPE
        await until_silent(self._process.stdout, self.pid)
        return Problem("it hung")

    async def drain(self, seconds: float) -> None:
        """Let it keep serving for ``seconds``; it drains by itself when it is stopped."""
        if self.pid is not None:
            await asyncio.sleep(seconds)

    async def stop(self, grace: float) -> None:
        """Ask it to drain; kill it if it still runs after ``grace`` seconds."""
        if self._process is None or self.pid is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            self._log.warning("a worker did not drain in time; killing it", pid=self.pid, seconds=grace)
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End it at once, together with its calls in flight."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def abandon(self) -> None:
        """Same as ``kill``: a worker has no temporary files."""
        self.kill()

    async def _launch(self, *, replacement: bool) -> None:
        # A socket for each process: gRPC removes the file when it ends, even if a successor has made it anew.
        unix_socket = None if self._entry is None else self._entry.with_name(f"s{next(_sockets)}")
        lease = None if self._open_block is None else self._open_block()
        try:
            self._process = process = await self._spawn(() if lease is None else (lease.descriptor,))
        except BaseException:
            if lease is not None:
                lease.end()
            raise
        if lease is not None:
            lease.follow(process)
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a PIPE
        metrics = "" if lease is None else lease.descriptor
        lines = (self._settings.model_dump_json(), self._peer_token, unix_socket or "", metrics, int(replacement))
        tell(process, "".join(f"{line}\n" for line in lines).encode())
        line = (await process.stdout.readline()).decode(errors="replace")
        if line.startswith(REFUSAL):
            refused = SettingsError if await process.wait() == UNUSABLE_SETTINGS else StartError
            raise refused(line.removeprefix(REFUSAL).strip())
        if not line:
            code = await process.wait()
            raise StartError(f"a server process ended with code {code} before it could listen")
        if self._entry is not None and unix_socket is not None:
            _point(self._entry, unix_socket)

    async def _spawn(self, descriptors: Sequence[int]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "taskgate.processes.worker_main",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # gRPC's core would log every malformed header of a client, in lines that are not JSON.
            env={"GRPC_VERBOSITY": "NONE", **os.environ},
            pass_fds=descriptors,
            start_new_session=True,  # a terminal's Ctrl-C reaches only the supervisor, which drains in order
        )


class WorkerPool(Supervisor[WorkerProcess]):
    """``per_address`` workers on each of ``addresses``.

    The kernel spreads connections over workers that share an address; Envoy spreads calls over workers that have one
    each. The pool reserves every address until it stops, so that no other program can take one during a replacement.
    """

    def __init__(
        self,
        settings: Settings,
        addresses: Sequence[Address],
        *,
        per_address: int = 1,
        grace: float,
        private: Path | None = None,
        open_block: Callable[[], Lease] | None = None,
    ) -> None:
        """Reserve the addresses; raises SettingsError if one is taken. In ``self.addresses``, no port is 0.

        ``grace`` is the number of seconds in which a replaced worker must drain. ``private`` is a folder of this user
        for Unix sockets, one for each address, on which Envoy reaches the workers. ``open_block`` is as in
        WorkerProcess.
        """
        reservations = reserve_all(addresses, key="grpc")
        self.addresses = [reservation.address for reservation in reservations]
        self.peer_token = secrets.token_hex(16)
        """The token that Envoy puts before a client's address, so that workers trust the address."""
        entries = [None if private is None else private / f"w{number}" for number in range(len(self.addresses))]
        self.upstreams: list[Address | Path] = [
            address if entry is None else entry for address, entry in zip(self.addresses, entries, strict=True)
        ]
        """Where Envoy reaches the workers."""
        makers = [
            partial(
                WorkerProcess,
                settings.model_copy(update={"grpc": address}),
                peer_token=self.peer_token,
                entry=entry,
                open_block=open_block,
            )
            for address, entry in zip(self.addresses, entries, strict=True)
            for _ in range(per_address)
        ]
        super().__init__(makers, name="worker", grace=grace, reservations=reservations)


def consecutive_addresses(first: Address, count: int) -> list[Address]:
    """Return ``count`` addresses with consecutive ports from ``first`` on, or all with port 0 if ``first`` has it.

    Raises SettingsError if they would exceed the last port.
    """
    if first.port == 0:
        return [Address(first.host, 0) for _ in range(count)]
    if first.port + count - 1 > MAX_PORT:
        raise SettingsError(f"grpc: {count} workers from port {first.port} on would exceed port {MAX_PORT}")
    return [Address(first.host, first.port + index) for index in range(count)]


def _point(entry: Path, unix_socket: Path) -> None:
    """Make ``entry`` a link to ``unix_socket``, and remove the one that it led to: its process needs no new callers."""
    before = entry.resolve() if entry.is_symlink() else None
    link = unix_socket.with_name(f"{unix_socket.name}.link")
    link.symlink_to(unix_socket.name)
    link.rename(entry)
    if before is not None:
        before.unlink(missing_ok=True)
