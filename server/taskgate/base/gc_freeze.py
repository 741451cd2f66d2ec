"""What a server process holds from its start to its end, and the garbage collector."""

import ctypes
import gc
from contextlib import suppress


def keep_what_is_here() -> None:
    """Let the garbage collector pass over all that there is now: modules, messages, settings.

    They are there for good. Walking them takes 30 ms, in which no call goes on; with a database on the network, where
    calls wait and leave cycles behind, that came every 4,000 calls.
    """
    gc.collect()
    gc.freeze()


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
_LARGE_BLOCK = 512 * 1024
_KEPT = 8 * 1024 * 1024  # at the end of the heap; with glibc's 128 KiB it would grow and shrink with every call


def give_large_blocks_back() -> None:
    """Have glibc return large documents to the system as soon as they are freed, instead of keeping a burst's worth.

    By default it raises the size from which it does so with every document that it has freed.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def trim_heap() -> None:
    """Have glibc return free memory to the system now; it blocks for milliseconds, without the interpreter lock."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
