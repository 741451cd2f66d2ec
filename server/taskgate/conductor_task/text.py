r"""JSON text as Jackson 2.18 on Java 19 or newer writes it.

Of strings it escapes ``"``, ``\``, control characters (``\u001B``, upper case) and everything outside the basic plane,
as a pair of escapes: ``\uD83D\uDE00``. All else stays as it is. Doubles are ``Double.toString``; infinite ones, which a
stored ``1e400`` becomes, are the strings ``"Infinity"`` and ``"-Infinity"``.
"""

import math
import re
from functools import lru_cache
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode

_ASTRAL = re.compile(rb"[\xf0-\xf4][\x80-\xbf]{3}")
_ESCAPE = re.compile(rb"\\(?:u00[01][0-9a-f]|.)")
_ESCAPED = re.compile('["\\\\\x00-\x1f\ud800-\udfff\U00010000-\U0010ffff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_ASTRAL_FROM = 0x10000
"""The first code point that takes two UTF-16 units."""

_PLAIN_FROM, _PLAIN_BELOW = 1e-3, 1e7
"""Where ``Double.toString`` writes a number without an exponent."""

_FEW_BITS_BELOW = 1e-320
"""Smaller doubles lie so far apart that their second digit says something even where the first one would do."""


def double(text: str) -> float | msgspec.Raw:
    """The double that ``text`` is read as, such that ``encode`` writes it as Java does."""
    value = float(text)
    if _PLAIN_FROM <= value < _PLAIN_BELOW or value == 0 or -_PLAIN_BELOW < value <= -_PLAIN_FROM:
        return value  # here the shortest text is the same everywhere
    return msgspec.Raw(_scientific(value).encode())


def java_double(text: str) -> str:
    """The JSON that Jackson writes for the double that ``text`` is read as."""
    value = float(text)
    return repr(value) if _PLAIN_FROM <= abs(value) < _PLAIN_BELOW or value == 0 else _scientific(value)


def _scientific(value: float) -> str:
    """``value`` where Java writes an exponent. On ``repr`` alone: a payload may have millions of them."""
    if math.isinf(value):
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return f"-{_positive_scientific(-value)}" if value < 0 else _positive_scientific(value)


def _positive_scientific(value: float) -> str:
    text = repr(value)
    if text[-2:] == ".0":  # from 1e7 on, whole, and too short for Python to write an exponent
        digits = text[:-2].rstrip("0")
        return f"{digits[0]}.{digits[1:] or '0'}E{len(text) - 3}"
    mantissa, _, exponent = text.partition("e")
    if exponent:
        if len(mantissa) == 1:  # Java writes two digits at least: where one would do, those nearest to the number
            if value > _FEW_BITS_BELOW:
                mantissa += ".0"
            else:
                mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}E{exponent[1:] if exponent[0] == '+' else int(exponent)}"
    whole, _, fraction = text.partition(".")
    if whole == "0":  # below 1e-3, and not yet with an exponent in Python
        return f"{fraction[3]}.{fraction[4:] or '0'}E-4"
    return f"{whole[0]}.{whole[1:]}{fraction}E{len(whole) - 1}"


def encode(value: Any) -> bytes:
    """``value`` as JSON: any tree of Structs, dicts, lists and scalars, floats as ``double`` gives them."""
    try:
        text = _encode(value)
    except UnicodeEncodeError:  # a lone surrogate, which msgspec does not write
        return _written(value).encode()
    if not text.isascii():
        text = _ASTRAL.sub(lambda found: _astral_escape(found[0]), text)
    if b"\\u00" in text:
        text = _ESCAPE.sub(_upper, text)
    return text


def _upper(found: re.Match[bytes]) -> bytes:
    escape = found[0]
    return b"\\u" + escape[2:].upper() if escape[1:2] == b"u" else escape


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


def _string(text: str) -> str:
    return f'"{_ESCAPED.sub(_escaped, text)}"'


def _written(value: Any) -> str:
    """The same as ``encode``, for any string, and much slower."""
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{','.join([_written(item) for item in value])}]"
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        properties = [(name, getattr(value, attribute)) for name, attribute in names]
        value = {name: item for name, item in properties if item is not msgspec.UNSET}
    if isinstance(value, dict):
        return f"{{{','.join([f'{_string(name)}:{_written(item)}' for name, item in value.items()])}}}"
    return _encode(value).decode()
