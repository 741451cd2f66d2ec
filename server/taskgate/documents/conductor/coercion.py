"""Coerce JSON values to Java's simple types as Jackson does.

The rules are Jackson's defaults with Conductor's settings (``ObjectMapperConfiguration``): scalars are coerced, null is
accepted everywhere, and an empty string is null for numbers and booleans and an error for enums, lists, maps and
objects. A reader takes a JSON value (numbers as ``Number``), returns the Java value (None for null), and raises
DocumentError where Jackson raises.
"""

import base64
import re
from collections.abc import Callable
from typing import Any, NoReturn

from msgspec import Raw

from taskgate.documents.conductor.encoder import encodable_double
from taskgate.documents.document import DocumentError

Reader = Callable[[Any], Any]

_TRIMMED = "".join(map(chr, range(0x21)))
"""The characters that ``String.trim()`` removes."""

# Character.isWhitespace, which StringUtils.isBlank uses: it excludes no-break spaces.
_WHITESPACE = "".join(
    chr(code)
    for code in (*range(9, 14), *range(28, 33), 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x205F, 0x3000)
    if code != 0x2007  # noqa: PLR2004 - a no-break space in that range
)

_MAX_NUMBER_LENGTH = 1000
"""``StreamReadConstraints``: Jackson refuses longer numbers."""

_INTEGER = re.compile(r"[+-]?\d+")  # digits of any script, as in Integer.parseInt
_INDEX = re.compile(r"[0-9]|[1-9][0-9]{1,8}")
_BASE64_GROUP = re.compile(r"[\x00-\x20]*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)")

_BOOLEANS = dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_NULLS = ("", "null")
"""Texts that are null for numbers and booleans."""


class Number:
    """A number as the row writes it: a String property gets exactly this text."""

    __slots__ = ("is_float", "text")

    def __init__(self, text: str, *, is_float: bool) -> None:
        if len(text) > _MAX_NUMBER_LENGTH:
            raise DocumentError(f"a number of {len(text)} characters")
        self.text = text
        self.is_float = is_float

    def value(self) -> int | float | Raw:
        """Return the value for an ``Object``: an integer of any size, or a double."""
        return encodable_double(self.text) if self.is_float else int(self.text)

    def within(self, low: int, high: int) -> int:
        """Return an int or a long, without its fraction. The range check of a fraction is that of the double."""
        if not self.is_float:
            whole = int(self.text)
        elif float(low) <= (number := float(self.text)) <= float(high):
            whole = min(int(number), high)  # the double 2^63 passes as the largest long
        else:
            whole = high + 1
        return whole if low <= whole <= high else refuse(self, f"a number from {low} to {high}")


def refuse(value: Any, expected: str) -> NoReturn:
    """Raise DocumentError; the message has the type of ``value``, not the value."""
    found = "a number" if isinstance(value, Number) else type(value).__name__
    raise DocumentError(f"found {found} where Conductor reads {expected}")


def read_untyped(value: Any) -> Any:
    """Read an ``Object``: any value as it is."""
    if isinstance(value, dict):
        return {key: read_untyped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [read_untyped(item) for item in value]
    return value.value() if isinstance(value, Number) else value


def read_text(value: Any) -> str | None:
    """Read a ``String``: scalars become their text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Number):
        return value.text
    return ("true" if value else "false") if isinstance(value, bool) else refuse(value, "text")


def integer_reader(low: int, high: int) -> Reader:
    """Make a reader for ``int``, ``long`` and their classes."""

    def read(value: Any) -> int | None:
        if isinstance(value, str):
            value = _parse_number(value.strip(_TRIMMED))
        if value is None:
            return None
        return value.within(low, high) if isinstance(value, Number) else refuse(value, "a whole number")

    return read


def _parse_number(text: str) -> Number | None:
    if text in _NULLS:
        return None
    return Number(text, is_float=False) if _INTEGER.fullmatch(text) else refuse(text, "a whole number")


def read_boolean(value: Any) -> bool | None:
    """Read a ``boolean`` or ``Boolean``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Number) and not value.is_float:
        return int(value.text) != 0
    trimmed = value.strip(_TRIMMED) if isinstance(value, str) else None
    if trimmed in _NULLS:
        return None
    return _BOOLEANS[trimmed] if trimmed in _BOOLEANS else refuse(value, "true or false")


def enum_reader(constants: tuple[str, ...]) -> Reader:
    """Make a reader for an enum: a constant by its name or by its position in the declaration."""

    def read(value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, Number) and not value.is_float:
            value = value.text.removeprefix("-") if int(value.text) == 0 else value.text
        name = value.strip(_TRIMMED) if isinstance(value, str) else ""
        if _INDEX.fullmatch(name) and int(name) < len(constants):
            return constants[int(name)]
        return name if name in constants else refuse(value, "one of " + ", ".join(constants))

    return read


def list_reader(read_item: Reader) -> Reader:
    """Make a reader for a ``List``; null items are kept."""

    def read(value: Any) -> list[Any] | None:
        if value is None:
            return None
        return [read_item(item) for item in value] if isinstance(value, list) else refuse(value, "a list")

    return read


def map_reader(read_item: Reader, *, nulls: bool) -> Reader:
    """Make a reader for a ``Map`` with text keys; null values are kept, or refused unless ``nulls``."""

    def read(value: Any) -> dict[str, Any] | None:
        if value is None:
            return None
        if not isinstance(value, dict) or (None in value.values() and not nulls):
            refuse(value, "an object")
        return {key: read_item(item) for key, item in value.items()}

    return read


def is_blank(text: str) -> bool:
    """Return what ``StringUtils.isBlank`` returns."""
    return not text.strip(_WHITESPACE)


def reencode_base64(text: str) -> str:
    """Decode as Jackson's MIME_NO_LINEFEEDS and encode again, which drops white space between groups and stray bits."""
    groups = _BASE64_GROUP.findall(text)
    if _BASE64_GROUP.sub("", text).strip(_TRIMMED):
        refuse(text, "base64")
    return base64.b64encode(b"".join(map(base64.b64decode, groups))).decode()
