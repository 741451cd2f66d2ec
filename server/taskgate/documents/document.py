r"""Check that bytes are a task document, and remove its insignificant whitespace.

A document is one JSON object (RFC 8259) in UTF-8. Numbers of any size, duplicate keys and lone surrogate escapes
(``"\ud800"``) are legal JSON and are kept; ``NaN`` and ``Infinity`` are not JSON.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from itertools import accumulate

import msgspec

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""The largest gRPC answer."""

MAX_REQUEST_BYTES = 64 * 1024
"""The largest gRPC request, decompressed: a request holds only a task ID, which is shorter."""

MAX_DOCUMENT_BYTES = MAX_MESSAGE_BYTES - 4096
"""The largest document; the difference is for the message around it."""

MAX_NESTING = 1000
"""Levels of objects and arrays. This is Jackson's default: Conductor cannot read deeper documents."""

# msgspec and the json module count nesting against Python's recursion limit, which must not apply before MAX_NESTING.
sys.setrecursionlimit(max(sys.getrecursionlimit(), MAX_NESTING * 4))


class DocumentError(ValueError):
    """The bytes are not a task document; the text names the reason."""


class _AnyObject(msgspec.Struct):
    """A struct without fields: decoding into it checks the whole syntax and builds nothing (2 µs for 1.9 KB)."""


_check_syntax = msgspec.json.Decoder(_AnyObject).decode

_SURROGATE_OR_PAIR = re.compile(rb"\\\\|\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^"\s]++', re.DOTALL)

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_LONG_BYTES = 64 * 1024
_CHUNK = 512  # brackets; a chunk of an ordinary document cannot exceed MAX_NESTING, so its levels need no counting
_ALL_BUT_BRACKETS_AND_QUOTES = bytes(set(range(256)) - set(b'[{]}"'))
_DEPTH_CHANGE = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one level up


def check_document(document: bytes) -> None:
    """Raise DocumentError unless ``document`` is one JSON object in UTF-8, nested at most ``MAX_NESTING`` deep."""
    check_text(document)
    try:
        _check_syntax(document)
    except msgspec.ValidationError as error:
        raise DocumentError("not a JSON object") from error
    except msgspec.DecodeError as error:
        replaced = _without_surrogates(document)
        if replaced == document:
            raise DocumentError(_syntax_reason(error)) from error
        check_document(replaced)
    except RecursionError as error:  # only with unclosed brackets: check_text has counted the others
        raise DocumentError(_TOO_DEEP) from error


def check_text(document: bytes) -> None:
    """Raise DocumentError unless ``document`` is UTF-8 and not too deep, which msgspec does not check."""
    if not document.isascii():
        try:
            document.decode()
        except UnicodeDecodeError as error:
            raise DocumentError(f"not UTF-8 at byte {error.start}") from error
    if _may_be_too_deep(document) and _nesting(document) > MAX_NESTING:
        raise DocumentError(_TOO_DEEP)


def minify(document: bytes) -> bytes:
    """Remove insignificant whitespace and keep every other byte; ``document`` must have passed ``check_document``."""
    try:
        return msgspec.json.format(document, indent=-1)
    except msgspec.DecodeError:  # lone surrogates, which msgspec refuses
        return b"".join(_TOKEN.findall(document))


def sha256(document: bytes) -> bytes:
    """Return the digest, computed without the interpreter lock: 6 ms for 10 MB. Checking takes 25 ms with the lock."""
    return hashlib.sha256(document).digest()


class CheckedDocuments:
    """Check documents, and remember the digests of those that have passed. Thread-safe.

    On the event loop the built-in ``hash`` serves as digest. It takes a quarter of the time of a check. It is SipHash
    with a random key for each process, so a collision cannot be constructed.
    """

    def __init__(self, digest: Callable[[bytes], Hashable], remembered: int = 4096) -> None:
        """Remember up to ``remembered`` documents, at 100 bytes each."""
        self._digest = digest
        self._remembered = remembered
        self._digests: dict[Hashable, None] = {}  # oldest first

    def check(self, document: bytes) -> None:
        """``check_document``, unless the document is remembered."""
        digest = self._digest(document)
        if digest in self._digests:
            return
        check_document(document)
        self._digests[digest] = None
        while len(self._digests) > self._remembered:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread removed it first
                del self._digests[next(iter(self._digests))]


_TOO_DEEP = f"nested more than {MAX_NESTING} levels deep"


def _may_be_too_deep(document: bytes) -> bool:
    """Rule out most documents cheaply.

    A level of lists takes two characters, a level of objects five. So most documents are too short to be too deep, and
    most others have too few brackets.
    """
    if len(document) <= 2 * MAX_NESTING:
        return False
    if len(document) > _LONG_BYTES:
        return _has_more_brackets(document, MAX_NESTING)
    lists = document.count(b"[")
    return len(document) > 5 * MAX_NESTING - 3 * lists and document.count(b"{") + lists > MAX_NESTING


def _has_more_brackets(document: bytes, most: int) -> bool:
    """Whether more than ``most`` brackets are opened. For 10 MB of text it takes 0.5 ms; counting takes 9."""
    for bracket in (b"[", b"{"):
        at = document.find(bracket)
        while at >= 0:
            if not most:
                return True
            most -= 1
            at = document.find(bracket, at + 1)
    return False


def _nesting(document: bytes) -> int:
    """Return the levels of brackets in ``document``, or any number up to ``MAX_NESTING`` if it cannot have more.

    Linear and in C, 1 ms for 1 MB: every answer is checked.
    """
    # Once escapes are removed, a bracket is outside strings if the number of quotes before it is even.
    plain = _ESCAPE.sub(b"", document) if b"\\" in document else document
    outside = plain.translate(None, _ALL_BUT_BRACKETS_AND_QUOTES).replace(b'""', b"")
    if b'"' in outside:
        outside = b"".join(outside.split(b'"')[::2])
    depth = deepest = 0
    for start in range(0, len(outside), _CHUNK):  # other threads can run between chunks
        chunk = outside[start : start + _CHUNK]
        opened = chunk.count(b"{") + chunk.count(b"[")
        if depth + opened > MAX_NESTING:
            deepest = max(deepest, *accumulate(memoryview(chunk.translate(_DEPTH_CHANGE)).cast("b"), initial=depth))
        depth += 2 * opened - len(chunk)
    return deepest


def _without_surrogates(document: bytes) -> bytes:
    """Replace every surrogate escape, lone or paired, by one of a space, of the same length."""
    return _SURROGATE_OR_PAIR.sub(lambda found: found[0] if found[0] == rb"\\" else rb"\u0020", document)


def _syntax_reason(error: msgspec.DecodeError) -> str:
    text = str(error)
    return "the JSON text ends too early" if "truncated" in text else f"not JSON: {text.removeprefix(_MSGSPEC_PREFIX)}"


_MSGSPEC_PREFIX = "JSON is malformed: "
