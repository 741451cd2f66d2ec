"""One Envoy process: render its configuration, then start, watch, drain and end it."""

import asyncio
import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import structlog

from taskgate.base.addresses import Address, check_port_free
from taskgate.base.errors import SettingsError, StartError
from taskgate.processes.bootstrap import REFUSAL, UNUSABLE_SETTINGS
from taskgate.processes.envoy.configuration import (
    LISTENER,
    GatewaySettings,
    complaint,
    envoy_command,
    render,
    render_secrets,
    resolve,
)
from taskgate.processes.envoy.folder import PrivateFolder
from taskgate.processes.envoy.nodes import GatewayError
from taskgate.processes.envoy.probes import ADMIN_TIMEOUT, CannotProbeError, ask_admin_in_thread, probe_listener
from taskgate.processes.heartbeat import BLOCKED_HUNG_AFTER, HUNG_AFTER, RECHECK_SECONDS, is_blocked
from taskgate.processes.supervisor import Problem

START_TIMEOUT = 30.0
"""Seconds within which Envoy must accept connections; this includes its first health checks."""

_POLL_INTERVAL = 0.02
_ADMIN_PROBE_INTERVAL = 0.25
_LISTENER_PROBE_INTERVAL = 1.0
_LISTENER_PROBE_TIMEOUT = 15.0  # like heartbeat.LOOP_HUNG_AFTER: a thread of Envoy may just be busy
_KILL_AFTER = 5.0  # seconds from SIGTERM to SIGKILL
_REFUSED_LOG_INTERVAL = 10.0  # seconds between two log lines about refused connections
_RETRY_SECONDS = 5.0  # for admin requests that this process could not send for lack of a file or a thread
_PROBE_SOCKET = "probe.sock"
_APP_FAILED = "Failed to initialize ASGI app"  # logged by pyvoy; the next line is Python's reason
_LONGEST_LOG_LINE = 1 << 20

# A small program that prepares the process and then becomes Envoy, under the same process ID. It replaces preexec_fn:
# Python code between fork and exec is unsafe in a process with threads.
_LAUNCHER = """
import ctypes, os, resource, signal, sys
parent, batch, *command = sys.argv[1:]
if sys.platform == "linux":  # PR_SET_PDEATHSIG: the kernel kills Envoy if the supervisor is killed
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):  # the supervisor was killed before that
        sys.exit(1)
if batch and sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:  # keeps a policy set by the user
    try:  # before Envoy starts its threads, which inherit it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:  # a sandbox forbids it
        pass
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
try:  # each connection needs two descriptors, and many shells allow 1,024
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
except (OSError, ValueError):  # macOS may report a hard limit that it does not grant
    pass
os.execv(command[0], command)
"""


LogLine = Callable[[str, str], None]
"""A function that is called with the level ("warning", …) and the text of each line that Envoy logs."""


def log_line(level: str, text: str) -> None:
    """Copy a line of Envoy's log to our own log."""
    write = getattr(structlog.get_logger("taskgate.envoy"), level, None) or structlog.get_logger("taskgate.envoy").info
    write(text)


def _log_refusal(line: str) -> bool:
    """Log a line of ``gateway/refusals.yaml``; return whether it is one."""
    if not line.startswith('{"'):
        return False
    try:
        fields = msgspec.json.decode(line, type=dict[str, str | int | None])
    except msgspec.MsgspecError:
        return False
    filled = {name: value for name, value in fields.items() if value}
    structlog.get_logger("taskgate.envoy").info("call refused by Envoy", **filled)
    return True


