r"""Find the JSON documents in a stream of bytes.

The first two lines of a stream decide in which of two ways it is read:

- *Line by line* (NDJSON), in little memory, however long the stream: every line is by itself a document or a list of
  documents. A line that is neither is a fault, and reading starts again at the next line.
- *As one text*, read whole, up to ``MAX_WHOLE_BYTES``: documents and lists of documents, one after the other, over any
  number of lines. Reading ends where brackets and quotes do not pair up: nothing after that can be trusted.

The reader only finds documents, and keeps every byte; ``validation`` decides whether they are well-formed.
"""

import json
import re
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import msgspec

from taskgate.documents.document import MAX_DOCUMENT_BYTES

CHUNK_BYTES = 1024 * 1024
"""Bytes to read at a time."""

MAX_TEXT_BYTES = 2 * MAX_DOCUMENT_BYTES
"""The longest document that is accepted, before its whitespace is removed."""

MAX_WHOLE_BYTES = 1024 * 1024 * 1024
"""The longest text, and the longest line, that is held in memory as a whole."""

Bytes = bytes | bytearray

Read = Callable[[int], bytes]
"""Returns about the given number of bytes of a stream, or fewer; none at its end."""


class Found(NamedTuple):
    """A document, or any other value in its place, and the number of the line on which it begins."""

    line: int
    text: bytes


class Fault(NamedTuple):
    """Why a document cannot be found, and the number of the line of the fault; None if it is the whole stream."""

    line: int | None
    reason: str


Piece = Found | Fault

_TORN = "what begins here has no end: a bracket or a quote is missing, or the text is cut off"
_TOO_LONG = f"longer than {MAX_TEXT_BYTES} bytes"
_NO_DOCUMENT = "expected a JSON object, or a list of them"
_LINE_TOO_LONG = f"this line is longer than {MAX_WHOLE_BYTES:,} bytes (1 GiB); write one task a line (NDJSON)"
_STREAM_TOO_LONG = (
    f"more than {MAX_WHOLE_BYTES:,} bytes (1 GiB) in one JSON text, which is read whole; nothing of it was imported:"
    " write one task a line (NDJSON), which may be of any size, or several files"
)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BYTES_THAT_TELL = len(_BYTE_ORDER_MARK) + 2
_WIDE_CHARACTERS = re.compile(rb"\xff\xfe|\xfe\xff|\0|.\0", re.DOTALL)  # JSON begins with an ASCII character


class Reader:
    """Reads one stream."""

    def __init__(self, read: Read) -> None:
        """``read`` returns the stream in parts."""
        self._read = read
        self._received = 0
        self._begun = bytearray()  # not yet cut into lines or documents
        self._text: _Text | None = None

    @property
    def share(self) -> float:
        """The processed share of the received bytes, from 0 to 1."""
        waiting = self._text.left if self._text else len(self._begun)
        return 1 - waiting / self._received if self._received else 1.0

    def pieces(self) -> Iterator[Piece | None]:
        """Yield all documents in order, and the faults between them; None after each chunk while a text is received."""
        begun = self._begun
        yield from self._grow(_BYTES_THAT_TELL)
        if begun.startswith(_BYTE_ORDER_MARK):
            del begun[: len(_BYTE_ORDER_MARK)]
        if _WIDE_CHARACTERS.match(begun):
            yield Fault(1, "UTF-16, UTF-32 or not text at all; taskgate reads UTF-8")
            return
        while len(begun) <= MAX_WHOLE_BYTES and not _has_two_lines(begun):
            if not (yield from self._grow(2 * len(begun) + 1)):
                break
        if _is_line_by_line(begun):
            yield from self._read_lines()
        elif (yield from self._grow(MAX_WHOLE_BYTES + 1)):
            begun.clear()
            yield Fault(None, _STREAM_TOO_LONG)
        else:
            self._text = _Text(begun)
            yield from _read_text(self._text)

    def _grow(self, size: int) -> Generator[None, None, bool]:
        """Receive the first ``size`` bytes; False if the stream ends before."""
        while len(self._begun) < size:
            if not (chunk := self._receive()):
                return False
            self._begun += chunk
            yield None
        return True

    def _receive(self) -> bytes:
        chunk = self._read(CHUNK_BYTES)
        self._received += len(chunk)
        return chunk

    def _read_lines(self) -> Iterator[Piece]:
        for number, line in enumerate(self._lines(), 1):
            if line.startswith(b"{") and len(line) < CHUNK_BYTES:
                yield Found(number, bytes(line))
            elif len(line) > MAX_WHOLE_BYTES:
                yield Fault(number, _LINE_TOO_LONG)
            else:
                self._text = _Text(line, number)
                yield from _read_line(self._text)
                self._text = None

    def _lines(self) -> Iterator[Bytes]:
        """Yield all lines; of a line that is too long, only the first ``MAX_WHOLE_BYTES`` and some more."""
        line, self._begun = self._begun, bytearray()
        end = line.index(b"\n")
        chunk = bytes(line[end:])
        del line[end:]
        while chunk := chunk or self._receive():
            before, newline, behind = chunk.partition(b"\n")
            line += before if len(line) <= MAX_WHOLE_BYTES else b""
            if newline:
                yield line
                *lines, last = behind.split(b"\n")
                yield from lines
                line = bytearray(last)
            chunk = b""
        yield line


