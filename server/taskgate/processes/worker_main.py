"""Run one server process under a supervisor: ``python -m taskgate.processes.worker_main``.

Two pipes connect the process with its supervisor. Standard input carries five lines: the settings as JSON, the token by
which the worker recognizes its Envoy, the path of a Unix socket for this Envoy, the file descriptor of the memory for
metrics, and 1 if the process replaces another one, else 0. The second to the fourth may be empty. They come this way
because settings may hold a password, and other users can read command lines and environments. The end of the input
means that the supervisor is gone; the worker then drains and exits. Standard output carries one line, the address, once
the port is bound, and then heartbeats (module ``heartbeat``). A worker that cannot start writes the reason instead, in
one line that begins with ``REFUSAL``.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.logs import configure_logs, flush_logs
from taskgate.base.settings import settings_of_supervisor
from taskgate.processes.bootstrap import REFUSAL, UNUSABLE_SETTINGS
from taskgate.processes.grpc_server import serve
from taskgate.processes.heartbeat import start_heartbeat
from taskgate.processes.signals import event_loop_runner
from taskgate.telemetry.server import ServerMeter
from taskgate.transports.counting import METHODS


def main() -> int:
    """Serve until the supervisor sends a signal or ends.

    Return exit code 0 after a drain, ``UNUSABLE_SETTINGS``, 1 for any other failure to start.
    """
    settings = settings_of_supervisor(sys.stdin.buffer.readline())
    peer_token = sys.stdin.buffer.readline().decode().strip() or None
    private_socket = sys.stdin.buffer.readline().decode().strip() or None
    metrics = sys.stdin.buffer.readline().strip()
    replacement = sys.stdin.buffer.readline().strip() == b"1"
    meter = ServerMeter(int(metrics), METHODS) if metrics else None
    configure_logs(settings.log_level, settings.log_format)
    serving = partial(
        serve,
        settings,
        share_port=True,
        peer_token=peer_token,
        private_socket=private_socket,
        meter=meter,
        replacement=replacement,
    )

    announced: list[Address] = []
    try:
        event_loop_runner()(_serve_until_orphaned(serving, announced))
    except Exception as error:
        if announced:
            raise
        structlog.get_logger("taskgate.server").debug("the server did not start", exc_info=error)
        flush_logs()
        known = isinstance(error, SettingsError)
        sentence = str(error) if known else f"the server cannot run: {type(error).__name__}: {error}"
        sys.stdout.write(f"{REFUSAL}{' '.join(sentence.split())}\n")
        return UNUSABLE_SETTINGS if known else 1
    return 0


async def _serve_until_orphaned(serving: Callable[..., Awaitable[None]], announced: list[Address]) -> None:
    """Run ``serving``, a ``serve`` with its settings, until a signal or the end of standard input.

    Append the bound address to ``announced``.
    """
    orphaned = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def watch_supervisor() -> None:
        try:
            await reader.read()
        finally:  # after an error too: the pipe could no longer show that the supervisor has ended
            orphaned.set()

    tasks = [asyncio.create_task(watch_supervisor())]

    def announce(address: Address) -> None:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        announced.append(address)
        tasks.append(start_heartbeat(sys.stdout.fileno()))

    await serving(announce=announce, stop=orphaned)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    sys.exit(main())
