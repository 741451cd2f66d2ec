"""What a signal does."""

import signal
import subprocess
import sys

import pytest

STOPPING = """
import asyncio, sys
from taskgate.processes.signals import stop_on_signals

def abandon():
    raise OSError("some cannot be ended")

async def main():
    stop = asyncio.Event()
    stop_on_signals(stop, abandon)
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_process_though_not_all_that_it_has_could_be_ended(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for word in (b"ready\n", b"stopping\n"):
            assert process.stdout.readline() == word
            process.send_signal(number)
        assert process.wait(10) == 128 + number