def read_workflow(workflow: Found) -> Iterator[Piece]:
    """Yield the elements of ``tasks`` in a well-formed document."""
    return _read_tasks(_Text(workflow.text, workflow.line))


# Which of the two ways ------------------------------------------------------------------------------------------------


_FIRST_LINES = re.compile(rb"\s*+([^\n]++)\n\s*+([^\n]++)(\n?)")
"""Two lines that are not blank, and the end of the second."""


def _first_lines(text: bytearray) -> re.Match[bytes] | None:
    # Looking for a line break first is ten times faster.
    return _FIRST_LINES.match(text, 0, MAX_WHOLE_BYTES) if text.find(b"\n", 0, MAX_WHOLE_BYTES) >= 0 else None


def _has_two_lines(text: bytearray) -> bool:
    return (lines := _first_lines(text)) is not None and bool(lines[3])


def _is_line_by_line(text: bytearray) -> bool:
    """Whether to read the stream that begins with ``text`` line by line; a single line is read as a text."""
    lines = _first_lines(text)
    if lines is None:
        return False
    if _is_whole(text, *lines.span(1)):
        return True
    if not _is_whole(text, *lines.span(2)):
        return False
    # Either the first line is damaged, or both lines belong to one text.
    first = lines[1].strip()
    return not (first.startswith((b"{", b"[")) and first.endswith((b"[", b",", b":")))


def _is_whole(text: bytearray, start: int, end: int) -> bool:
    """Whether the line from ``start`` to ``end`` is one whole object or list."""
    line = _Text(text, start=start, end=end)
    if line.next_byte() not in (b"{", b"["):
        return False
    end_of_value = line.value_end()
    return end_of_value is not None and line.is_all_before(end_of_value)


# What a text or a line is made of -------------------------------------------------------------------------------------


def _read_line(text: "_Text") -> Iterator[Piece]:
    try:
        mark = text.next_byte()
        end = text.value_end() if mark == b"{" else None
        if mark and (end is None or text.is_all_before(end)):
            yield from _read_value(text)
        if text.next_byte():
            yield Fault(text.line, "more than one document on a line")
    except _Broken as broken:
        yield Fault(broken.line, broken.reason)


def _read_text(text: "_Text") -> Iterator[Piece]:
    try:
        while text.next_byte():
            yield from _read_value(text)
    except _Broken as broken:
        yield Fault(broken.line, f"{broken.reason}; the rest was not read")


def _read_value(text: "_Text") -> Iterator[Piece]:
    """Read a document or a list of documents."""
    match text.next_byte():
        case b"[":
            yield from _read_list(text)
        case b"{":
            yield from _read_object(text)
        case _:
            raise _Broken(text.line, _NO_DOCUMENT)


def _read_list(text: "_Text", *, in_workflow: bool = False) -> Iterator[Piece]:
    for mark in text.elements(b"]"):
        if mark == b"{" and not in_workflow:
            yield from _read_object(text)
        else:
            yield text.take(text.value_end())


def _read_object(text: "_Text") -> Iterator[Piece]:
    """Read a document; or the tasks of a Workflow that is damaged, or longer than a document may be."""
    end = text.sound_end()
    if end is None or end - text.position > MAX_TEXT_BYTES:
        end = end or text.bracket_end()
        if _is_workflow(_Text(text.text, start=text.position, end=end or text.end)):
            yield from _read_tasks_up_to(end, text)
            return
    yield text.take(end)


def _is_workflow(text: "_Text") -> bool:
    """Whether the object that begins here, damaged or not, has a list of ``tasks`` and no ``taskId``."""
    has_tasks = False
    try:
        for _ in text.elements(b"}"):
            place = text.take_key(), text.next_byte()
            if place == ("taskId", b'"'):
                return False
            has_tasks = has_tasks or place == ("tasks", b"[")
            text.skip_value()
    except _Broken:
        pass
    return has_tasks


def _read_tasks_up_to(end: int | None, text: "_Text") -> Iterator[Piece]:
    """Read the elements of ``tasks``. If the object's ``end`` is known, reading can continue there after a fault."""
    if end is None:
        yield from _read_tasks(text)
        return
    end_of_text, text.end = text.end, end
    try:
        yield from _read_tasks(text)
    except _Broken as broken:
        yield Fault(broken.line, broken.reason)
    text.position, text.end = end, end_of_text


def _read_tasks(text: "_Text") -> Iterator[Piece]:
    for _ in text.elements(b"}"):
        if text.take_key() == "tasks" and text.next_byte() == b"[":
            yield from _read_list(text, in_workflow=True)
        else:
            text.skip_value()


# Bytes ----------------------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """The text cannot be parsed any further."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


