"""What pyvoy loads into Envoy: ``taskgate.processes.embedded_app:app``.

The supervisor writes ``Orders`` to standard input. Where there are none (an Envoy that somebody started by hand, with
the configuration of ``taskgate gateway``), the settings come from TASKGATE_* variables, as anywhere else.
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
from taskgate.base.settings import Settings, load_settings
from taskgate.processes.bootstrap import DRAIN, REFUSAL, Orders
from taskgate.processes.heartbeat import start_beating
from taskgate.stores import open_store
from taskgate.stores.base import TaskStore
from taskgate.transports.asgi_app import AsgiTransport


class Application:
    """The ASGI application; Envoy takes connections once its lifespan has begun, and ends it before it exits."""

    def __init__(self, open_store: Callable[[str, Layout], TaskStore]) -> None:
        """``open_store`` makes the store from URL and layout in the settings."""
        self._open_store = open_store
        self._transport: AsgiTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """One request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            assert self._transport is not None  # noqa: S101 - the lifespan comes first
            await self._transport(scope, receive, send)

    async def _live(
        self,
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:  # noqa: BLE001 - of whatever kind it is, nobody could be served
            _leave(error)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            await self._transport.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        python = str(Path(sys.exec_prefix, "bin", "python3"))  # sys.executable does not name one inside Envoy
        line, rest = _first_line()
        if line:
            orders = msgspec.json.decode(line, type=Orders)
            os.chdir(orders.directory)
            python = orders.python
            settings = Settings.model_validate_json(orders.settings)
            configure_logs(settings.log_level, settings.log_format, stream=os.fdopen(orders.log, "wb"))
            self._tasks.append(start_beating(orders.heartbeat))
        else:
            settings = load_settings(None, {})
            configure_logs(settings.log_level, settings.log_format)
        self._transport = transport = AsgiTransport(
            settings, self._open_store(settings.store, settings.layout), python=python
        )
        await transport.start()
        if line:
            self._tasks.append(asyncio.create_task(_obey(rest, transport)))
        freeze_startup_objects()
        structlog.get_logger("taskgate.server").info("serving inside Envoy", pid=os.getpid())


def _leave(error: Exception) -> NoReturn:
    """End this process with one sentence on standard error, which the supervisor reads.

    Left to pyvoy and Envoy, it would be a traceback, and words of Envoy's that name no reason.
    """
    structlog.get_logger("taskgate.server").debug("the service did not start", exc_info=error)
    flush_logs()
    known = isinstance(error, SettingsError)
    sentence = str(error) if known else f"the service cannot start: {type(error).__name__}: {error}"
    os.write(2, f"{REFUSAL}{' '.join(sentence.split())}\n".encode())
    os._exit(2 if known else 1)


def _first_line() -> tuple[bytes, bytes]:
    """The first line of standard input, and what came with it; empty if there is none."""
    read = b""
    while b"\n" not in read:
        part = os.read(sys.stdin.fileno() if sys.stdin else 0, 1 << 16)
        if not part:
            return b"", b""
        read += part
    line, _, rest = read.partition(b"\n")
    return line, rest


async def _obey(read: bytes, transport: AsgiTransport) -> None:
    """Wait for the order to drain."""
    reader = asyncio.StreamReader()
    reader.feed_data(read)
    pipe = os.fdopen(0, "rb", buffering=0, closefd=False)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while line := await reader.readline():
            if line == DRAIN:
                transport.drain()
    except Exception:  # noqa: BLE001 - nothing awaits this; of whatever kind it is, the log has it
        structlog.get_logger("taskgate.server").exception("the supervisor's orders are not heard any more")


sys.path[:] = [path for path in sys.path if path != "."]  # pyvoy's; modules are not looked for where tasks may be
app = Application(open_store)
