"""An Envoy with Python inside: whether this machine can run one, and the process.

pyvoy is a dynamic module that Envoy loads. It needs the interpreter as a shared library, and finds the modules that
this process finds.
"""

import asyncio
import importlib.util
import locale
import os
import sys
from pathlib import Path
from typing import Any

import find_libpython
import msgspec

from taskgate.base.settings import Settings
from taskgate.processes.bootstrap import DRAIN, Bootstrap
from taskgate.processes.envoy.configuration import GatewaySettings
from taskgate.processes.envoy.process import EnvoyProcess
from taskgate.processes.heartbeat import until_silent
from taskgate.processes.supervisor import Problem

_PRELOAD = "DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"


def unsupported_reason() -> str | None:
    """Why Python cannot run inside Envoy on this machine, as half a sentence; None if it can."""
    if _module() is None:
        return "pyvoy, which loads Python into Envoy, is not installed (it has no package for some platforms)"
    if _libpython() is None:
        return f"this Python ({sys.executable}) was built without a shared library (libpython)"
    return None


def module() -> Path:
    """The dynamic module; ``unsupported_reason`` must have said None."""
    found = _module()
    assert found is not None  # noqa: S101 - the caller has asked
    return found


def environment() -> dict[str, str]:
    """The environment in which Envoy finds the interpreter and all that this process can import."""
    library = _libpython()
    assert library is not None  # noqa: S101 - the caller has asked
    preload = os.pathsep.join(filter(None, [str(library), os.environ.get(_PRELOAD)]))
    # In the locale C, this process takes file names for UTF-8, and a Python that is embedded for ASCII.
    c_locale = locale.setlocale(locale.LC_CTYPE) in {"C", "POSIX"}
    return {
        **({"LC_ALL": "C.UTF-8"} if c_locale else {}),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHOME": f"{sys.base_prefix}{os.pathsep}{sys.base_exec_prefix}",
        _PRELOAD: preload,
    }


class EnvoyWithPython(EnvoyProcess):
    """One Envoy with the service inside, serving ``service`` settings by the ``gateway`` configuration."""

    def __init__(self, gateway: GatewaySettings, service: Settings, **options: Any) -> None:
        """``options`` are those of ``EnvoyProcess``."""
        super().__init__(gateway, **options)
        self._service = service
        self._beats: asyncio.StreamReader | None = None
        self._transport: asyncio.ReadTransport | None = None

    async def _until_silent(self) -> Problem:
        """Watch the interpreter and its event loop."""
        if self._beats is not None:
            await until_silent(self._beats, self.pid)
        return Problem("it hung")

    async def drain(self, seconds: float) -> None:
        """As ``EnvoyProcess``; gRPC health checks fail too."""
        if self._process is not None and self._process.stdin is not None and self._running():
            self._process.stdin.write(DRAIN)
        await super().drain(seconds)

    async def _launch(self, command: list[str], *, batch: bool = True, **options: Any) -> None:
        """As ``EnvoyProcess``, with ``batch``: no thread of Envoy's is to cut in on another when it wakes up.

        Each call wakes threads of Envoy and pyvoy on its way in and out. With SCHED_BATCH the one that runs goes on to
        its next wait, and the others find more to do at once: 13 % less CPU for a call.
        """
        beats, beating = os.pipe()
        log = os.dup(sys.stderr.fileno())
        try:
            # pyvoy looks for modules in the working directory first; it shall not find a stranger's.
            empty = self._folder.path if self._folder is not None else None
            options |= {"stdin": asyncio.subprocess.PIPE, "pass_fds": (beating, log), "cwd": empty}
            await super()._launch(command, batch=batch, env={**os.environ, **environment()}, **options)
            self._give_orders(heartbeat=beating, log=log)
        except BaseException:
            os.close(beats)
            raise
        finally:
            os.close(beating)
            os.close(log)
        self._beats = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(self._beats)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: protocol, os.fdopen(beats, "rb")
        )

    def _give_orders(self, *, heartbeat: int, log: int) -> None:
        """Tell the service what to do; ``heartbeat`` and ``log`` are files that it has inherited."""
        orders = Bootstrap(
            settings=self._service.model_dump_json(),
            directory=str(Path.cwd()),
            python=sys.executable,
            heartbeat=heartbeat,
            log=log,
        )
        assert self._process is not None  # noqa: S101 - for the type checker
        assert self._process.stdin is not None  # noqa: S101 - same
        self._process.stdin.write(msgspec.json.encode(orders) + b"\n")

    def _clean_up(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        super()._clean_up()


def _module() -> Path | None:
    try:
        spec = importlib.util.find_spec("pyvoy")  # of the package: that of its module would import it
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_pyvoy*.so"), None)


def _libpython() -> Path | None:
    """The shared library as installed, not what its links lead to: macOS frameworks name the library otherwise."""
    candidates = map(Path, find_libpython.candidate_paths())
    return next((path for path in candidates if path.name.startswith("libpython") and path.exists()), None)