_GAP = re.compile(rb"[ \t\r\n]*+")
_SPACE = ord(" ")  # above all other whitespace
_STRUCTURE = (b"", b",", b":", b"]", b"}")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb'.[^ \t\r\n,:"\[\]{}]*+', re.DOTALL)
_UP_TO_MARK = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL)
"""Everything before the next bracket, or before a string that does not end."""

_skim = msgspec.json.Decoder(msgspec.Raw).decode
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


class _Text:
    """A complete text in bytes, and a position in it."""

    def __init__(self, text: Bytes, line: int = 1, start: int = 0, end: int | None = None) -> None:
        """``line`` is the number of the line at ``start``; bytes from ``end`` on are ignored."""
        self.text = text
        self.position = start
        self.end = len(text) if end is None else end
        self._view = memoryview(text)
        self._line = line
        self._line_position = start

    @property
    def line(self) -> int:
        """The number of the line at the position."""
        if self.text.find(b"\n", self._line_position, self.position) >= 0:  # counting is ten times slower
            self._line += self.text.count(b"\n", self._line_position, self.position)
        self._line_position = self.position
        return self._line

    @property
    def left(self) -> int:
        """Number of bytes after the position."""
        return len(self.text) - self.position

    def next_byte(self) -> Bytes:
        """Move to the next byte that is not whitespace, and return it; none at the end."""
        byte = self.text[self.position : self.position + 1]
        if byte <= b" " or self.position >= self.end:  # rarely, in a compact text
            self.position = _match_end(_GAP, self.text, self.position, self.end)
            byte = self.text[self.position : min(self.position + 1, self.end)]
        return byte

    def elements(self, closing: bytes) -> Iterator[Bytes]:
        """Move from a bracket to each element after it, yielding its first byte, and finally past ``closing``.

        The caller moves past one element before it asks for the next.
        """
        self.position += 1
        if self.next_byte() != closing:
            while True:
                yield self._first_byte_of_value()
                mark = self.next_byte()
                if mark == closing:
                    break
                if mark != b",":
                    raise _Broken(self.line, "a comma or a closing bracket is missing" if mark else _TORN)
                self.position += 1
        self.position += 1

    def take_key(self) -> object:
        """Move from a key of an object to its value, and return the key."""
        start = self.position
        self.skip_value()
        key = self.text[start : self.position]
        if self.next_byte() != b":":
            raise _Broken(self.line, "a key is missing")
        self.position += 1
        self._first_byte_of_value()
        try:
            return json.loads(key)
        except ValueError:
            return None

    def take(self, end: int | None) -> Piece:
        """Move past the value that ends at ``end``, and return it; a fault if it is longer than a document may be."""
        line, start = self.line, self.position
        if end is None:
            raise _Broken(line, _TORN)
        self.position = end
        return Fault(line, _TOO_LONG) if end - start > MAX_TEXT_BYTES else Found(line, bytes(self._view[start:end]))

    def skip_value(self) -> None:
        """Move past the value at the position."""
        end = self.value_end()
        if end is None:
            raise _Broken(self.line, _TORN)
        self.position = end

    def is_all_before(self, end: int) -> bool:
        """Whether only whitespace comes from ``end`` on."""
        return _match_end(_GAP, self.text, end, self.end) == self.end

    def value_end(self) -> int | None:
        """Return where the value at the position ends; None if it does not."""
        return self.sound_end() or self.bracket_end()

    def sound_end(self) -> int | None:
        """Return where the object, list or string at the position ends, if it is well-formed.

        The end is in the error of msgspec when it decodes everything from the position on, in a sixth of the time that
        following the brackets takes. If msgspec changes the wording, only this speed is lost.
        """
        end = self.end
        if self.text[self.position] not in b'{["':
            return None
        try:
            _skim(self._view[self.position : end])
        except msgspec.DecodeError as error:
            # The error names the first byte after the value that is not whitespace, counted from 1.
            if (trailing := _TRAILING.search(str(error))) is None:
                return None
            end = self.position + int(trailing[1]) - 1
        except RecursionError:
            return None
        while self.text[end - 1] <= _SPACE:
            end -= 1
        return end

    def bracket_end(self) -> int | None:
        """Return where the value at the position ends by its brackets and quotes; None if not within the text."""
        if self.text[self.position] not in b"[{":
            pattern = _STRING if self.text[self.position] in b'"' else _SCALAR
            scalar = pattern.match(self.text, self.position, self.end)
            return scalar.end() if scalar and scalar.end() < self.end else None
        position, depth = self.position + 1, 1
        while depth:
            position = _match_end(_UP_TO_MARK, self.text, position, self.end)
            if position == self.end or self.text[position] in b'"':
                return None
            depth += 1 if self.text[position] in b"[{" else -1
            position += 1
        return position

    def _first_byte_of_value(self) -> Bytes:
        mark = self.next_byte()
        if mark in _STRUCTURE:
            raise _Broken(self.line, "a value is missing" if mark else _TORN)
        return mark


def _match_end(pattern: re.Pattern[bytes], text: Bytes, position: int, end: int) -> int:
    """Return where the match of ``pattern`` ends; it always matches, possibly the empty string."""
    match = pattern.match(text, position, end)
    assert match is not None  # noqa: S101
    return match.end()
