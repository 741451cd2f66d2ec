r"""Finds the JSON documents in a stream of bytes, of any length, in little memory.

A stream is read in one of two ways, whichever its first two lines suggest:

- *Line by line* (NDJSON): every line is by itself a document or a list of documents. A line that is neither is a fault,
  and the next line is a new start.
- *As one text*: documents and lists of documents, one after the other, over as many lines as they like. Where brackets
  and quotes do not pair up, nothing behind that can be trusted, and reading ends.

Documents are only found here, by their brackets; whether they are well-formed is the business of ``admission``.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from taskgate.documents.document import MAX_DOCUMENT_BYTES

CHUNK_BYTES = 1024 * 1024
"""Bytes asked for at a time; also the length from which on a line is not held as a whole."""

MAX_TEXT_BYTES = 2 * MAX_DOCUMENT_BYTES
"""The longest document that is looked at, before its whitespace is removed."""

_LARGE_BYTES = 4 * CHUNK_BYTES
"""From here on it pays to find out whether an object is a Workflow, which need not be held as a whole."""

Read = Callable[[int], bytes]
"""About so many bytes of a stream, or fewer; none at its end."""


class Found(NamedTuple):
    """A document, or whatever is in a document's place, and the number of the line on which it begins."""

    line: int
    text: bytes


class Fault(NamedTuple):
    """Why there is no document, and the number of the line on which that shows."""

    line: int
    reason: str


Piece = Found | Fault

_TORN = "what begins here has no end: a bracket or a quote is missing, or the text is cut off"
_TOO_LONG = f"longer than {MAX_TEXT_BYTES} bytes"
_NO_DOCUMENT = "expected a JSON object, or a list of them"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BYTES_THAT_TELL = len(_BYTE_ORDER_MARK) + 2
_WIDE_CHARACTERS = re.compile(rb"\xff\xfe|\xfe\xff|\0|.\0", re.DOTALL)  # JSON begins with an ASCII character


def read_pieces(read: Read) -> Iterator[Piece]:
    """All documents of a stream in order, and the faults between them."""
    window = _Window(read)
    while len(window.text) < _BYTES_THAT_TELL and window.grow():
        pass
    window.text = window.text.removeprefix(_BYTE_ORDER_MARK)
    if _WIDE_CHARACTERS.match(window.text):
        yield Fault(1, "UTF-16, UTF-32 or not text at all; taskgate reads UTF-8")
    elif _is_line_by_line(window):
        yield from _read_lines(window.text, read)
    else:
        yield from _read_text(window)


def read_workflow(workflow: Found) -> Iterator[Piece]:
    """The elements of ``tasks`` in a document that was found and is well-formed."""
    return _read_tasks(_Window(_nothing, workflow.text, workflow.line))


def _nothing(size: int) -> bytes:
    del size
    return b""


# Which of the two ways ------------------------------------------------------------------------------------------------


def _is_line_by_line(window: "_Window") -> bool:
    first, second = _first_lines(window)
    if _is_whole(first) or not _is_whole(second):
        return _is_whole(first)
    # Either the first line is damaged, or the two are the beginning of a text in which the second has a place.
    return not (first.startswith((b"{", b"[")) and first.endswith((b"[", b",", b":")))


def _first_lines(window: "_Window") -> tuple[bytes, bytes]:
    """The first two lines that are not blank; empty where there are none, or where one is too long to look at."""
    lines: list[bytes] = []
    start = 0
    while len(lines) < 2 and (start < len(window.text) or window.grow()):  # noqa: PLR2004 - two lines
        end = _line_end(window, start)
        if end is None:
            break
        line = window.text[start:end].strip()
        lines += [line] if line else []
        start = end + 1
    first, second, *_ = *lines, b"", b""
    return first, second


