"""What a fuzz target is."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A parser of hostile bytes, and its contract.

    ``run`` raises nothing for any bytes: it takes the errors that the parser documents, and asserts the rest of the
    contract. ``seeds`` are inputs to begin with, ``words`` are what an input is likely to be made of.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    most_bytes: int = 4096
    examples: int = 100
    """Of Hypothesis in ``make test``, for a second at most."""


@cache
def folder() -> Path:
    """A folder for all targets, removed when the process ends."""
    made = tempfile.mkdtemp(prefix="taskgate-fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


class Choices:
    """Takes the decisions of a target from the front of its input; the rest is what the parser gets."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, below: int) -> int:
        """A number from 0 to ``below`` - 1, of one byte; 0 at the end of the input."""
        found = self._data[0] % below if self._data else 0
        self._data = self._data[1:]
        return found

    def rest(self) -> bytes:
        """All that is left."""
        return self._data


JSON_WORDS = (
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"false", b"\\", b"\n", b" ", b"\t", b"\0"),
    *(b"0", b"-0", b"1e400", b"-1e-400", b"1.0", b"9223372036854775808", b"9" * 400, b"9" * 5000, b"NaN", b"Infinity"),
    *(rb"\ud800", rb"\udc00", rb"\ud83d\ude00", rb"\u0000", rb"\\", rb"\"", "é".encode(), "😀".encode(), b"\xff"),
    *(b"[" * 120, b"[" * 1001, b'{"a":' * 1001, b"]" * 1001, b"}" * 1001, b'""', b"{}", b"[]", b'{"a":1}'),
)
