"""Several Envoys with the service inside, sharing their ports: started, watched, replaced, drained."""

import asyncio
import time
from dataclasses import dataclass, field, replace

import structlog

from taskgate.gateway import GatewayError, GatewaySettings, InsideEnvoy
from taskgate.gateway.inside import EnvoyWithPython, module
from taskgate.reservations import reserve_all
from taskgate.settings import Settings

_SHORT_LIFE = 5.0
"""An Envoy that ends within this many seconds of its start is started again with growing delays."""

_FIRST_DELAY, _LONGEST_DELAY = 0.0, 5.0

_RESTART_DRAIN = 1.0
"""Seconds for which an Envoy that is being replaced goes on serving beside its successor."""


@dataclass(slots=True)
class _Place:
    """One of the Envoys that are to run, whichever process it is at the moment."""

    number: int
    envoy: EnvoyWithPython
    guard: asyncio.Task[None] | None = None
    began: float = field(default_factory=time.monotonic)


class EnvoyPool:
    """``settings.workers`` processes on the addresses ``settings.http`` and ``settings.grpc``.

    The kernel spreads connections (not calls) over them.
    """

    def __init__(self, settings: Settings, gateway: GatewaySettings) -> None:
        """Reserve the addresses; raises SettingsError if one is taken. ``http`` and ``grpc`` then have no port 0."""
        self._reservations = reserve_all([settings.http], key="http") + reserve_all([settings.grpc], key="grpc")
        self.http = self._reservations[0].address
        self.grpc = self._reservations[1].address
        self._settings = settings
        self._gateway = replace(gateway, listen=self.http, inside=InsideEnvoy(module(), self.grpc))
        self._places = [_Place(number, self._new()) for number in range(settings.workers)]
        self._stopping = False
        self._log = structlog.get_logger("taskgate.envoys")

    @property
    def pids(self) -> list[int]:
        """Process IDs of the Envoys that run now."""
        return [pid for place in self._places if (pid := place.envoy.pid) is not None]

    async def start(self) -> None:
        """Start all and wait until they take connections. Raises GatewayError if one does not."""
        await asyncio.gather(*(place.envoy.start() for place in self._places))
        for place in self._places:
            self._guard(place)

    async def restart(self) -> None:
        """Replace one after the other; each goes when its successor takes connections, and finishes its calls."""
        for place in self._places:
            successor = self._new()
            try:
                await successor.start()
            except (GatewayError, OSError) as error:
                self._log.error("restart given up", reason=str(error))
                return
            predecessor, place.envoy = place.envoy, successor
            self._guard(place)
            await predecessor.drain(_RESTART_DRAIN)
            await predecessor.stop(self._settings.shutdown_grace)
            self._log.info("worker restarted", worker=place.number, pid=successor.pid)

    async def drain(self, seconds: float) -> None:
        """As ``EnvoyProcess.drain``, all at once."""
        self._stopping = True
        await asyncio.gather(*(place.envoy.drain(seconds) for place in self._places))

    async def stop(self, grace: float) -> None:
        """As ``EnvoyProcess.stop``, all at once; then let go of the addresses."""
        self._stopping = True
        for place in self._places:
            if place.guard is not None:
                place.guard.cancel()
        await asyncio.gather(*(place.envoy.stop(grace) for place in self._places))
        for reservation in self._reservations:
            reservation.close()

    def abandon(self) -> None:
        """End all at once, with the calls that they have."""
        for place in self._places:
            place.envoy.abandon()

    def _new(self) -> EnvoyWithPython:
        # One thread: Envoy's work and Python's are done by one thread each, and a process more uses two cores more.
        return EnvoyWithPython(self._gateway, self._settings, threads=1, share_port=True)

    def _guard(self, place: _Place) -> None:
        """Watch the process that is in ``place`` now, instead of the one before."""
        if place.guard is not None:
            place.guard.cancel()
        place.began = time.monotonic()
        place.guard = asyncio.create_task(self._keep_running(place))

    async def _keep_running(self, place: _Place) -> None:
        """Start the Envoy of ``place`` again whenever it ends or hangs; runs until cancelled."""
        delay = _FIRST_DELAY
        while True:
            problem = await self._until_gone(place.envoy)
            if self._stopping:
                return
            short = time.monotonic() - place.began < _SHORT_LIFE
            self._log.error("worker gone; replacing it", worker=place.number, problem=problem, delay=delay)
            while True:
                await asyncio.sleep(delay)
                delay = min(max(delay * 2, 0.1), _LONGEST_DELAY) if short else _FIRST_DELAY
                place.began = time.monotonic()
                try:
                    await place.envoy.start()
                except (GatewayError, OSError) as error:  # OSError: this machine is out of processes, or of memory
                    short = True
                    self._log.error("worker cannot start; trying again", reason=str(error))
                else:
                    break

    async def _until_gone(self, envoy: EnvoyWithPython) -> str:
        """Wait until ``envoy`` ends, or hangs and is ended; returns what happened."""
        ended = asyncio.create_task(envoy.wait())
        hung = asyncio.create_task(envoy.hung())
        try:
            await asyncio.wait((ended, hung), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                # Its end may be what made it silent; it is then only a moment away.
                await asyncio.wait((ended,), timeout=0.05)
            if ended.done():
                return f"it ended with code {ended.result()}"
            envoy.kill()
            await ended
            return "it hung, and was ended"
        finally:
            ended.cancel()
            hung.cancel()
