"""Prefetch items in a thread, ahead of their consumer."""

import threading
from collections.abc import Generator, Iterator
from queue import Queue
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], depth: int) -> Generator[T]:
    """Yield the same ``items``, up to ``depth`` of them made in a thread while the caller is busy with earlier ones.

    Closing the generator ends the thread, at the latest when it has made its current item.
    """
    results: Queue[tuple[T] | BaseException | None] = Queue(depth)
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in items:
                results.put((item,))
                if stopped.is_set():
                    return
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the consumer
            results.put(error)

    # A daemon, because it may be waiting for standard input when the program has to end.
    threading.Thread(target=work, name="ahead", daemon=True).start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result[0]
    finally:
        stopped.set()
        while not results.empty():  # make room for an item that the thread may be waiting to put
            results.get()
