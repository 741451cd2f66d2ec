"""Beats: bytes that a process with an interpreter writes to a pipe, by which its supervisor sees that it does not hang.

There are two kinds. A thread beats for as long as the interpreter runs, a task for as long as the event loop turns. A
loop that is busy with large answers may take seconds to come round; an interpreter never does, whatever its threads
compute. Both may wait for a disk: a process that the kernel keeps waiting gets more time, since another one would wait
for the same.
"""

import asyncio
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

HUNG_AFTER = 1.0
"""Seconds without any sign after which a process counts as hung."""

LOOP_HUNG_AFTER = 15.0
"""Seconds without a beat of the event loop after which that counts as hung. It may just be busy: 256 calls for 10 MB
each that come at once keep it so for seconds."""

SECOND_LOOK = 0.3
"""Seconds to wait once more: if it was the supervisor that stood still, the signs of that time are yet to be read."""

BLOCKED_HUNG_AFTER = 60.0
"""Seconds of silence after which a process counts as hung although the kernel keeps it waiting."""

_INTERVAL = 0.1
_INTERPRETER, _LOOP = b"i", b"l"


def start_beating(descriptor: int) -> asyncio.Task[None]:
    """Beat on ``descriptor``, the writing end of a pipe, which becomes non-blocking.

    The loop's beats end with the task that is returned, those of the interpreter with the process or the pipe.
    """
    os.set_blocking(descriptor, False)
    threading.Thread(target=_beat, args=(descriptor,), name="beat", daemon=True).start()
    return asyncio.create_task(_beat_in_loop(descriptor))


async def until_silent(beats: asyncio.StreamReader, pid: int | None = None) -> None:
    """Return when the interpreter or its event loop has been silent for too long, or the pipe has ended.

    ``pid`` is the process, which gets up to ``BLOCKED_HUNG_AFTER`` seconds while it is blocked in the kernel.
    """
    loop = asyncio.get_running_loop()
    heard = looped = loop.time()
    while True:
        try:
            read = await _read_within(HUNG_AFTER, beats) or await _read_within(SECOND_LOOK, beats)
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
    """Whether a thread of the process waits in the kernel and cannot be interrupted; False where nothing tells."""
    with suppress(OSError):  # the process has ended, or this one may open no more files
        for status in Path(f"/proc/{pid}/task").glob("*/stat"):
            with suppress(OSError):  # the thread has ended
                # The state comes after the name, which is in brackets and may hold any character.
                if status.read_bytes().rpartition(b")")[2].split()[0] == b"D":
                    return True
    return False


async def _read_within(seconds: float, beats: asyncio.StreamReader) -> bytes:
    """The beats that have come; none after ``seconds`` of silence. Raises EOFError once none can come."""
    try:
        async with asyncio.timeout(seconds):
            if read := await beats.read(1024):
                return read
    except TimeoutError:
        return b""
    raise EOFError


def _beat(descriptor: int) -> None:
    while _write(descriptor, _INTERPRETER):
        time.sleep(_INTERVAL)


async def _beat_in_loop(descriptor: int) -> None:
    while _write(descriptor, _LOOP):  # noqa: ASYNC110 - the sleep is the beat, and no wait for anything
        await asyncio.sleep(_INTERVAL)


def _write(descriptor: int, beat: bytes) -> bool:
    """Whether there is still somebody to beat for."""
    try:
        os.write(descriptor, beat)
    except BlockingIOError:  # the supervisor is behind with reading; that is enough of a sign
        return True
    except OSError:  # it is gone
        return False
    return True
