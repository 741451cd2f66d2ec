"""Open the sources of documents: files and standard input, compressed or not."""

import gzip
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, Self, cast

_GZIP_MAGIC = b"\x1f\x8b"
_MAGIC_BYTES = 4


class Readable(Protocol):
    """The required part of a binary stream."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, possibly fewer; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """One stream of documents.

    ``name`` is what messages call it. ``open`` is called once and may raise OSError. ``size`` is in bytes, and None if
    it cannot be known.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int | None = None

    @classmethod
    def of(cls, argument: str) -> Self:
        """Return the file at a path, or standard input for ``-``. A missing file raises only when it is opened."""
        if argument == "-":
            return cls("standard input", _standard_input)
        path = Path(argument)
        return cls(argument, lambda: path.open("rb", buffering=0), _size(path))


class InputStream:
    """The bytes of an opened source, decompressed if they are gzip.

    A fault while reading ends the stream: ``fault`` then says why, and the bytes before it still count.
    """

    def __init__(self, stream: Readable) -> None:
        self.fault: str | None = None
        self.bytes_read = 0
        """Bytes taken from the source, before decompression."""
        self._stream = stream
        self._ahead = b""
        self._plain: Readable | None = None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end or after a fault."""
        if self.fault is not None:
            return b""
        try:
            if self._plain is None:
                self._plain = self._recognized()
            return self._plain.read(size)
        except (OSError, EOFError, zlib.error) as error:
            self.fault = f"cannot be read further: {reason_of(error)}"
            return b""

    def _recognized(self) -> Readable:
        while len(self._ahead) < _MAGIC_BYTES and (more := self._take(_MAGIC_BYTES)):
            self._ahead += more
        raw = _Raw(self._take_ahead_first)
        if self._ahead.startswith(_GZIP_MAGIC):
            return gzip.GzipFile(fileobj=cast("BinaryIO", raw), mode="rb")
        return raw

    def _take_ahead_first(self, size: int) -> bytes:
        if self._ahead:
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
            return piece
        return self._take(size)

    def _take(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self.bytes_read += len(piece)
        return piece


@dataclass(frozen=True, slots=True)
class _Raw:
    read: Callable[[int], bytes]


def reason_of(error: Exception) -> str:
    """Return what is wrong with a file, without its name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _standard_input() -> BinaryIO:
    # Not sys.stdin.buffer: a thread that waits in its lock at exit makes the interpreter abort.
    return cast("BinaryIO", open(0, "rb", buffering=0, closefd=False))


def _size(path: Path) -> int | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - Path.stat with fewer surprises for names such as "" and "a\0b"
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
