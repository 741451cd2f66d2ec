"""The ASGI application that pyvoy loads into Envoy: ``taskgate.processes.embedded_app:app``.

The supervisor writes ``Bootstrap`` to standard input. If standard input is empty, because a user runs Envoy with the
configuration of ``taskgate gateway``, the settings come from TASKGATE_* variables, as anywhere else.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import structlog

from taskgate.base.errors import SettingsError
from taskgate.base.gc_freeze import freeze_startup_objects
from taskgate.base.layout import Layout
from taskgate.base.logs import configure_logs, flush_logs
from taskgate.base.settings import load_settings, settings_of_supervisor
from taskgate.processes.bootstrap import DRAIN, REFUSAL, UNUSABLE_SETTINGS, Bootstrap
from taskgate.processes.heartbeat import start_heartbeat
from taskgate.stores import open_store
from taskgate.stores.base import TaskStore
from taskgate.telemetry.optional import open_tracing
from taskgate.telemetry.server import ServerMeter
from taskgate.transports.asgi_app import AsgiTransport
from taskgate.transports.counting import METHODS


class Application:
    """The ASGI application. Envoy accepts connections after lifespan startup, and exits after lifespan shutdown."""

    def __init__(self, open_store: Callable[[str, Layout], TaskStore]) -> None:
        """``open_store`` opens the store for the URL and the layout of the settings."""
        self._open_store = open_store
        self._transport: AsgiTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Handle the lifespan, or one request."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            assert self._transport is not None  # noqa: S101 - the lifespan comes first
            await self._transport(scope, receive, send)

    async def _run_lifespan(
        self,
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:  # noqa: BLE001 - after any error at start-up, no call could be served
            _exit_with_reason(error)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            await self._transport.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        python = str(Path(sys.exec_prefix, "bin", "python3"))  # inside Envoy, sys.executable does not name it
        line, rest = _first_line()
        meter, replacement = None, False
        if line:
            bootstrap = msgspec.json.decode(line, type=Bootstrap)
            os.chdir(bootstrap.directory)
            python = bootstrap.python
            settings = settings_of_supervisor(bootstrap.settings)
            configure_logs(settings.log_level, settings.log_format, stream=os.fdopen(bootstrap.log, "wb"))
            self._tasks.append(start_heartbeat(bootstrap.heartbeat))
            replacement = bootstrap.replacement
            meter = None if bootstrap.metrics is None else ServerMeter(bootstrap.metrics, METHODS)
        else:
            settings = load_settings(None, {})
            configure_logs(settings.log_level, settings.log_format)
        self._transport = transport = AsgiTransport(
            settings,
            self._open_store(settings.store, settings.layout),
            python=python,
            meter=meter,
            tracing=open_tracing(settings),
            replacement=replacement,
        )
        await transport.start()
        if line:
            self._tasks.append(asyncio.create_task(_drain_on_request(rest, transport)))
        freeze_startup_objects()
        structlog.get_logger("taskgate.server").info("serving inside Envoy", pid=os.getpid())


def _exit_with_reason(error: Exception) -> NoReturn:
    """End this process with one sentence on standard error, which the supervisor reads.

    Otherwise pyvoy would print a traceback, and Envoy a message without the reason.
    """
    structlog.get_logger("taskgate.server").debug("the service did not start", exc_info=error)
    flush_logs()
    known = isinstance(error, SettingsError)
    sentence = str(error) if known else f"the service cannot start: {type(error).__name__}: {error}"
    os.write(2, f"{REFUSAL}{' '.join(sentence.split())}\n".encode())
    os._exit(UNUSABLE_SETTINGS if known else 1)


def _first_line() -> tuple[bytes, bytes]:
    """Read the first line of standard input, and the bytes that came with it; both are empty at its end."""
    read = b""
    while b"\n" not in read:
        part = os.read(sys.stdin.fileno() if sys.stdin else 0, 1 << 16)
        if not part:
            return b"", b""
        read += part
    line, _, rest = read.partition(b"\n")
    return line, rest


async def _drain_on_request(received: bytes, transport: AsgiTransport) -> None:
    """Drain when the supervisor sends ``DRAIN``; ``received`` are the bytes of standard input read so far."""
    reader = asyncio.StreamReader()
    reader.feed_data(received)
    pipe = os.fdopen(0, "rb", buffering=0, closefd=False)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while line := await reader.readline():
            if line == DRAIN:
                transport.drain()
    except Exception:  # noqa: BLE001 - no caller awaits this task; any error belongs in the log
        structlog.get_logger("taskgate.server").exception("cannot read from the supervisor; drain requests are lost")


sys.path[:] = [path for path in sys.path if path != "."]  # pyvoy adds it; a data directory must not supply modules
app = Application(open_store)
