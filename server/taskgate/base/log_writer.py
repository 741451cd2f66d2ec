"""Writes log lines from a thread of its own: whoever reads them, or stops reading, holds up nobody else."""

import atexit
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

ATOMIC_BYTES = 4096
"""What a pipe takes in one piece (PIPE_BUF on Linux): lines of several processes do not get into each other's way."""

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Bytes of lines that wait for a reader who does not read; further lines are lost, and counted."""

FLUSH_SECONDS = 1.0
"""How long the end of a process waits for a reader."""


class LogWriter:
    """Whole lines to ``descriptor``. A reader that is gone, or a full disk, costs lines and fails nobody."""

    def __init__(self, descriptor: int, tell_lost: Callable[[int], bytes]) -> None:
        """``tell_lost`` makes the line that says how many lines were lost."""
        self._descriptor = descriptor
        self._tell_lost = tell_lost
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._writing = False
        self._thread: threading.Thread | None = None

    def write(self, lines: bytes) -> None:
        """Hand over one or more whole lines; never waits for anything."""
        with self._changed:
            if self._waiting_bytes + len(lines) > MAX_WAITING_BYTES:
                self._lost += lines.count(b"\n")
                return
            self._waiting.append(lines)
            self._waiting_bytes += len(lines)
            if self._thread is None:  # many processes never log anything
                self._thread = threading.Thread(target=self._work, name="log", daemon=True)
                self._thread.start()
                atexit.register(self.flush)
            self._changed.notify_all()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until all is written, or ``seconds`` have passed."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (self._waiting or self._writing) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait()
                lines = b"".join(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
                lost, self._lost = self._lost, 0
                self._writing = True
            if lost:
                lines += self._tell_lost(lost)
            for piece in _pieces(lines):
                self._put(piece)

    def _put(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever gave us the descriptor made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                return


def _pieces(lines: bytes) -> Iterator[bytes]:
    """``lines`` in pieces of whole lines, of up to ``ATOMIC_BYTES`` where a line is not longer by itself."""
    start = 0
    while len(lines) - start > ATOMIC_BYTES:
        end = lines.rfind(b"\n", start, start + ATOMIC_BYTES) + 1
        if end == 0:
            end = lines.find(b"\n", start) + 1 or len(lines)
        yield lines[start:end]
        start = end
    if start < len(lines):
        yield lines[start:]
