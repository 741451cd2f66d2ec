"""One Envoy process: started with a rendered configuration, watched, drained, ended."""

import asyncio
import json
import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import structlog

from taskgate.addresses import Address, check_port_free
from taskgate.beats import HUNG_AFTER, SECOND_LOOK
from taskgate.errors import SettingsError
from taskgate.gateway.configuration import (
    LISTENER,
    GatewayError,
    GatewaySettings,
    complaint,
    envoy_command,
    render,
    resolve,
)

START_TIMEOUT = 30.0
"""Seconds Envoy has until it accepts connections; its first health checks are part of that."""

_POLL_INTERVAL = 0.02
_LOOK_INTERVAL = 0.25  # seconds between two looks whether Envoy hangs
_KILL_AFTER = 5.0  # seconds from SIGTERM to SIGKILL
_ADMIN_TIMEOUT = 5.0
_LONGEST_LOG_LINE = 1 << 20

# Runs between fork and Envoy, as a program of its own: Python code between fork and exec (preexec_fn) is unsafe in a
# process with threads. Envoy keeps this process's ID.
_LAUNCHER = """
import ctypes, os, resource, signal, sys
parent, batch, *command = sys.argv[1:]
if sys.platform == "linux":  # a supervisor that is killed cannot stop Envoy; the kernel does it (PR_SET_PDEATHSIG)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):  # it was killed before that
        sys.exit(1)
if batch and sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has chosen
    try:  # here, so that all threads to come have it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:  # a sandbox forbids it
        pass
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
try:  # two descriptors a connection; many shells allow 1,024
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
except (OSError, ValueError):  # macOS names a limit that it does not grant
    pass
os.execv(command[0], command)
"""


LogLine = Callable[[str, str], None]
"""Called with the level ("warning", …) and the text of each line that Envoy logs."""


def log_line(level: str, text: str) -> None:
    """Pass a line of Envoy's on to our own log, as it came."""
    write = getattr(structlog.get_logger("taskgate.envoy"), level, None) or structlog.get_logger("taskgate.envoy").info
    write(text)


