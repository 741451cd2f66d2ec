"""Run one server process under a supervisor: ``python -m taskgate.processes.worker_main``.

Two pipes connect the process with its supervisor. Standard input carries two lines: the settings as JSON, and the token
by which the worker knows its Envoy. They come this way because command lines and environments can be read by others,
and settings may hold a password. The end of the input means that the supervisor is gone; the worker then drains and
exits. Standard output carries one line, the address, once the port is bound, and then heartbeats (module
``heartbeat``). A worker that cannot start writes one line after ``REFUSAL`` that says why.
"""

import asyncio
import sys

import structlog

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.logs import configure_logs, flush_logs
from taskgate.base.settings import Settings
from taskgate.processes.bootstrap import REFUSAL
from taskgate.processes.grpc_server import serve
from taskgate.processes.heartbeat import start_beating
from taskgate.processes.signals import event_loop_runner


def main() -> int:
    """Serve until the supervisor signals or disappears.

    The exit code is 0, 2 for settings that cannot be used, or 1.
    """
    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    peer_token = sys.stdin.buffer.readline().decode().strip() or None
    configure_logs(settings.log_level, settings.log_format)

    announced: list[Address] = []
    try:
        event_loop_runner()(_serve_until_orphaned(settings, peer_token, announced))
    except Exception as error:
        if announced:
            raise
        structlog.get_logger("taskgate.server").debug("the server did not start", exc_info=error)
        flush_logs()
        known = isinstance(error, SettingsError)
        sentence = str(error) if known else f"the server cannot run: {type(error).__name__}: {error}"
        sys.stdout.write(f"{REFUSAL}{' '.join(sentence.split())}\n")
        return 2 if known else 1
    return 0


async def _serve_until_orphaned(settings: Settings, peer_token: str | None, announced: list[Address]) -> None:
    """Serve; the end of standard input stops it, as a signal does. ``announced`` gets the address that is served."""
    orphaned = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def watch_supervisor() -> None:
        try:
            await reader.read()
        finally:  # a pipe that cannot be read would not tell of the supervisor's end either
            orphaned.set()

    tasks = [asyncio.create_task(watch_supervisor())]

    def announce(address: Address) -> None:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        announced.append(address)
        tasks.append(start_beating(sys.stdout.fileno()))

    await serve(settings, share_port=True, peer_token=peer_token, announce=announce, stop=orphaned)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    sys.exit(main())