def _line_end(window: "_Window", start: int) -> int | None:
    """Where the line at ``start`` ends; None if it is too long for what it seems to be."""
    is_list = window.text.startswith(b"[", start)
    for limit in (CHUNK_BYTES,) if is_list else (_LARGE_BYTES, MAX_TEXT_BYTES):
        end = window.text.find(b"\n", start)
        while end < 0 and len(window.text) - start <= limit:
            end = window.text.find(b"\n", start) if window.grow() else len(window.text)
        if 0 <= end <= start + limit:
            return end
        if _begins_as_workflow(window.text[start : start + limit]):
            break
    return None


def _is_whole(line: bytes) -> bool:
    """Whether ``line`` is one object or one list, from end to end."""
    extent = _Extent()
    return line.startswith((b"{", b"[")) and extent.follow(line, 0) == len(line) and extent.complete


def _read_lines(text: bytes, read: Read) -> Iterator[Piece]:
    number = 1  # of the line that ``text`` begins with
    ended = False
    while not ended:
        *lines, text = text.split(b"\n")
        if len(text) < CHUNK_BYTES:
            more = read(CHUNK_BYTES)
            ended = not more
            lines += [text] if ended else []
            text += more
        for line in lines:
            if line.startswith(b"{") and len(line) < CHUNK_BYTES:
                yield Found(number, line)
            else:
                yield from _read_line(_Window(_nothing, line, number))
            number += 1
        if len(text) >= CHUNK_BYTES and b"\n" not in text:
            long_line = _LongLine(text, read)
            yield from _read_line(_Window(long_line.read, line=number))
            text = long_line.skip()
            number += 1


def _read_line(window: "_Window") -> Iterator[Piece]:
    try:
        found = _take_object(window) if window.next_byte() == b"{" else None
        if found is None and window.next_byte():
            yield from _read_value(window)
        if window.next_byte():
            yield Fault(window.line, "more than one document on a line")
        elif found is not None:
            yield found
    except _Broken as broken:
        yield Fault(window.line, broken.reason)


class _LongLine:
    """One line as a stream of its own."""

    def __init__(self, begun: bytes, read: Read) -> None:
        self._begun = begun
        self._read = read
        self._behind: bytes | None = None

    def read(self, size: int) -> bytes:
        """More of the line; none at its end."""
        if self._begun:
            begun, self._begun = self._begun, b""
            return begun
        if self._behind is not None:
            return b""
        piece, newline, behind = self._read(size).partition(b"\n")
        if newline:
            self._behind = behind
        return piece

    def skip(self) -> bytes:
        """Read to the end of the line; returns what was read behind it."""
        while self.read(CHUNK_BYTES):
            pass
        return self._behind or b""


def _read_text(window: "_Window") -> Iterator[Piece]:
    try:
        while window.next_byte():
            yield from _read_value(window)
    except _Broken as broken:
        yield Fault(window.line, f"{broken.reason}; the rest was not read")


# What a stream or a line is made of -----------------------------------------------------------------------------------


def _read_value(window: "_Window") -> Iterator[Piece]:
    """A document or a list of documents."""
    match window.next_byte():
        case b"[":
            yield from _read_list(window)
        case b"{":
            found = _take_object(window)
            yield from (found,) if found else _read_tasks(window)
        case _:
            raise _Broken(_NO_DOCUMENT)


def _read_list(window: "_Window", *, in_workflow: bool = False) -> Iterator[Piece]:
    for mark in window.elements(b"]"):
        is_document = mark == b"{" and not in_workflow
        if found := _take_object(window) if is_document else window.take_value(MAX_TEXT_BYTES):
            yield found
        elif is_document:
            yield from _read_tasks(window)
        else:
            line = window.line
            window.skip_value()
            yield Fault(line, _TOO_LONG)


def _take_object(window: "_Window") -> Found | None:
    """The object at the position as a whole; None, without moving, if it is a large Workflow or too long."""
    found = window.take_value(_LARGE_BYTES)
    if found or _begins_as_workflow(window.text[window.position : window.position + _LARGE_BYTES]):
        return found
    return window.take_value(MAX_TEXT_BYTES)