class EnvoyProcess:
    """One Envoy, rendered from ``settings``: ``await start()``, at the end ``await drain()`` and ``await stop()``.

    It runs in a session of its own, so that a terminal's Ctrl-C does not reach it, and on Linux it does not outlive
    this process, however this one ends (provided that the thread which called ``start`` lives as long). After a crash,
    which ``wait`` reports, ``start`` may be called again.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        on_log: LogLine = log_line,
        threads: int | None = None,
        share_port: bool = False,
    ) -> None:
        """``threads`` is the number of Envoy's worker threads; None: one for each CPU.

        With ``share_port`` other processes may listen on the same address: it is not checked to be free.
        """
        self.settings = settings
        self.address: Address | None = None
        """Where Envoy listens, known once started; its port is never 0."""
        self.admin: Address | None = None
        """Where Envoy's admin interface listens, known once started."""
        self._on_log = on_log
        self._threads = threads
        self._share_port = share_port
        self._process: asyncio.subprocess.Process | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._relay: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=30)

    @property
    def pid(self) -> int | None:
        """The process ID while Envoy runs, else None."""
        return self._process.pid if self._running() and self._process is not None else None

    async def start(self) -> Address:
        """Start Envoy and wait until it accepts connections; returns where.

        A port that Envoy chose (port 0) is kept when Envoy is started again.

        Cancelled, it ends Envoy as ``stop`` does.

        Raises:
            GatewayError: the address is taken, Envoy refuses the configuration, or it is not ready in time.
        """
        listen = self.address or self.settings.listen
        if not self._share_port:
            try:
                check_port_free(Address(resolve(listen.host), listen.port), key="http")
            except SettingsError as error:
                raise GatewayError(str(error)) from error
        self._clean_up()
        self._folder = tempfile.TemporaryDirectory(prefix="taskgate-")
        try:
            await self._spawn(Path(self._folder.name), listen)
            async with asyncio.timeout(START_TIMEOUT):
                await self._wait_ready(Path(self._folder.name, "admin"))
            self.address = Address(listen.host, await self._bound_port())
        except TimeoutError as error:
            await self._end()
            raise GatewayError(f"Envoy was not ready within {START_TIMEOUT:g} s. {self._words()}") from error
        except asyncio.CancelledError:
            await self.stop()  # it may have taken its first calls
            raise
        except BaseException:
            await self._end()
            raise
        return self.address

    async def wait(self) -> int:
        """Wait until Envoy ends, for whatever reason; returns its exit code, negative for a signal."""
        if self._process is None:
            raise GatewayError("Envoy has not been started")
        return await self._process.wait()

    async def hung(self) -> None:
        """Return when the admin interface has been silent for too long, or Envoy has ended.

        Any answer is a sign of life. Connecting is none: the kernel takes connections for a process that hangs.
        """
        while await self._alive_within(HUNG_AFTER) or await self._alive_within(SECOND_LOOK):  # noqa: ASYNC110 - see stop
            await asyncio.sleep(_LOOK_INTERVAL)

    async def _alive_within(self, seconds: float) -> bool:
        if self.admin is None or not self._running():
            return False
        return await asyncio.to_thread(_ask_admin, self.admin, "GET", "/ready", seconds) is not None

    async def drain(self, seconds: float | None = None) -> None:
        """Wind up without breaking a request. A second call only repeats the steps.

        1. /healthz answers 503, and every answer asks its caller to leave (``connection: close``, GOAWAY).
        2. For ``seconds`` (default: the setting) new requests and connections are still served.
        3. The listener closes. Requests that are running go on.
        """
        if await self._ask("POST", "/healthcheck/fail") is None:
            return
        await asyncio.sleep(self.settings.drain_seconds if seconds is None else seconds)
        await self._ask("POST", "/drain_listeners")

    async def stop(self, grace: float = 5.0) -> None:
        """Close the listener, give running requests up to ``grace`` seconds, then end Envoy. Safe to call twice."""
        if self._running():
            await self.drain(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    while await self._busy():  # noqa: ASYNC110 - another process's state; it sends no events
                        await asyncio.sleep(_POLL_INTERVAL)
        await self._end()

    def kill(self) -> None:
        """End Envoy at once, with all calls that it has; for one that does not answer."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def abandon(self) -> None:
        """``kill``, and remove what the process used; for a supervisor that ends at once."""
        self.kill()
        self._clean_up()

    def _running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _spawn(self, folder: Path, listen: Address) -> None:
        config = folder / "envoy.yaml"
        config.write_text(render(replace(self.settings, listen=listen)), encoding="utf-8")
        command = [envoy_command(), "-c", str(config), "--admin-address-path", str(folder / "admin")]
        command += ["--disable-hot-restart"]  # it would claim names that all Envoys on this machine share
        command += ["-l", "warning", "--log-format", "%l\t%v"]
        command += ["--concurrency", str(self._threads)] if self._threads is not None else []
        self._last_words.clear()
        await self._launch(command, stdin=asyncio.subprocess.DEVNULL)

    async def _launch(self, command: list[str], *, batch: bool = False, **options: Any) -> None:
        """Start ``command``, with scheduling policy SCHED_BATCH if ``batch`` and where nobody has chosen another.

        ``options`` are those of ``create_subprocess_exec``.
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _LAUNCHER),  # isolated and without site: starts in 10 ms, whatever the environment
            *(str(os.getpid()), "batch" if batch else ""),
            *command,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LONGEST_LOG_LINE,
            **options,
        )
        self._relay = asyncio.create_task(self._relay_log())

    async def _relay_log(self) -> None:
        """Hand over Envoy's log, line by line, until it ends."""
        assert self._process is not None  # noqa: S101 - for the type checker
        assert self._process.stderr is not None  # noqa: S101 - same
        level = "info"
        while True:
            try:
                line = (await self._process.stderr.readline()).decode(errors="replace")
            except ValueError:  # longer than the limit; asyncio has dropped it
                continue
            if not line:
                return
            head, tab, text = line.rstrip("\n").partition("\t")
            if tab:
                level = head
            text = text if tab else head
            if text != "caught ENVOY_SIGTERM":  # a warning to Envoy, and our own doing
                self._last_words.append(text)
                self._on_log(level, text)

    async def _wait_ready(self, admin_file: Path) -> None:
        """Poll until Envoy says that it is live; raises GatewayError if it ends instead."""
        while True:
            if not self._running():
                if self._relay is not None:
                    await self._relay  # the reason may still be in the pipe
                raise GatewayError(f"Envoy did not start. {self._words()}")
            self.admin = self.admin or _read_address(admin_file)
            if await self._ask("GET", "/ready") is not None:
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def _bound_port(self) -> int:
        listeners = json.loads(await self._ask("GET", "/listeners?format=json") or "{}")
        for status in listeners.get("listener_statuses", []):
            if status["name"] == LISTENER:
                return int(status["local_address"]["socket_address"]["port_value"])
        raise GatewayError("Envoy runs but does not listen")

    async def _busy(self) -> bool:
        """Whether requests are running, or answers are still on their way to a slow reader; streams do not count."""
        wanted = "downstream_rq_active|downstream_cx_tx_bytes_buffered|taskgate-streams.upstream_rq_active"
        statistics = await self._ask("GET", f"/stats/prometheus?filter=({wanted})$") or ""
        found = re.findall(r'^envoy_(\w+)\{[^}]*"taskgate(?:-streams)?"[^}]*\} (\d+)$', statistics, re.MULTILINE)
        values = {name: int(value) for name, value in found}
        running = values.get("http_downstream_rq_active", 0) - values.get("cluster_upstream_rq_active", 0)
        return running > 0 or values.get("http_downstream_cx_tx_bytes_buffered", 0) > 0

    async def _ask(self, method: str, target: str) -> str | None:
        """The body of the admin interface's answer, or None if there was no good one."""
        if self.admin is None or not self._running():
            return None
        status, body = await asyncio.to_thread(_ask_admin, self.admin, method, target) or (None, None)
        return body if status == HTTPStatus.OK else None

    async def _end(self) -> None:
        """SIGTERM, after a while SIGKILL; then remove what the process used."""
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
            self._folder.cleanup()
            self._folder = None

    def _words(self) -> str:
        words = complaint("\n".join(self._last_words))
        return f"Its last words: {words}" if words else "It said nothing."


def _read_address(file: Path) -> Address | None:
    """What Envoy has written about its admin interface; None until it has."""
    text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
    return Address.parse(text) if text else None


def _ask_admin(admin: Address, method: str, target: str, timeout: float = _ADMIN_TIMEOUT) -> tuple[int, str] | None:
    """One request to an admin interface: the status and body of its answer, None if there was none. Blocks."""
    connection = HTTPConnection(admin.host, admin.port, timeout=timeout)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
