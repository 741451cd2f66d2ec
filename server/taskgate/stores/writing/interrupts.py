"""Ctrl-C at a bad moment, postponed to the end of it."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[Sequence[int]]:
    """Let SIGINT take effect only after the block, which must be short or look: for what may not be torn apart.

    Yields a list in which every SIGINT that came is an item, as soon as it has come.

    Only the main thread gets signals, so elsewhere there is nothing to do; nor where SIGINT is not Python's to handle.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield ()
        return
    held: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, previous)
        if held:
            signal.raise_signal(signal.SIGINT)
