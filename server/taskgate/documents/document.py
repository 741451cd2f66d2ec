r"""The task document: what counts as one, and how it loses its whitespace and nothing else.

A document is one JSON object (RFC 8259) in UTF-8. Numbers of any size, duplicate keys and lone surrogate escapes
(``"\ud800"``) are legal JSON and stay as they are; ``NaN`` and ``Infinity`` are not JSON.
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
"""The largest gRPC request inside Envoy, unpacked. More would only be unpacked and refused: a task ID is shorter."""

MAX_DOCUMENT_BYTES = MAX_MESSAGE_BYTES - 4096
"""The largest document; what is left is for the message around it."""

MAX_NESTING = 1000
"""Levels of objects and arrays. Jackson's own default: Conductor could not have read a deeper document."""

# msgspec, like the json module, counts nesting against the recursion limit; ours must be the one that decides.
sys.setrecursionlimit(max(sys.getrecursionlimit(), MAX_NESTING * 4))


class DocumentError(ValueError):
    """The bytes are not a task document; the text is a reason a person can act on."""


class _AnyObject(msgspec.Struct):
    """Decoding into a struct without fields checks the whole syntax and builds nothing (2 µs for 1.9 KB)."""


_check_syntax = msgspec.json.Decoder(_AnyObject).decode

_SURROGATE_OR_PAIR = re.compile(rb"\\\\|\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^"\s]++', re.DOTALL)

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_LONG = 64 * 1024
_STRETCH = 512  # brackets; so few cannot make a document that people make too deep
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
        tame = _without_surrogates(document)
        if tame == document:
            raise DocumentError(_syntax_reason(error)) from error
        check_document(tame)
    except RecursionError as error:  # only where brackets are left open, or the count before would have said so
        raise DocumentError(_TOO_DEEP) from error


def check_text(document: bytes) -> None:
    """Raise DocumentError unless ``document`` is UTF-8 and not too deep, the two things msgspec does not check."""
    if not document.isascii():
        try:
            document.decode()
        except UnicodeDecodeError as error:
            raise DocumentError(f"not UTF-8 at byte {error.start}") from error
    if _may_be_too_deep(document) and _nesting(document) > MAX_NESTING:
        raise DocumentError(_TOO_DEEP)


def minify(document: bytes) -> bytes:
    """``document`` without insignificant whitespace, every other byte kept; it must have passed ``check_document``."""
    try:
        return msgspec.json.format(document, indent=-1)
    except msgspec.DecodeError:  # lone surrogates, which msgspec does not take
        return b"".join(_TOKEN.findall(document))


def sha256(document: bytes) -> bytes:
    """A digest that is made without the interpreter lock: 6 ms for 10 MB, checking takes 25 and keeps the lock."""
    return hashlib.sha256(document).digest()


class CheckedDocuments:
    """``check_document`` for documents that are known by their digest once they have passed.

    The built-in ``hash`` is a good one for what is checked on the event loop: SipHash with a key that each process
    draws anew, so that nobody can make two documents of one digest, for a quarter of the time that checking takes. For
    use by several threads.
    """

    def __init__(self, digest: Callable[[bytes], Hashable], remembered: int = 4096) -> None:
        """Up to ``remembered`` documents are known, at 100 bytes each."""
        self._digest = digest
        self._remembered = remembered
        self._digests: dict[Hashable, None] = {}  # oldest first

    def check(self, document: bytes) -> None:
        """As ``check_document``."""
        digest = self._digest(document)
        if digest in self._digests:
            return
        check_document(document)
        self._digests[digest] = None
        while len(self._digests) > self._remembered:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was quicker
                del self._digests[next(iter(self._digests))]


_TOO_DEEP = f"nested more than {MAX_NESTING} levels deep"


def _may_be_too_deep(document: bytes) -> bool:
    """False for most documents, for little.

    Every level takes two brackets, one of an object five characters: most documents are too short to be too deep and
    most others have too few of them.
    """
    if len(document) <= 2 * MAX_NESTING:
        return False
    if len(document) > _LONG:
        return _has_more_brackets(document, MAX_NESTING)
    lists = document.count(b"[")
    return len(document) > 5 * MAX_NESTING - 3 * lists and document.count(b"{") + lists > MAX_NESTING


def _has_more_brackets(document: bytes, most: int) -> bool:
    """Whether more than ``most`` brackets are opened. Quicker than counting them: 10 MB of text take 0.5 ms, not 9."""
    for bracket in (b"[", b"{"):
        at = document.find(bracket)
        while at >= 0:
            if not most:
                return True
            most -= 1
            at = document.find(bracket, at + 1)
    return False


def _nesting(document: bytes) -> int:
    """How many levels of brackets ``document`` has, or any number up to ``MAX_NESTING`` where it cannot have more.

    Linear and in C, 1 ms for 1 MB: a document is checked whenever it is served.
    """
    # Without escapes, a bracket is outside strings where the number of quotes before it is even.
    plain = _ESCAPE.sub(b"", document) if b"\\" in document else document
    outside = plain.translate(None, _ALL_BUT_BRACKETS_AND_QUOTES).replace(b'""', b"")
    if b'"' in outside:
        outside = b"".join(outside.split(b'"')[::2])
    depth = deepest = 0
    for start in range(0, len(outside), _STRETCH):  # in stretches, between which other threads get the interpreter
        stretch = outside[start : start + _STRETCH]
        opened = stretch.count(b"{") + stretch.count(b"[")
        if depth + opened > MAX_NESTING:
            deepest = max(deepest, *accumulate(memoryview(stretch.translate(_DEPTH_CHANGE)).cast("b"), initial=depth))
        depth += 2 * opened - len(stretch)
    return deepest


def _without_surrogates(document: bytes) -> bytes:
    """A copy of the same length and structure in which no string holds a surrogate escape, lone or paired."""
    return _SURROGATE_OR_PAIR.sub(lambda found: found[0] if found[0] == rb"\\" else rb"\u0020", document)


def _syntax_reason(error: msgspec.DecodeError) -> str:
    text = str(error)
    return "the JSON text ends too early" if "truncated" in text else f"not JSON: {text.removeprefix(_MSGSPEC_PREFIX)}"


_MSGSPEC_PREFIX = "JSON is malformed: "
