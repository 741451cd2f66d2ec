"""Postpone Ctrl-C until a critical section ends."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[Sequence[int]]:
    """Postpone SIGINT until the block, a critical section, ends. The block must be short or poll the yielded list.

    Yields a list to which every SIGINT adds an item on arrival.

    Does nothing outside the main thread, which alone gets signals, or where Python does not handle SIGINT.
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
