"""Write log lines in a background thread, so that a slow or stopped reader of the log blocks no call."""

import atexit
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

ATOMIC_BYTES = 4096
"""Bytes that a pipe accepts in one piece (PIPE_BUF on Linux), so that lines of several processes do not mix."""

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Bytes of lines that may wait for the reader; further lines are dropped and counted."""

FLUSH_SECONDS = 1.0
"""How long a process that ends waits for the reader."""


class LogWriter:
    """Write whole lines to ``descriptor``. If its reader is gone or the disk is full, drop lines without an error."""

    def __init__(self, descriptor: int, lost_line: Callable[[int], bytes]) -> None:
        """``lost_line`` formats the line that says how many lines were lost."""
        self._descriptor = descriptor
        self._lost_line = lost_line
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._writing = False
        self._thread: threading.Thread | None = None

    def write(self, lines: bytes) -> None:
        """Queue one or more whole lines, without waiting."""
        with self._changed:
            if self._waiting_bytes + len(lines) > MAX_WAITING_BYTES:
                self._lost += lines.count(b"\n")
                return
            self._waiting.append(lines)
            self._waiting_bytes += len(lines)
            if self._thread is None:  # started at the first line: many processes never log anything
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
                atexit.register(self.flush)
            self._changed.notify_all()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until all lines are written, at most ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (self._waiting or self._writing) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _run(self) -> None:
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
                lines += self._lost_line(lost)
            for piece in _pieces(lines):
                self._write_out(piece)

    def _write_out(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # the parent process has made the descriptor non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                return


def _pieces(lines: bytes) -> Iterator[bytes]:
    """Split ``lines`` into pieces of whole lines, each up to ``ATOMIC_BYTES`` unless a single line is longer."""
    start = 0
    while len(lines) - start > ATOMIC_BYTES:
        end = lines.rfind(b"\n", start, start + ATOMIC_BYTES) + 1
        if end == 0:
            end = lines.find(b"\n", start) + 1 or len(lines)
        yield lines[start:end]
        start = end
    if start < len(lines):
        yield lines[start:]
