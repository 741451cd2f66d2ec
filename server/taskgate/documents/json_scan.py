r"""Find members and values in the text of a JSON document, without parsing it into values.

Parsing would lose duplicate keys, the spelling of numbers and whitespace. Here strings are consumed whole, so that
nothing inside a string is taken for structure. No search backtracks, so the time is linear.

The document must have passed ``check_document``. Other text raises DocumentError or gives a wrong position; every
search ends.
"""

import json
import re

from taskgate.documents.document import DocumentError

_BODY = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_SPACE = rb"[ \t\r\n]*+"

# The last alternative of MARKS and _BRACKETS has no group. It makes them match at every position, even of broken text.
MARKS = re.compile(
    rb'(?:[^"\[\]{}]++|"%(body)b"(?!%(space)b:))*+(?:"(%(body)b)"%(space)b:%(space)b|([\[{])|([\]}])|.|\Z)'
    % {b"body": _BODY, b"space": _SPACE},
    re.DOTALL,
)
"""Up to the value of the next key, or behind the next opening or closing bracket: groups ``KEY``, ``OPENING``,
``CLOSING``."""

KEY, OPENING, CLOSING = 1, 2, 3

_BRACKETS = re.compile(rb'(?:[^"\[\]{}]++|"%b")*+(?:([\[{])|([\]}])|.|\Z)' % _BODY, re.DOTALL)
_OBJECT = re.compile(_SPACE + rb"\{")
_STRING = re.compile(rb'"%b"' % _BODY, re.DOTALL)
_SCALAR = re.compile(rb"[^\[\]{},:\" \t\r\n]++")
_CONTAINERS = frozenset({b"{", b"["})


def start_of_members(document: bytes) -> int:
    """Return the place behind the first bracket. Raises DocumentError unless it opens an object."""
    found = _OBJECT.match(document)
    if found is None:
        raise broken()
    return found.end()


def next_member(document: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the next key, as ``key_text`` takes it, and where its value begins; None at the end of the object.

    ``at`` is behind the bracket of the object, behind a value of it, or where a value begins that is no container.
    """
    mark = MARKS.match(document, at)
    assert mark is not None  # noqa: S101 - it matches everywhere
    if mark.lastindex == CLOSING:
        return None
    if mark.lastindex != KEY:
        raise broken()
    return mark[KEY], mark.end()


def is_container(document: bytes, start: int) -> bool:
    """Whether the value that begins at ``start`` is an object or a list."""
    return document[start : start + 1] in _CONTAINERS


def end_of_value(document: bytes, start: int) -> int:
    """Return where the value that begins at ``start`` ends. Raises DocumentError if none begins or ends there."""
    if not is_container(document, start):
        found = _STRING.match(document, start) or _SCALAR.match(document, start)
        if found is None:
            raise broken()
        return found.end()
    depth = 0
    for bracket in _BRACKETS.finditer(document, start):
        if bracket.lastindex == 1:
            depth += 1
        elif bracket.lastindex:
            depth -= 1
            if not depth:
                return bracket.end()
        else:
            break
    raise broken()


def key_text(key: bytes) -> str | None:
    """Decode what stands between the quotes of a string; None if it is not text of JSON."""
    try:
        if b"\\" not in key:
            return key.decode()
        return str(json.loads(f'"{key.decode()}"', strict=False))
    except ValueError:  # also for bytes that are not UTF-8
        return None


def broken() -> DocumentError:
    """Return the error for text in which a bracket or a string is not closed."""
    return DocumentError("not JSON: a bracket or a string is not closed")
