"""One Envoy process: started with a rendered configuration, watched, drained, ended."""

import asyncio
import json
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import structlog

from taskgate.base.addresses import Address, check_port_free
from taskgate.base.errors import SettingsError
from taskgate.processes.bootstrap import REFUSAL
from taskgate.processes.envoy.configuration import (
    LISTENER,
    GatewayError,
    GatewaySettings,
    complaint,
    envoy_command,
    render,
    resolve,
)
from taskgate.processes.envoy.folder import PrivateFolder
from taskgate.processes.heartbeat import BLOCKED_HUNG_AFTER, HUNG_AFTER, RECHECK_SECONDS, is_blocked
from taskgate.processes.supervisor import Problem

START_TIMEOUT = 30.0
"""Seconds Envoy has until it accepts connections; its first health checks are part of that."""

_POLL_INTERVAL = 0.02
_LOOK_INTERVAL = 0.25  # seconds between two looks whether Envoy hangs
_PROBE_INTERVAL = 1.0  # seconds between two connections that are made to see whether Envoy takes any
_PROBE_TIMEOUT = 15.0  # seconds; as the event loop (heartbeat.LOOP_HUNG_AFTER), a thread of Envoy's may just be busy
_PROBE = b"GET / HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n"  # 404, by Envoy itself
_KILL_AFTER = 5.0  # seconds from SIGTERM to SIGKILL
_ADMIN_TIMEOUT = 5.0
_TELL_INTERVAL = 10.0  # seconds between two log lines about connections that were refused
_SHORTAGE = 5.0  # seconds for which a question is asked again while this process has no file or thread to ask it with
_PROBE_SOCKET = "probe.sock"
_NO_LISTENER = (ConnectionRefusedError, FileNotFoundError)
_APP_FAILED = "Failed to initialize ASGI app"  # pyvoy's; the next line is Python's reason, as that a module is missing
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
        self.admin: Path | None = None
        """The Unix socket of Envoy's admin interface, known once started."""
        self._on_log = on_log
        self._threads = threads
        self._share_port = share_port
        self._process: asyncio.subprocess.Process | None = None
        self._folder: PrivateFolder | None = None
        self._draining = False
        self._probes_refused = 0
        self._told_no_news = False
        self._relay: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=30)
        self._refusal: str | None = None

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
        self._folder = PrivateFolder()
        self._draining = False
        self._probes_refused = 0
        self._told_no_news = False
        try:
            await self._spawn(self._folder.path, listen)
            async with asyncio.timeout(START_TIMEOUT):
                await self._wait_ready()
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

    async def hung(self) -> Problem:
        """Return when it hangs, takes no connections though it was not told to wind up, or has ended."""
        looks = [asyncio.create_task(look) for look in (self._until_silent(), self._until_closed())]
        teller = asyncio.create_task(self._tell_of_refused_connections())
        try:
            done, _ = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in (*looks, teller):
                task.cancel()

    async def _until_silent(self) -> Problem:
        """Watch the admin interface. An answer is a sign of life; a connection is none, as the kernel takes it.

        Where nothing could be asked, there is no news: that says something about this process, and not about Envoy.
        """
        while await self._alive_within(HUNG_AFTER) or await self._alive_within(RECHECK_SECONDS):  # noqa: ASYNC110 - see stop
            await asyncio.sleep(_LOOK_INTERVAL)
        return Problem("it hung")

    async def _alive_within(self, seconds: float) -> bool:
        try:
            return await self._admin_status("/ready", seconds) is not None
        except _NoNewsError as error:
            self._tell_of_no_news(error)
            return True

    def _tell_of_no_news(self, error: "_NoNewsError") -> None:
        """Log it, the first time."""
        if not self._told_no_news:
            self._told_no_news = True
            structlog.get_logger("taskgate.envoy").warning(
                "Envoy cannot be watched; trying again for as long as it takes", reason=str(error)
            )

    async def _until_closed(self) -> Problem:
        """Connect as callers do, but to a socket of this process alone: on a port that is shared, another might answer.

        Envoy opens and closes all sockets of a listener together, so that one stands for all.
        """
        while True:
            try:
                if await self._problem_of_callers(_PROBE_TIMEOUT):
                    await asyncio.sleep(RECHECK_SECONDS)  # it may be about to end, or this process has stood still
                    blocked = self.pid is not None and is_blocked(self.pid)
                    seconds = BLOCKED_HUNG_AFTER - _PROBE_TIMEOUT if blocked else HUNG_AFTER
                    if problem := await self._problem_of_callers(seconds):
                        return problem
            except _NoNewsError as error:
                self._tell_of_no_news(error)
            await asyncio.sleep(_PROBE_INTERVAL)

    async def _problem_of_callers(self, seconds: float) -> Problem | None:
        """Why new callers are not served, if they are not and should be. Raises _NoNewsError."""
        if self._folder is None or self._draining:
            return None
        try:
            async with asyncio.timeout(seconds):
                takes, answered = await _takes_connections(self._folder.path / _PROBE_SOCKET)
        except TimeoutError:
            return None if self._draining else Problem("it answered on no new connection")
        self._probes_refused += takes and not answered
        failed = await self._admin_status("/ready", _ADMIN_TIMEOUT) == HTTPStatus.SERVICE_UNAVAILABLE
        if self._draining:
            return None
        if not takes:
            return Problem("it took no connections", answers=True)
        return Problem("somebody else had failed its health check", answers=True) if failed else None

    async def _tell_of_refused_connections(self) -> None:
        """Log how many connections were closed at once because as many as are allowed were open."""
        before = 0
        while True:
            await asyncio.sleep(_TELL_INTERVAL)
            statistics = await self._ask("GET", "/stats/prometheus?filter=downstream_global_cx_overflow$") or ""
            refused = sum(map(int, re.findall(r"^\w+\{[^}]*\} (\d+)$", statistics, re.MULTILINE)))
            refused -= self._probes_refused
            if refused > before:
                structlog.get_logger("taskgate.envoy").warning(
                    "connections were refused: as many as are allowed were open",
                    refused=refused - before,
                    allowed=self.settings.max_connections,
                )
            before = refused

    async def drain(self, seconds: float) -> None:
        """Wind up without breaking a request. A second call only repeats the steps.

        1. /healthz answers 503, and every answer asks its caller to leave (``connection: close``, GOAWAY).
        2. For ``seconds`` new requests and connections are still served.
        3. The listener closes. Requests that are running go on.
        """
        self._draining = True
        if await self._ask("POST", "/healthcheck/fail") is None:
            return
        await asyncio.sleep(seconds)
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
        self.admin = folder / "admin.sock"
        settings = replace(self.settings, listen=listen, admin=self.admin, probe=folder / _PROBE_SOCKET)
        config.write_text(render(settings), encoding="utf-8")
        command = [envoy_command(), "-c", str(config)]
        command += ["--disable-hot-restart"]  # it would claim names that all Envoys on this machine share
        command += ["-l", "warning", "--log-format", "%l\t%v"]
        command += ["--concurrency", str(self._threads)] if self._threads is not None else []
        self._last_words.clear()
        self._refusal = None
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
        level, app_failed = "info", False
        while True:
            try:
                line = (await self._process.stderr.readline()).decode(errors="replace")
            except ValueError:  # longer than the limit; asyncio has dropped it
                continue
            if not line:
                return
            head, tab, text = line.rstrip("\n").partition("\t")
            if tab:
                level, app_failed = head, text == _APP_FAILED
            elif head.startswith(REFUSAL) or app_failed:
                self._refusal = f"the service cannot start: {head}" if app_failed else head.removeprefix(REFUSAL)
                continue
            with suppress(Exception):  # of the log; unless Envoy's lines are read on, it stands still at one of them
                self._tell(level, text if tab else head)

    def _tell(self, level: str, text: str) -> None:
        if text == "caught ENVOY_SIGTERM":  # a warning to Envoy, and our own doing
            return
        self._last_words.append(text)
        self._on_log(level, text)

    async def _wait_ready(self) -> None:
        """Poll until Envoy says that it is live; raises GatewayError if it ends instead."""
        while True:
            if not self._running():
                if self._relay is not None:
                    await self._relay  # the reason may still be in the pipe
                raise GatewayError(self._refusal or f"Envoy did not start. {self._words()}")
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

    async def _admin_status(self, target: str, seconds: float) -> int | None:
        """The status that the admin interface answers with, or None if it does not. Raises _NoNewsError."""
        if self.admin is None or not self._running():
            return None
        answer = await _ask_in_thread(self.admin, "GET", target, seconds)
        return None if answer is None else answer[0]

    async def _ask(self, method: str, target: str) -> str | None:
        """The body of the admin interface's answer, or None if there was no good one.

        A shortage of files or threads in this process may be over in a moment: so long it is asked again.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _SHORTAGE
        while self.admin is not None and self._running():
            try:
                status, body = await _ask_in_thread(self.admin, method, target, _ADMIN_TIMEOUT) or (None, None)
            except _NoNewsError as error:
                self._tell_of_no_news(error)
                if loop.time() > until:
                    break
                await asyncio.sleep(_LOOK_INTERVAL)
            else:
                return body if status == HTTPStatus.OK else None
        return None

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
            self._folder.remove()
            self._folder = None

    def _words(self) -> str:
        words = complaint("\n".join(self._last_words))
        return f"Its last words: {words}" if words else "It said nothing."


class _NoNewsError(Exception):
    """This process could not look, as where it has no file, thread or memory left."""


class _UnixConnection(HTTPConnection):
    """HTTP over the Unix socket at ``path``."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(str(self._path))