class EnvoyProcess:
    """One Envoy with ``settings``: ``await start()``, at the end ``await drain()`` and ``await stop()``.

    It runs in its own session, so that a terminal's Ctrl-C does not reach it. On Linux, the kernel kills it when the
    thread that called ``start`` ends, so it never outlives this process. After a crash, which ``wait`` reports,
    ``start`` may be called again.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        on_log: LogLine = log_line,
        threads: int | None = None,
        share_port: bool = False,
    ) -> None:
        """``threads`` is the number of Envoy's worker threads; None means one for each CPU.

        With ``share_port``, other processes may use the address too; ``start`` does not check that it is free.
        """
        self.settings = settings
        self.address: Address | None = None
        """The address on which Envoy listens, known once started; its port is never 0."""
        self.admin: Path | None = None
        """The Unix socket of Envoy's admin interface, known once started."""
        self._on_log = on_log
        self._threads = threads
        self._share_port = share_port
        self._process: asyncio.subprocess.Process | None = None
        self._folder: PrivateFolder | None = None
        self._replacement = False
        self._draining = False
        self._probes_refused = 0
        self._probe_error_logged = False
        self._relay: asyncio.Task[None] | None = None
        self._recent_lines: deque[str] = deque(maxlen=30)
        self._refusal: str | None = None

    @property
    def pid(self) -> int | None:
        """The process ID while Envoy runs, else None."""
        return self._process.pid if self._running() and self._process is not None else None

    async def start(self, *, replacement: bool = False) -> Address:
        """Start Envoy, wait until it accepts connections, and return its address.

        A port that the system chose (port 0) is used again by the next start. If cancelled, end Envoy as ``stop`` does.
        ``replacement`` is as in ``Supervised``; Envoy alone starts in the same way.

        Raises:
            GatewayError: the address is taken, or Envoy or the service in it refuses the settings.
            StartError: it ends for another reason, or is not ready in time.
        """
        self._replacement = replacement
        listen = self.address or self.settings.listen
        if not self._share_port:
            try:
                check_port_free(Address(resolve(listen.host), listen.port), key="http")
            except SettingsError as error:
                raise GatewayError(str(error)) from error
        self._clean_up()
        self._folder = PrivateFolder()
        self._draining = False
        self._probes_refused = 0
        self._probe_error_logged = False
        try:
            await self._spawn(self._folder.path, listen)
            async with asyncio.timeout(START_TIMEOUT):
                await self._wait_until_ready()
            self.address = Address(listen.host, await self._bound_port())
        except TimeoutError as error:
            await self._end()
            raise StartError(f"Envoy was not ready within {START_TIMEOUT:g} s. {self._last_output()}") from error
        except asyncio.CancelledError:
            await self.stop()  # in order: it may have accepted its first calls
            raise
        except BaseException:
            await self._end()
            raise
        return self.address

    async def wait(self) -> int:
        """Wait until Envoy ends, for any reason; return its exit code, negative for a signal."""
        if self._process is None:
            raise GatewayError("Envoy has not been started")
        return await self._process.wait()

    async def hung(self) -> Problem:
        """Return when Envoy hangs, does not accept connections although it is not draining, or has ended."""
        probes = [asyncio.create_task(probe) for probe in (self._until_silent(), self._until_listener_fails())]
        refused_log = asyncio.create_task(self._log_refused_connections())
        try:
            done, _ = await asyncio.wait(probes, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in (*probes, refused_log):
                task.cancel()

    async def _until_silent(self) -> Problem:
        """Probe the admin interface until it stops answering. Only an answer counts: the kernel accepts connections.

        A probe that this process cannot send does not count against Envoy.
        """
        while await self._alive_within(HUNG_AFTER) or await self._alive_within(RECHECK_SECONDS):  # noqa: ASYNC110 - see stop
            await asyncio.sleep(_ADMIN_PROBE_INTERVAL)
        return Problem("it hung")

    async def _alive_within(self, seconds: float) -> bool:
        try:
            return await self._admin_status("/ready", seconds) is not None
        except CannotProbeError as error:
            self._log_probe_error(error)
            return True

    def _log_probe_error(self, error: CannotProbeError) -> None:
        """Log the first such error."""
        if not self._probe_error_logged:
            self._probe_error_logged = True
            structlog.get_logger("taskgate.envoy").warning("Envoy cannot be probed; trying again", reason=str(error))

    async def _until_listener_fails(self) -> Problem:
        """Probe the listener until it stops serving new callers.

        Probes use a Unix socket that only this Envoy has: on a shared port, another process might answer. Envoy opens
        and closes all sockets of a listener together, so this one represents them all.
        """
        while True:
            try:
                if await self._listener_problem(_LISTENER_PROBE_TIMEOUT):
                    await asyncio.sleep(RECHECK_SECONDS)  # Envoy may be ending, or this process has been paused
                    blocked = self.pid is not None and is_blocked(self.pid)
                    seconds = BLOCKED_HUNG_AFTER - _LISTENER_PROBE_TIMEOUT if blocked else HUNG_AFTER
                    if problem := await self._listener_problem(seconds):
                        return problem
            except CannotProbeError as error:
                self._log_probe_error(error)
            await asyncio.sleep(_LISTENER_PROBE_INTERVAL)

    async def _listener_problem(self, seconds: float) -> Problem | None:
        """Return why new callers are not served, or None if they are or Envoy is draining. Raises CannotProbeError."""
        if self._folder is None or self._draining:
            return None
        try:
            async with asyncio.timeout(seconds):
                tls = self.settings.tls is not None
                accepts, answered = await probe_listener(self._folder.path / _PROBE_SOCKET, tls=tls)
        except TimeoutError:
            return None if self._draining else Problem("it did not answer on a new connection")
        self._probes_refused += accepts and not answered
        failed = await self._admin_status("/ready", ADMIN_TIMEOUT) == HTTPStatus.SERVICE_UNAVAILABLE
        if self._draining:
            return None
        if not accepts:
            return Problem("it accepted no connections", answers=True)
        return Problem("another program had failed its health check", answers=True) if failed else None

    async def _log_refused_connections(self) -> None:
        """Log how many connections Envoy refused because the allowed number was open."""
        before = 0
        while True:
            await asyncio.sleep(_REFUSED_LOG_INTERVAL)
            statistics = await self._ask("GET", "/stats/prometheus?filter=downstream_global_cx_overflow$") or ""
            refused = sum(map(int, re.findall(r"^\w+\{[^}]*\} (\d+)$", statistics, re.MULTILINE)))
            refused -= self._probes_refused
            if refused > before:
                structlog.get_logger("taskgate.envoy").warning(
                    "connections were refused: the allowed number was open",
                    refused=refused - before,
                    allowed=self.settings.max_connections,
                )
            before = refused

    async def drain(self, seconds: float) -> None:
        """Drain without breaking a request. Idempotent: a repeated call restarts the drain.

        1. /healthz answers 503, and every answer asks its caller to disconnect (``connection: close``, GOAWAY).
        2. For ``seconds``, new requests and connections are still served.
        3. The listener closes. Requests in flight continue.
        """
        self._draining = True
        if await self._ask("POST", "/healthcheck/fail") is None:
            return
        await asyncio.sleep(seconds)
        await self._ask("POST", "/drain_listeners")

    async def stop(self, grace: float = 5.0) -> None:
        """Close the listener, give requests in flight up to ``grace`` seconds, then end Envoy. Idempotent."""
        if self._running():
            await self.drain(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    while await self._busy():  # noqa: ASYNC110 - the state of another process, which sends no events
                        await asyncio.sleep(_POLL_INTERVAL)
        await self._end()

    def kill(self) -> None:
        """End Envoy at once, together with its calls in flight."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def abandon(self) -> None:
        """``kill`` it and remove its temporary files, without waiting; for a supervisor that ends at once."""
        self.kill()
        self._clean_up()

    def _running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _spawn(self, folder: Path, listen: Address) -> None:
        config = folder / "envoy.yaml"
        self.admin = folder / "admin.sock"
        settings = replace(self.settings, listen=listen, admin=self.admin, probe=folder / _PROBE_SOCKET, secrets=folder)
        config.write_text(render(settings), encoding="utf-8")
        for name, text in render_secrets(settings.tls).items():
            (folder / name).write_text(text, encoding="utf-8")
        command = [envoy_command(), "-c", str(config)]
        command += ["--disable-hot-restart"]  # its shared memory has one name for all Envoys on a machine
        command += ["-l", "warning", "--log-format", "%l\t%v"]
        command += ["--file-flush-interval-msec", "1000"]  # of the access log; the default is ten seconds
        command += ["--concurrency", str(self._threads)] if self._threads is not None else []
        self._recent_lines.clear()
        self._refusal = None
        await self._launch(command, stdin=asyncio.subprocess.DEVNULL)

    async def _launch(self, command: list[str], *, batch: bool = False, **options: Any) -> None:
        """Start ``command``; with ``batch``, under the scheduling policy SCHED_BATCH unless the user has set another.

        ``options`` are passed to ``create_subprocess_exec``.
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _LAUNCHER),  # isolated, without site: starts in 10 ms in any environment
            *(str(os.getpid()), "batch" if batch else ""),
            *command,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LONGEST_LOG_LINE,
            **options,
        )
        self._relay = asyncio.create_task(self._relay_log())

    async def _relay_log(self) -> None:
        """Copy Envoy's log, line by line, until it ends."""
        assert self._process is not None  # noqa: S101 - for the type checker
        assert self._process.stderr is not None  # noqa: S101 - same
        level, app_failed = "info", False
        while True:
            try:
                line = (await self._process.stderr.readline()).decode(errors="replace")
            except ValueError:  # the line was longer than the limit, and asyncio has dropped it
                continue
            if not line:
                return
            head, tab, text = line.rstrip("\n").partition("\t")
            if tab:
                level, app_failed = head, text == _APP_FAILED
            elif head.startswith(REFUSAL) or app_failed:
                self._refusal = f"the service cannot start: {head}" if app_failed else head.removeprefix(REFUSAL)
                continue
            with suppress(Exception):  # an error of the log; keep reading, or Envoy would block on a full pipe
                if not _log_refusal(head):
                    self._log_line(level, text if tab else head)

    def _log_line(self, level: str, text: str) -> None:
        if text == "caught ENVOY_SIGTERM":  # Envoy logs it as a warning, but we sent the signal
            return
        self._recent_lines.append(text)
        self._on_log(level, text)

    async def _wait_until_ready(self) -> None:
        """Poll until Envoy reports that it is live; raise GatewayError or StartError if it ends instead."""
        while True:
            if not self._running():
                if self._relay is not None:
                    await self._relay  # the reason may still be in the pipe
                raise self._failed_start()
            if await self._ask("GET", "/ready") is not None:
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def _bound_port(self) -> int:
        listeners = json.loads(await self._ask("GET", "/listeners?format=json") or "{}")
        for status in listeners.get("listener_statuses", []):
            if status["name"] == LISTENER:
                return int(status["local_address"]["socket_address"]["port_value"])
        raise StartError("Envoy runs, but has no listener")

    def _failed_start(self) -> GatewayError | StartError:
        """Return why Envoy has ended before it was ready."""
        code = None if self._process is None else self._process.returncode
        if self._refusal is not None:  # by the service in it, which has ended the process with its own code
            return GatewayError(self._refusal) if code == UNUSABLE_SETTINGS else StartError(self._refusal)
        text = f"Envoy did not start. {self._last_output()}"
        return StartError(text) if code is None or code < 0 else GatewayError(text)

    async def _busy(self) -> bool:
        """Whether requests are in flight, or buffered answers wait for slow readers; streams do not count."""
        wanted = "downstream_rq_active|downstream_cx_tx_bytes_buffered|taskgate-streams.upstream_rq_active"
        statistics = await self._ask("GET", f"/stats/prometheus?filter=({wanted})$") or ""
        found = re.findall(r'^envoy_(\w+)\{[^}]*"taskgate(?:-streams)?"[^}]*\} (\d+)$', statistics, re.MULTILINE)
        values = {name: int(value) for name, value in found}
        running = values.get("http_downstream_rq_active", 0) - values.get("cluster_upstream_rq_active", 0)
        return running > 0 or values.get("http_downstream_cx_tx_bytes_buffered", 0) > 0

    async def _admin_status(self, target: str, seconds: float) -> int | None:
        """Return the HTTP status of the admin interface's answer, or None without one. Raises CannotProbeError."""
        if self.admin is None or not self._running():
            return None
        answer = await ask_admin_in_thread(self.admin, "GET", target, seconds)
        return None if answer is None else answer[0]

    async def _ask(self, method: str, target: str) -> str | None:
        """Return the body of the admin interface's answer, or None unless its status is 200.

        If this process has no file or thread left, try again for ``_RETRY_SECONDS``: such a shortage may pass quickly.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _RETRY_SECONDS
        while self.admin is not None and self._running():
            try:
                status, body = await ask_admin_in_thread(self.admin, method, target, ADMIN_TIMEOUT) or (None, None)
            except CannotProbeError as error:
                self._log_probe_error(error)
                if loop.time() > until:
                    break
                await asyncio.sleep(_ADMIN_PROBE_INTERVAL)
            else:
                return body if status == HTTPStatus.OK else None
        return None

    async def _end(self) -> None:
        """Send SIGTERM, after ``_KILL_AFTER`` seconds SIGKILL; then remove the temporary files."""
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_KILL_AFTER):
                    await process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._relay is not None:
            await self._relay
        self._clean_up()

    def _clean_up(self) -> None:
        self.admin = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _last_output(self) -> str:
        words = complaint("\n".join(self._recent_lines))
        return f"Its last output: {words}" if words else "It printed nothing."
