"""The messages between a supervisor and the service inside Envoy.

The supervisor writes to the standard input of Envoy's process: first one line of JSON, ``Bootstrap``, and, to stop it,
``DRAIN``. The settings come this way because they may hold a password, and other users can read command lines and
environments. A service that cannot start writes the reason on standard error, in one line that begins with ``REFUSAL``.
"""

import asyncio
from contextlib import suppress

import msgspec

DRAIN = b"drain\n"
"""The line that makes health checks fail, so that load balancers stop sending; calls are still answered."""


REFUSAL = "taskgate: "
"""Prefix of the line in which a service, inside Envoy or in a worker, says why it cannot start."""

UNUSABLE_SETTINGS = 2
"""The exit code of a process that cannot run with its settings; a later start would fail, too."""


def tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    """Write ``line`` to the standard input of ``process``; do nothing if it has ended, which its exit code tells."""
    with suppress(OSError, RuntimeError):  # RuntimeError: uvloop's, for a pipe that it has closed
        if process.stdin is not None:
            process.stdin.write(line)


class Bootstrap(msgspec.Struct, frozen=True):
    """Everything that the service inside Envoy needs to start."""

    settings: str
    """``Settings`` as JSON."""

    directory: str
    """The working directory, to which paths in the settings are relative."""

    python: str
    """The Python executable for child processes; inside Envoy, ``sys.executable`` does not name one."""

    heartbeat: int
    """The file descriptor to write heartbeats to (module ``heartbeat``)."""

    metrics: int | None
    """The file descriptor of the memory for metrics; None without them."""

    log: int
    """The file descriptor to write log lines to; standard error belongs to Envoy."""

    replacement: bool
    """Whether the process comes after another one; then it creates no keyring, which would end all tokens."""
