"""Heartbeats: a process writes bytes to a pipe, and its supervisor replaces the process when they stop.

A thread writes one kind of byte, which shows that the interpreter runs; a task writes the other kind, which shows that
the event loop runs. A loop that is busy with large answers may be silent for seconds; a running interpreter never is,
whatever its threads compute. A process that is blocked in the kernel, for example on a disk, gets more time: its
successor would wait for the same disk.
"""

import asyncio
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

HUNG_AFTER = 3.0
"""Seconds without a heartbeat of either kind after which a process counts as hung.

With one second, a healthy process was ended, and all of its calls, where twenty others competed for two processors.
"""

LOOP_HUNG_AFTER = 15.0
"""Seconds without a heartbeat of the event loop after which the loop counts as hung. It may just be busy: 256
simultaneous calls for 10 MB each take seconds."""

RECHECK_SECONDS = 0.3
"""Seconds to wait once more: if the supervisor itself was paused, it has yet to read the heartbeats of that time."""

BLOCKED_HUNG_AFTER = 60.0
"""Seconds of silence after which a process counts as hung even if it is blocked in the kernel."""

_INTERVAL = 0.1
_INTERPRETER, _LOOP = b"i", b"l"


def start_heartbeat(descriptor: int) -> asyncio.Task[None]:
    """Write heartbeats to ``descriptor``, the writing end of a pipe, which becomes non-blocking.

    The loop's heartbeats end with the returned task, the interpreter's with the process or the pipe.
    """
    os.set_blocking(descriptor, False)
    threading.Thread(target=_beat_in_thread, args=(descriptor,), name="heartbeat", daemon=True).start()
    return asyncio.create_task(_beat_in_loop(descriptor))


async def until_silent(heartbeats: asyncio.StreamReader, pid: int | None = None) -> None:
    """Return when the interpreter or its event loop has been silent for too long, or the pipe has ended.

    The process ``pid`` gets up to ``BLOCKED_HUNG_AFTER`` seconds while it is blocked in the kernel.
    """
    loop = asyncio.get_running_loop()
    heard = looped = loop.time()
    while True:
        try:
            read = await _read_within(HUNG_AFTER, heartbeats) or await _read_within(RECHECK_SECONDS, heartbeats)
        except EOFError:
            return
        now = loop.time()
        heard = now if read else heard
        looped = now if _LOOP in read else looped
        if not read or now - looped > LOOP_HUNG_AFTER:
            silence = now - (looped if read else heard)
            if silence > BLOCKED_HUNG_AFTER or pid is None or not is_blocked(pid):
                return


def is_blocked(pid: int) -> bool:
    """Whether a thread of the process is in an uninterruptible wait in the kernel; False if ``/proc`` does not say."""
    with suppress(OSError):  # the process has ended, or this process has no free file descriptor
        for status in Path(f"/proc/{pid}/task").glob("*/stat"):
            with suppress(OSError):  # the thread has ended
                # The state follows the name, which is in brackets and may contain any character.
                if status.read_bytes().rpartition(b")")[2].split()[0] == b"D":
                    return True
    return False


async def _read_within(seconds: float, heartbeats: asyncio.StreamReader) -> bytes:
    """Return the heartbeats that have arrived, b"" after ``seconds`` of silence. Raise EOFError at the pipe's end."""
    try:
        async with asyncio.timeout(seconds):
            if read := await heartbeats.read(1024):
                return read
    except TimeoutError:
        return b""
    raise EOFError


def _beat_in_thread(descriptor: int) -> None:
    while _write(descriptor, _INTERPRETER):
        time.sleep(_INTERVAL)


async def _beat_in_loop(descriptor: int) -> None:
    while _write(descriptor, _LOOP):  # noqa: ASYNC110 - a periodic action; there is no event to wait for
        await asyncio.sleep(_INTERVAL)


def _write(descriptor: int, beat: bytes) -> bool:
    """Write one heartbeat; return False if the supervisor is gone."""
    try:
        os.write(descriptor, beat)
    except BlockingIOError:  # the pipe is full: the supervisor has enough heartbeats to read
        return True
    except OSError:  # the reading end is closed
        return False
    return True