def _begins_as_workflow(text: bytes) -> bool:
    """Whether the object that begins here has a list of ``tasks``, and no ``taskId`` before it."""
    window = _Window(_nothing, text)
    try:
        for _ in window.elements(b"}"):
            place = window.take_key(), window.next_byte()
            if place in (("tasks", b"["), ("taskId", b'"')):
                return place[0] == "tasks"
            window.skip_value()
    except _Broken:
        return False
    return False


def _read_tasks(window: "_Window") -> Iterator[Piece]:
    """The elements of ``tasks`` in an object; a fault if there are none, or if it turns out to be a task itself."""
    line = window.line
    is_workflow = is_task = False
    for _ in window.elements(b"}"):
        key = window.take_key()
        if key == "tasks" and window.next_byte() == b"[" and not is_task:
            is_workflow = True
            yield from _read_list(window, in_workflow=True)
        else:
            is_task = is_task or (key == "taskId" and window.next_byte() == b'"')
            window.skip_value()
    if is_task or not is_workflow:
        yield Fault(line, _TOO_LONG)


# Bytes ----------------------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """The text cannot be followed any further."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_GAP = re.compile(rb"[ \t\r\n]*+")
_STRUCTURE = (b"", b",", b":", b"]", b"}")
_CURLY, _QUOTE, _BACKSLASH = b'{"\\'
_OPENING = b"[{"


class _Window:
    """The part of a stream that is in memory, and a position in it."""

    def __init__(self, read: Read, text: bytes = b"", line: int = 1) -> None:
        self.text = text
        self.position = 0
        self._read = read
        self._line = line
        self._line_position = 0

    @property
    def line(self) -> int:
        """The number of the line at the position."""
        if self.text.find(b"\n", self._line_position, self.position) >= 0:  # counting is ten times slower
            self._line += self.text.count(b"\n", self._line_position, self.position)
        self._line_position = self.position
        return self._line

    def grow(self) -> bool:
        """Drop what is before the position and read on; False at the end of the stream."""
        self._line = self.line
        kept = self.text[self.position :]
        self.position = self._line_position = 0
        pieces = [kept]
        wanted = max(CHUNK_BYTES, len(kept))
        received = 0
        # At least as much again as there is, or joining the pieces would take quadratic time.
        while received <= len(kept) and (piece := self._read(wanted - received)):
            pieces.append(piece)
            received += len(piece)
        self.text = b"".join(pieces)
        return received > 0

    def next_byte(self) -> bytes:
        """Move to the next byte that is not whitespace, and return it; none at the end of the stream."""
        while True:
            byte = self.text[self.position : self.position + 1]
            if byte > b" ":
                return byte
            self.position = _match_end(_GAP, self.text, self.position)
            if self.position < len(self.text):
                return self.text[self.position : self.position + 1]
            if not self.grow():
                return b""

    def elements(self, closing: bytes) -> Iterator[bytes]:
        """Move from a bracket to each element behind it, returning its first byte, and finally behind ``closing``.

        Whoever iterates moves behind one element before asking for the next.
        """
        self.position += 1
        if self.next_byte() != closing:
            while True:
                yield self._first_byte_of_value()
                mark = self.next_byte()
                if mark == closing:
                    break
                if mark != b",":
                    raise _Broken("a comma or a closing bracket is missing" if mark else _TORN)
                self.position += 1
        self.position += 1

    def take_key(self) -> object:
        """Move from a key of an object to its value, and return the key."""
        key = self.take_value(CHUNK_BYTES)
        if key is None or self.next_byte() != b":":
            raise _Broken("a key is missing")
        self.position += 1
        self._first_byte_of_value()
        try:
            return json.loads(key.text)
        except ValueError:
            return None

    def take_value(self, limit: int) -> Found | None:
        """Move behind the value at the position, and return it; None, without moving, if it is over ``limit`` bytes."""
        line = self.line
        end = self._value_end(limit)
        if end - self.position > limit:
            return None
        found = Found(line, self.text[self.position : end])
        self.position = end
        return found

    def skip_value(self) -> None:
        """Move behind the value at the position, however long it is."""
        extent = _Extent()
        while True:
            self.position = extent.follow(self.text, self.position)
            if extent.complete:
                return
            if not self.grow():
                raise _Broken(_TORN)

    def _first_byte_of_value(self) -> bytes:
        mark = self.next_byte()
        if mark in _STRUCTURE:
            raise _Broken("a value is missing" if mark else _TORN)
        return mark

    def _value_end(self, limit: int) -> int:
        """Where the value at the position ends, or any place beyond ``limit``."""
        end = _quick_end(self.text, self.position)
        if end is not None:
            return end
        extent = _Extent()
        end = extent.follow(self.text, self.position)
        while not extent.complete and end - self.position <= limit:
            followed = end - self.position
            if not self.grow():
                raise _Broken(_TORN)
            end = extent.follow(self.text, self.position + followed)
        return end


