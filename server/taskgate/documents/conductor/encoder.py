r"""Write JSON text exactly as Jackson 2.18 on Java 19 or newer does.

In strings it escapes ``"``, ``\``, control characters (``\u001B``, upper case), and characters outside the basic plane
as a pair (``\uD83D\uDE00``). Doubles are written as by ``Double.toString``. Infinite ones, which a stored ``1e400``
becomes, are the strings ``"Infinity"`` and ``"-Infinity"``.
"""

import math
import re
from functools import lru_cache
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()
_encode, _encode_into = _encoder.encode, _encoder.encode_into

_ASTRAL = b"\xf0"
_MORE_ASTRAL = re.compile(rb"[\xf1-\xf4][\x80-\xbf]{3}")
"""The first UTF-8 byte of characters in the planes 1 to 3, which hold nearly all; and the characters beyond."""

_FEW = 8
"""This many astral characters are replaced one by one, then this many distinct ones: long texts mostly repeat them."""

_LOWER_ESCAPE = re.compile(rb"\\\\|\\u00[01][a-f]")
"""A control character as msgspec writes it, or a backslash that is itself escaped."""

_ESCAPED = re.compile('["\\\\\x00-\x1f\ud800-\udfff\U00010000-\U0010ffff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_KEPT_DOUBLES, _KEPT_LENGTH = 4096, 25
"""Entries of the cache, and the length of their texts, which covers any double of Java's: less than a megabyte."""

_ASTRAL_FROM = 0x10000
"""The first code point that takes two UTF-16 units."""

_PLAIN_FROM, _PLAIN_BELOW = 1e-3, 1e7
"""``Double.toString`` writes numbers in this range without an exponent."""

_FEW_BITS_BELOW = 1e-320
"""Doubles below this are so sparse that the second digit Java writes is not always 0."""


def encodable_double(text: str) -> float | msgspec.Raw:
    """Read a double from ``text``, in a form that ``encode`` writes as Java does."""
    value = float(text)
    if _PLAIN_FROM <= value < _PLAIN_BELOW or value == 0 or -_PLAIN_BELOW < value <= -_PLAIN_FROM:
        return value  # in this range msgspec and Java write the same text
    return msgspec.Raw(_scientific(value).encode())


class DoubleCache(dict[str, float | msgspec.Raw]):
    """Cache ``encodable_double`` by text; ``self[text]`` of a cached one runs no Python code.

    Payloads repeat their numbers: 0.0, 1.0, 99.99.
    """

    def __missing__(self, text: str) -> float | msgspec.Raw:
        found = encodable_double(text)
        if len(text) <= _KEPT_LENGTH:
            if len(self) >= _KEPT_DOUBLES:
                self.clear()
            self[text] = found
        return found


def java_double(text: str) -> str:
    """Return the JSON that Jackson writes after reading ``text`` as a double."""
    value = float(text)
    return repr(value) if _PLAIN_FROM <= abs(value) < _PLAIN_BELOW or value == 0 else _scientific(value)


def _scientific(value: float) -> str:
    """Write a double with an exponent, as Java does. It only edits ``repr``: a payload may have millions of doubles."""
    if math.isinf(value):
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return f"-{_positive_scientific(-value)}" if value < 0 else _positive_scientific(value)


def _positive_scientific(value: float) -> str:
    text = repr(value)
    if text[-2:] == ".0":  # a whole number from 1e7 to 1e16, for which Python writes no exponent
        digits = text[:-2].rstrip("0")
        return f"{digits[0]}.{digits[1:] or '0'}E{len(text) - 3}"
    mantissa, _, exponent = text.partition("e")
    if exponent:
        if len(mantissa) == 1:  # Java writes at least two digits: the two that are nearest to the number
            if value > _FEW_BITS_BELOW:
                mantissa += ".0"
            else:
                mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}E{exponent[1:] if exponent[0] == '+' else int(exponent)}"
    whole, _, fraction = text.partition(".")
    if whole == "0":  # from 1e-4 to 1e-3, for which Python writes no exponent
        return f"{fraction[3]}.{fraction[4:] or '0'}E-4"
    return f"{whole[0]}.{whole[1:]}{fraction}E{len(whole) - 1}"


def encode(value: Any, expected_bytes: int = 1024) -> bytes:
    """Encode ``value``: any tree of Structs, dicts, lists and scalars, with floats from ``encodable_double``.

    ``expected_bytes`` is an estimate of the length; too small a one costs time.
    """
    try:
        buffer = bytearray(expected_bytes)  # avoids a dozen copies of a growing buffer
        _encode_into(value, buffer)
        text = bytes(buffer)
    except UnicodeEncodeError:  # a lone surrogate, which msgspec cannot write
        return _encode_slowly(value).encode()
    if b"\\" in text:
        text = _LOWER_ESCAPE.sub(lambda found: found[0][:2] + found[0][2:].upper(), text)
    return text if text.isascii() else _escape_astral(text)


def _escape_astral(text: bytes) -> bytes:
    """Escape every character outside the basic plane as a pair."""
    done: list[bytes] = []
    start, at = 0, text.find(_ASTRAL)
    while at >= 0 and len(done) < 2 * _FEW:
        done += text[start:at], _astral_escape(text[at : at + 4])
        start = at + 4
        at = text.find(_ASTRAL, start)
    if done:
        text = b"".join((*done, text[start:] if at < 0 else _escape_many_astral(text[start:])))
        if text.isascii():
            return text
    if b"\xf1" in text or b"\xf2" in text or b"\xf3" in text or b"\xf4" in text:
        text = _MORE_ASTRAL.sub(lambda found: _astral_escape(found[0]), text)
    return text


def _escape_many_astral(text: bytes) -> bytes:
    for _ in range(_FEW):
        at = text.find(_ASTRAL)
        if at < 0:
            return text
        character = text[at : at + 4]
        text = text.replace(character, _astral_escape(character))
    first, *others = text.split(_ASTRAL)
    return first + b"".join([_astral_escape(_ASTRAL + other[:3]) + other[3:] for other in others])


@lru_cache(4096)
def _astral_escape(character: bytes) -> bytes:
    return _unicode_escape(character.decode()).encode()


def _unicode_escape(character: str) -> str:
    code = ord(character)
    if code < _ASTRAL_FROM:
        return f"\\u{code:04X}"
    return f"\\u{0xD800 + (code - _ASTRAL_FROM >> 10):04X}\\u{0xDC00 + (code & 0x3FF):04X}"


def _escaped(found: re.Match[str]) -> str:
    return _SHORT.get(found[0]) or _unicode_escape(found[0])


def encode_string(text: str) -> str:
    """Encode ``text``, lone surrogates included."""
    return f'"{_ESCAPED.sub(_escaped, text)}"'


def _encode_slowly(value: Any) -> str:
    """``encode`` for values with lone surrogates; much slower."""
    if isinstance(value, str):
        return encode_string(value)
    if isinstance(value, list):
        return f"[{','.join([_encode_slowly(item) for item in value])}]"
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        properties = [(name, getattr(value, attribute)) for name, attribute in names]
        value = {name: item for name, item in properties if item is not msgspec.UNSET}
    if isinstance(value, dict):
        return f"{{{','.join([f'{encode_string(name)}:{_encode_slowly(item)}' for name, item in value.items()])}}}"
    return _encode(value).decode()
