"""Beats of a real process: what counts as hung, and what does not."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.slow_disk import SlowDisk
from taskgate.processes import heartbeat

BUSY = """
import asyncio, sys, threading, time
from taskgate.processes.heartbeat import start_heartbeat

def compute():
    while True:
        sum(range(100))

async def main():
    task = start_heartbeat(sys.stdout.fileno())
    await asyncio.sleep(0.2)
    for _ in range(2):
        threading.Thread(target=compute, daemon=True).start()
    time.sleep(60)

asyncio.run(main())
"""
"""A process whose event loop does not come round for a minute, while threads compute without pause."""


@pytest.fixture
async def busy() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", BUSY, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readexactly(1)
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


def silence(process: asyncio.subprocess.Process) -> asyncio.Task[None]:
    assert process.stdout is not None
    return asyncio.create_task(heartbeat.until_silent(process.stdout))


async def test_long_computations_are_no_silence_and_a_stopped_process_is(busy: asyncio.subprocess.Process) -> None:
    watch = silence(busy)
    done, _ = await asyncio.wait((watch,), timeout=2 * heartbeat.HUNG_AFTER)
    assert not done
    busy.send_signal(signal.SIGSTOP)
    await asyncio.wait_for(watch, 10)  # 1.3 s on an idle machine
    assert busy.returncode is None


async def test_loop_that_does_not_turn_for_too_long_is(
    busy: asyncio.subprocess.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the interpreter heartbeat."""
    monkeypatch.setattr(heartbeat, "LOOP_HUNG_AFTER", 0.5)
    await asyncio.wait_for(silence(busy), 10)
    assert busy.returncode is None
    assert busy.stdout is not None
    assert await asyncio.wait_for(busy.stdout.readexactly(1), 10) == b"i"


async def test_end_of_the_process_ends_the_watch(busy: asyncio.subprocess.Process) -> None:
    watch = silence(busy)
    busy.kill()
    await asyncio.wait_for(watch, 10)
    assert await busy.wait() == -signal.SIGKILL


READING = """
import asyncio, sys
from pathlib import Path
from taskgate.processes.heartbeat import start_heartbeat

async def main():
    task = start_heartbeat(sys.stdout.fileno())
    await asyncio.sleep(0.2)
    Path(sys.argv[1]).read_bytes()
    await asyncio.sleep(60)

asyncio.run(main())
"""
"""A process whose event loop reads a file."""


@pytest.mark.needs("a slow disk")
async def test_loop_that_waits_for_a_disk_gets_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not for ever."""
    monkeypatch.setattr(heartbeat, "LOOP_HUNG_AFTER", 0.5)
    file = tmp_path / "file"
    file.write_bytes(bytes(100_000))
    with SlowDisk(tmp_path / "disk", file) as disk:
        disk.stand_still()
        command = [*disk.inside, sys.executable, "-c", READING, str(disk.file)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readexactly(1)
        watch = asyncio.create_task(heartbeat.until_silent(process.stdout, process.pid))
        done, _ = await asyncio.wait((watch,), timeout=3)
        assert not done
        monkeypatch.setattr(heartbeat, "BLOCKED_HUNG_AFTER", 4.0)
        await asyncio.wait_for(watch, 10)
        assert process.returncode is None
        process.kill()
        await process.wait()
