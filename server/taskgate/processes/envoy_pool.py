"""Run several Envoys with the service inside, on shared ports."""

from collections.abc import Callable
from dataclasses import replace

from taskgate.base.file_limit import connections_within, raise_file_limit
from taskgate.base.settings import Settings
from taskgate.processes.envoy import EmbeddedService, GatewaySettings
from taskgate.processes.envoy.embedded import EnvoyWithPython, module
from taskgate.processes.reserved_ports import reserve_all
from taskgate.processes.supervisor import Supervisor
from taskgate.stores import files_of
from taskgate.telemetry.ledger import Lease

_FILES = 64
"""Files that each process needs beside connections and its store: 41 of its own, the others for large conversions."""


class EnvoyPool(Supervisor[EnvoyWithPython]):
    """``settings.workers`` processes on the addresses ``settings.http`` and ``settings.grpc``.

    The kernel spreads connections (not calls) over them.
    """

    def __init__(
        self, settings: Settings, gateway: GatewaySettings, *, open_block: Callable[[], Lease] | None = None
    ) -> None:
        """Reserve the addresses; raises SettingsError if one is taken. In ``http`` and ``grpc``, no port is 0.

        ``open_block`` makes the memory for the metrics of a process.
        """
        self._open_block = open_block
        reservations = reserve_all([settings.http], key="http") + reserve_all([settings.grpc], key="grpc")
        self.http, self.grpc = (reservation.address for reservation in reservations)
        self._settings = settings
        connections = connections_within(raise_file_limit(), others=_FILES + files_of(settings.store))
        gateway = replace(gateway, max_connections=connections)
        self._gateway = replace(gateway, listen=self.http, embedded=EmbeddedService(module(), self.grpc))
        super().__init__(
            [self._new] * settings.workers, name="worker", grace=settings.shutdown_grace, reservations=reservations
        )

    def _new(self) -> EnvoyWithPython:
        # One Envoy thread and one Python thread for each process; more cores are used by more processes.
        return EnvoyWithPython(self._gateway, self._settings, open_block=self._open_block, threads=1, share_port=True)
