"""One server process under a supervisor: ``python -m taskgate.worker``.

The protocol is two pipes. Standard input carries the settings as one JSON line (they may hold a password, which has no
place in a process list), then nothing; its end means that the supervisor is gone, and the worker drains and leaves.
Standard output carries one line, the address, once the port is bound, and from then on beats (module ``beats``).
"""

import asyncio
import sys

from taskgate.addresses import Address
from taskgate.beats import start_beating
from taskgate.errors import SettingsError
from taskgate.logs import configure_logs
from taskgate.printable import printable_lines
from taskgate.serve import serve
from taskgate.settings import Settings
from taskgate.signals import event_loop_runner


def main() -> int:
    """Serve until the supervisor signals or disappears; the exit code is 0, or 2 for settings that cannot be used."""
    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    configure_logs(settings.log_level, settings.log_format)

    try:
        event_loop_runner()(_serve_until_orphaned(settings))
    except SettingsError as error:
        sys.stderr.write(f"taskgate: {printable_lines(str(error))}\n")
        return 2
    return 0


async def _serve_until_orphaned(settings: Settings) -> None:
    """Serve; the end of standard input stops it, as a signal does."""
    orphaned = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def watch_supervisor() -> None:
        await reader.read()
        orphaned.set()

    tasks = [asyncio.create_task(watch_supervisor())]

    def announce(address: Address) -> None:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        tasks.append(start_beating(sys.stdout.fileno()))

    await serve(settings, share_port=True, announce=announce, stop=orphaned)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    sys.exit(main())