async def _ask_in_thread(admin: Path, method: str, target: str, seconds: float) -> tuple[int, str] | None:
    try:
        return await asyncio.to_thread(_ask_admin, admin, method, target, seconds)
    except RuntimeError as error:  # no thread can be started
        raise _NoNewsError(str(error)) from error


def _ask_admin(admin: Path, method: str, target: str, timeout: float = _ADMIN_TIMEOUT) -> tuple[int, str] | None:
    """One request to an admin interface: the status and body of its answer, None if there was none. Blocks.

    Raises _NoNewsError if the question could not be asked, for a reason that is not Envoy's.
    """
    connection = _UnixConnection(admin, timeout=timeout)
    try:
        try:
            connection.connect()
        except (*_NO_LISTENER, BlockingIOError, TimeoutError):  # BlockingIOError: more wait than it takes
            return None
        except OSError as error:
            raise _NoNewsError(str(error)) from error
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _connected(path: Path) -> socket.socket:
    """A connection to the Unix socket at ``path``, at once or not at all: where more wait than it takes, asyncio errs.

    Raises OSError.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


async def _takes_connections(path: Path) -> tuple[bool, bool]:
    """Whether there is a listener at ``path``, and whether it answers; one that is full hangs up.

    Raises _NoNewsError if the connection could not be tried, for a reason that is not the listener's.
    """
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=_connected(path))
        except _NO_LISTENER:
            return False, False
        except BlockingIOError:  # more wait than it takes
            await asyncio.sleep(_POLL_INTERVAL)
        except OSError as error:
            raise _NoNewsError(str(error)) from error
        else:
            break
    try:
        writer.write(_PROBE)
        return True, bool(await reader.read(1))
    except OSError:  # it hung up, for which it had to take the connection
        return True, False
    finally:
        writer.close()