class _AnyObject(msgspec.Struct):
    """An object of which nothing is kept."""


_skim = msgspec.json.Decoder(_AnyObject).decode
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


def _quick_end(text: bytes, position: int) -> int | None:
    """Where the well-formed object at ``position`` ends; None if there is none, or there is nothing behind it.

    It is what msgspec complains about when it is asked to decode all of ``text``, in a sixth of the time that following
    the brackets takes. Should the complaint be worded otherwise one day, only the time is lost.
    """
    if text[position] != _CURLY:
        return None
    try:
        _skim(memoryview(text)[position:])
    except msgspec.DecodeError as error:
        trailing = _TRAILING.search(str(error))
        # The complaint is about the first byte behind the object that is not whitespace, counted from 1.
        return position + len(text[position : position + int(trailing[1]) - 1].rstrip()) if trailing else None
    except RecursionError:
        return None
    return None


_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR_REST = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')
_UP_TO_MARK = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL)
"""Everything before the next bracket, or before a string that does not end here."""


class _Extent:
    """Follows one JSON value, piece by piece, to the end that its brackets and quotes give it."""

    def __init__(self) -> None:
        self.complete = False
        self._follow = self._follow_first_byte
        self._depth = 0

    def follow(self, text: bytes, position: int) -> int:
        """Follow the value from ``position`` on; returns where it ends or, if incomplete, where to go on with more."""
        before = -1
        while position < len(text) and not self.complete and position != before:
            before = position
            position = self._follow(text, position)
        return position

    def _follow_first_byte(self, text: bytes, position: int) -> int:
        if text[position] in _OPENING or text[position] == _QUOTE:
            return self._pass_mark(text, position)
        self._follow = self._follow_scalar
        return position + 1

    def _follow_scalar(self, text: bytes, position: int) -> int:
        position = _match_end(_SCALAR_REST, text, position)
        self.complete = position < len(text)
        return position

    def _follow_brackets(self, text: bytes, position: int) -> int:
        position = _match_end(_UP_TO_MARK, text, position)
        return self._pass_mark(text, position) if position < len(text) else position

    def _follow_string(self, text: bytes, position: int) -> int:
        position = _match_end(_STRING_REST, text, position)
        if position == len(text) or text[position] == _BACKSLASH:  # what that escapes is not here yet
            return position
        self._follow = self._follow_brackets
        self.complete = not self._depth
        return position + 1

    def _pass_mark(self, text: bytes, position: int) -> int:
        """Behind a bracket, or the quote that begins a string."""
        if text[position] == _QUOTE:
            self._follow = self._follow_string
        else:
            self._follow = self._follow_brackets
            self._depth += 1 if text[position] in _OPENING else -1
            self.complete = not self._depth
        return position + 1


def _match_end(pattern: re.Pattern[bytes], text: bytes, position: int) -> int:
    """Where ``pattern``, which matches anywhere if only nothing, ends."""
    match = pattern.match(text, position)
    assert match is not None  # noqa: S101
    return match.end()
