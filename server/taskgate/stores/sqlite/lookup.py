"""Run one prepared SQLite statement without releasing the interpreter lock.

The ``sqlite3`` module releases the lock several times in each lookup, as it must for long statements. Where other
threads feed the event loop, each release leads to contention: under pyvoy with 32 gRPC calls in flight, it cost 25 of
105 µs of a call, for a lookup that takes 10. So the event loop, which makes only reads that need no wait for the disk,
runs its one statement through SQLite's C interface by ``PyDLL``, which keeps the lock. It uses the library that the
``sqlite3`` module has loaded, found through that module. Where it cannot be found (an interpreter with SQLite linked
in), ``open_lookup`` returns None and the module does all the work.
"""

import ctypes
import sqlite3
from typing import Any

_ROW, _DONE = 100, 101
_TEXT, _BLOB = 3, 4  # sqlite3_column_type
_OPEN_FLAGS = 0x1 | 0x40 | 0x8000  # SQLITE_OPEN_READONLY, _URI, _NOMUTEX: the caller ensures that one thread calls
_HAS_MOVED = 20  # SQLITE_FCNTL_HAS_MOVED: is the open file still what its path leads to?


class LookupFailed(Exception):
    """The statement failed or returned neither text, blob nor no row; the ``sqlite3`` module can tell why."""


class Lookup:
    """A ``statement`` with one text parameter and one column, on its own connection; for one thread at a time."""

    def __init__(self, library: "_Library", uri: str, statement: str) -> None:
        self._library = library
        self._database = ctypes.c_void_p()
        self._statement = ctypes.c_void_p()
        self._moved = ctypes.c_int()
        self._moved_address = ctypes.addressof(self._moved)
        opened = library.open(uri.encode(), ctypes.byref(self._database), _OPEN_FLAGS, None)
        if opened == 0:
            opened = library.prepare(self._database, statement.encode(), -1, ctypes.byref(self._statement), None)
        if opened != 0:
            self.close()
            raise LookupFailed(opened)

    def find(self, parameter: str) -> bytes | None:
        """Return the value, or None without a row.

        Raises LookupFailed, and UnicodeEncodeError for a parameter that is not Unicode text.
        """
        library = self._library
        statement = self._statement
        key = parameter.encode()
        library.bind_text(statement, 1, key, len(key), None)  # None: not copied, so "key" must live until the reset
        code = library.step(statement)
        try:
            if code == _DONE:
                return None
            if code != _ROW:
                raise LookupFailed(code)
            kind = library.column_type(statement, 0)
            if kind == _TEXT:
                start = library.column_text(statement, 0)
            elif kind == _BLOB:
                start = library.column_blob(statement, 0)
            else:
                raise LookupFailed(kind)
            return ctypes.string_at(start, library.column_bytes(statement, 0))
        finally:
            library.reset(statement)

    def moved(self) -> bool:
        """Whether the path no longer leads to the open file."""
        self._library.file_control(self._database, b"main", _HAS_MOVED, self._moved_address)
        return self._moved.value != 0

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._library.finalize(self._statement)
        self._library.close(self._database)
        self._statement = ctypes.c_void_p()
        self._database = ctypes.c_void_p()


def open_lookup(uri: str, statement: str) -> Lookup | None:
    """Open a ``Lookup`` in the database ``uri``; None if SQLite's library cannot be found or cannot open it."""
    if _library is None:
        return None
    try:
        return Lookup(_library, uri, statement)
    except LookupFailed:
        return None


class _Library:
    """The functions of SQLite's C interface used here. Raises AttributeError or OSError if one is missing."""

    def __init__(self) -> None:
        import _sqlite3  # noqa: PLC0415 - the extension module that loads SQLite; missing in some builds

        library = ctypes.PyDLL(_sqlite3.__file__)
        if library.sqlite3_libversion_number() != _version_number():
            raise OSError("another SQLite than the sqlite3 module's")
        pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        out = ctypes.POINTER(pointer)

        def function(name: str, result: Any, *parameters: Any) -> Any:
            found = getattr(library, f"sqlite3_{name}")
            found.restype, found.argtypes = result, parameters
            return found

        def quick(name: str, result: Any) -> Any:
            """Pass arguments (pointers, numbers, bytes) unconverted, which takes half the time."""
            found = getattr(library, f"sqlite3_{name}")
            found.restype = result
            return found

        self.open = function("open_v2", integer, text, out, integer, text)
        self.close = function("close", integer, pointer)
        self.prepare = function("prepare_v2", integer, pointer, text, integer, out, pointer)
        self.finalize = function("finalize", integer, pointer)
        self.bind_text = quick("bind_text", integer)
        self.step = quick("step", integer)
        self.reset = quick("reset", integer)
        self.column_type = quick("column_type", integer)
        self.column_text = quick("column_text", pointer)
        self.column_blob = quick("column_blob", pointer)
        self.column_bytes = quick("column_bytes", integer)
        self.file_control = function("file_control", integer, pointer, text, integer, pointer)


def _version_number() -> int:
    major, minor, patch = sqlite3.sqlite_version_info
    return major * 1_000_000 + minor * 1_000 + patch


def _load() -> _Library | None:
    try:
        return _Library()
    except (ImportError, AttributeError, OSError):
        return None


_library = _load()
