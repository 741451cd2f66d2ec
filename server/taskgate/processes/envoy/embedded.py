"""Run Envoy with the service inside, and say whether this machine can.

Envoy loads pyvoy, a dynamic module that runs Python. pyvoy needs the interpreter as a shared library, and an
environment in which it can import the same modules as this process.
"""

import asyncio
import importlib.util
import locale
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import find_libpython
import msgspec

from taskgate.base.settings import Settings
from taskgate.processes.bootstrap import DRAIN, Bootstrap, tell
from taskgate.processes.envoy.configuration import GatewaySettings
from taskgate.processes.envoy.process import EnvoyProcess
from taskgate.processes.heartbeat import until_silent
from taskgate.processes.supervisor import Problem
from taskgate.telemetry.ledger import Lease

_PRELOAD = "DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"


def unsupported_reason() -> str | None:
    """Say why Python cannot run inside Envoy on this machine, as half a sentence; return None if it can."""
    if _module() is None:
        return "pyvoy, which loads Python into Envoy, is not installed (some platforms have no package of it)"
    if _libpython() is None:
        return f"this Python ({sys.executable}) was built without a shared library (libpython)"
    return None


def module() -> Path:
    """Return the path of pyvoy's dynamic module, if ``unsupported_reason`` has returned None."""
    found = _module()
    assert found is not None  # noqa: S101 - unsupported_reason has checked it
    return found


def environment() -> dict[str, str]:
    """Return the variables with which Envoy finds the interpreter and all modules of this process."""
    library = _libpython()
    assert library is not None  # noqa: S101 - unsupported_reason has checked it
    preload = os.pathsep.join(filter(None, [str(library), os.environ.get(_PRELOAD)]))
    # In the C locale, this process reads file names as UTF-8, but an embedded Python reads them as ASCII.
    c_locale = locale.setlocale(locale.LC_CTYPE) in {"C", "POSIX"}
    return {
        **({"LC_ALL": "C.UTF-8"} if c_locale else {}),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHOME": f"{sys.base_prefix}{os.pathsep}{sys.base_exec_prefix}",
        _PRELOAD: preload,
    }


class EnvoyWithPython(EnvoyProcess):
    """One Envoy with the service inside: ``gateway`` configures Envoy, ``service`` the service."""

    def __init__(
        self,
        gateway: GatewaySettings,
        service: Settings,
        *,
        open_block: Callable[[], Lease] | None = None,
        **options: Any,
    ) -> None:
        """``open_block`` makes the memory for metrics; ``options`` are passed to ``EnvoyProcess``."""
        super().__init__(gateway, **options)
        self._open_block = open_block
        self._service = service
        self._heartbeats: asyncio.StreamReader | None = None
        self._heartbeat_pipe: asyncio.ReadTransport | None = None

    async def _until_silent(self) -> Problem:
        """Return when the heartbeats of the interpreter or of its event loop stop."""
        if self._heartbeats is not None:
            await until_silent(self._heartbeats, self.pid)
        return Problem("it hung")

    async def drain(self, seconds: float) -> None:
        """Drain as ``EnvoyProcess`` does; gRPC health checks fail too."""
        if self._process is not None:
            tell(self._process, DRAIN)
        await super().drain(seconds)

    async def _launch(self, command: list[str], *, batch: bool = True, **options: Any) -> None:
        """Start as ``EnvoyProcess`` does, but with ``batch``, so that a thread that wakes up preempts no other.

        Each call wakes threads of Envoy and of pyvoy on its way in and out. With SCHED_BATCH the running thread
        continues to its next wait, and the others then have more work at once: 13 % less CPU for a call.
        """
        reading, writing = os.pipe()
        log = os.dup(sys.stderr.fileno())
        lease = None if self._open_block is None else self._open_block()
        metrics = None if lease is None else lease.descriptor
        try:
            # pyvoy looks for modules in the working directory first, so that directory holds none.
            empty = self._folder.path if self._folder is not None else None
            descriptors = (writing, log, *(() if metrics is None else (metrics,)))
            options |= {"stdin": asyncio.subprocess.PIPE, "pass_fds": descriptors, "cwd": empty}
            await super()._launch(command, batch=batch, env={**os.environ, **environment()}, **options)
            assert self._process is not None  # noqa: S101 - it has been launched
            if lease is not None:
                lease.follow(self._process)
            self._send_bootstrap(heartbeat=writing, log=log, metrics=metrics)
        except BaseException:
            os.close(reading)
            if lease is not None and self._process is None:
                lease.end()
            raise
        finally:
            os.close(writing)
            os.close(log)
        self._heartbeats = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(self._heartbeats)
        self._heartbeat_pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: protocol, os.fdopen(reading, "rb")
        )

    def _send_bootstrap(self, *, heartbeat: int, log: int, metrics: int | None) -> None:
        """Send the service its settings, and the numbers of the file descriptors that it has inherited."""
        bootstrap = Bootstrap(
            settings=self._service.model_dump_json(),
            directory=str(Path.cwd()),
            python=sys.executable,
            heartbeat=heartbeat,
            metrics=metrics,
            log=log,
            replacement=self._replacement,
        )
        assert self._process is not None  # noqa: S101 - for the type checker
        tell(self._process, msgspec.json.encode(bootstrap) + b"\n")

    def _clean_up(self) -> None:
        if self._heartbeat_pipe is not None:
            self._heartbeat_pipe.close()
            self._heartbeat_pipe = None
        super()._clean_up()


def _module() -> Path | None:
    try:
        spec = importlib.util.find_spec("pyvoy")  # the package: a look-up of its module would import it
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_pyvoy*.so"), None)


def _libpython() -> Path | None:
    """The shared library as installed, with links unresolved: in macOS frameworks, the target has another name."""
    candidates = map(Path, find_libpython.candidate_paths())
    return next((path for path in candidates if path.name.startswith("libpython") and path.exists()), None)
