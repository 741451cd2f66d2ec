"""An Envoy with Python inside: whether this machine can run one, and the process.

pyvoy is a dynamic module that Envoy loads. It needs the interpreter as a shared library, and finds the modules that
this process finds.
"""

import asyncio
import importlib.util
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import find_libpython
import msgspec

from taskgate.gateway.configuration import GatewaySettings
from taskgate.gateway.process import EnvoyProcess
from taskgate.orders import DRAIN, LOOP_BEAT, Orders
from taskgate.settings import Settings

HUNG_AFTER = 1.0
"""Seconds without any beat after which the interpreter counts as hung."""

LOOP_HUNG_AFTER = 15.0
"""Seconds without a beat of the event loop after which that counts as hung. It may just be busy: 256 calls for 10 MB
each that come at once keep it so for seconds."""

_SECOND_LOOK = 0.3
"""Seconds to wait once more: if it was this process that stood still, the beats of that time are yet to be read."""

_PRELOAD = "DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"


def why_not() -> str | None:
    """Why Python cannot run inside Envoy on this machine, as half a sentence; None if it can."""
    if _module() is None:
        return "pyvoy, which loads Python into Envoy, is not installed (it has no package for some platforms)"
    if _libpython() is None:
        return f"this Python ({sys.executable}) was built without a shared library (libpython)"
    return None


def module() -> Path:
    """The dynamic module; ``why_not`` must have said None."""
    found = _module()
    assert found is not None  # noqa: S101 - the caller has asked
    return found


def environment() -> dict[str, str]:
    """The environment in which Envoy finds the interpreter and all that this process can import."""
    library = _libpython()
    assert library is not None  # noqa: S101 - the caller has asked
    preload = os.pathsep.join(filter(None, [str(library), os.environ.get(_PRELOAD)]))
    return {
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

    async def hung(self) -> None:
        """Return when the interpreter or its event loop has been silent for too long, or has ended."""
        loop = asyncio.get_running_loop()
        looped = loop.time()
        while self._beats is not None:
            try:
                beats = await self._beats_within(HUNG_AFTER) or await self._beats_within(_SECOND_LOOK)
            except EOFError:
                return
            if LOOP_BEAT in beats:
                looped = loop.time()
            if not beats or loop.time() - looped > LOOP_HUNG_AFTER:
                return

    async def _beats_within(self, seconds: float) -> bytes:
        """The beats that have come; none after ``seconds`` of silence. Raises EOFError once none can come."""
        assert self._beats is not None  # noqa: S101 - for the type checker
        try:
            async with asyncio.timeout(seconds):
                if beats := await self._beats.read(1024):
                    return beats
        except TimeoutError:
            return b""
        raise EOFError

    async def drain(self, seconds: float | None = None) -> None:
        """As ``EnvoyProcess``; gRPC health checks fail too."""
        if self._process is not None and self._process.stdin is not None and self._running():
            self._process.stdin.write(DRAIN)
        await super().drain(seconds)

    async def _launch(self, command: list[str], **options: Any) -> None:
        beats, beating = os.pipe()
        os.set_blocking(beating, False)
        log = os.dup(sys.stderr.fileno())
        try:
            # pyvoy looks for modules in the working directory first; it shall not find a stranger's.
            empty = self._folder.name if self._folder is not None else None
            options |= {"stdin": asyncio.subprocess.PIPE, "pass_fds": (beating, log), "cwd": empty}
            await super()._launch(command, env={**os.environ, **environment()}, **options)
            self._avoid_preemption()
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
        orders = Orders(
            settings=self._service.model_dump_json(),
            directory=str(Path.cwd()),
            python=sys.executable,
            heartbeat=heartbeat,
            log=log,
        )
        assert self._process is not None  # noqa: S101 - for the type checker
        assert self._process.stdin is not None  # noqa: S101 - same
        self._process.stdin.write(msgspec.json.encode(orders) + b"\n")

    def _avoid_preemption(self) -> None:
        """Let no thread of Envoy's cut in on another when it wakes up.

        Each call wakes threads of Envoy and pyvoy on its way in and out. With SCHED_BATCH, which threads inherit,
        the one that runs goes on to its next wait, and the others find more to do at once: 13 % less CPU for a call.
        """
        if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has chosen
            assert self._process is not None  # noqa: S101 - for the type checker
            with suppress(OSError):  # it has ended already, or a sandbox forbids it
                os.sched_setscheduler(self._process.pid, os.SCHED_BATCH, os.sched_param(0))

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
