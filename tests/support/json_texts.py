"""JSON texts for tests: an independent tokenizer, and Hypothesis strategies for texts of every legal shape.

A text is a list of tokens with any whitespace between them; import and server must keep the tokens.
This module shares no line with the code under test, and uses no regular expressions.
"""

import json
from dataclasses import dataclass

from hypothesis import strategies as st

WHITESPACE = b" \t\r\n"
_STRUCTURE = b"{}[],:"


def tokens(text: bytes) -> list[bytes]:
    """The tokens of a well-formed JSON text, read one character at a time."""
    found: list[bytes] = []
    position = 0
    while position < len(text):
        start = position
        byte = text[position]
        position += 1
        if byte in WHITESPACE:
            continue
        if byte == ord('"'):
            while text[position] != ord('"'):
                position += 2 if text[position] == ord("\\") else 1
            position += 1
        elif byte not in _STRUCTURE:
            while position < len(text) and text[position] not in WHITESPACE + _STRUCTURE:
                position += 1
        found.append(text[start:position])
    return found


@dataclass(frozen=True)
class JsonText:
    """A JSON text with any whitespace, and the same text without whitespace."""

    spaced: bytes
    minified: bytes


_digits = st.text("0123456789", min_size=1, max_size=40)


@st.composite
def _number(draw: st.DrawFn) -> bytes:
    integer = draw(st.one_of(st.just("0"), st.builds(str.__add__, st.sampled_from("123456789"), st.just("") | _digits)))
    fraction = draw(st.just("") | st.builds(".{}".format, _digits))
    exponent = draw(
        st.just("")
        | st.builds(
            "{}{}{}".format,
            st.sampled_from("eE"),
            st.sampled_from(["", "+", "-"]),
            st.text("0123456789", min_size=1, max_size=4),
        )
    )
    return (draw(st.sampled_from(["", "-"])) + integer + fraction + exponent).encode()


_plain_character = st.characters(exclude_categories=["Cs"], min_codepoint=0x20, exclude_characters='"\\').map(
    str.encode
)
_escape = st.sampled_from([rb"\"", rb"\\", rb"\/", rb"\b", rb"\f", rb"\n", rb"\r", rb"\t"])
_unicode_escape = st.integers(0, 0xFFFF).map(lambda number: b"\\u%04x" % number)
_surrogate_escape = st.sampled_from(
    [rb"\ud800", rb"\uDFFF", rb"\udC00", rb"\ud83d\ude00", rb"\ude00\ud83d", rb"\\ud800"]
)
_awkward_character = st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b" ", b"  ", b"/", b"\x7f", "é".encode()])

string_tokens = st.lists(
    _plain_character | _escape | _unicode_escape | _surrogate_escape | _awkward_character, max_size=12
).map(lambda parts: b'"' + b"".join(parts) + b'"')

scalar_tokens = (
    st.sampled_from([b"null", b"true", b"false", b"1.0", b"1e400", b"-0", b"123456789012345678901234567890", b"0.10"])
    | _number()
    | string_tokens
)

Tokens = list[bytes]


def _array(items: list[Tokens]) -> Tokens:
    return [b"[", *(token for number, item in enumerate(items) for token in ([b","] if number else []) + item), b"]"]


def _object(members: list[tuple[bytes, Tokens]]) -> Tokens:
    return _braced(_array([[key, b":", *value] for key, value in members]))


def _braced(array: Tokens) -> Tokens:
    return [b"{", *array[1:-1], b"}"]


def _deep(levels: int, value: Tokens) -> Tokens:
    return [b"["] * levels + value + [b"]"] * levels


values: st.SearchStrategy[Tokens] = st.recursive(
    scalar_tokens.map(lambda token: [token]),
    lambda inner: (
        st.lists(inner, max_size=4).map(_array)
        | st.lists(st.tuples(string_tokens, inner), max_size=4).map(_object)
        | st.builds(_deep, st.integers(1, 60), inner)
    ),
    max_leaves=12,
)


def _is_reserved(key: bytes) -> bool:
    return json.loads(key) in ("taskId", "updateTime")


@st.composite
def task_tokens(draw: st.DrawFn, task_id: str) -> Tokens:
    """The tokens of a task document with this ID and any other members, repeated keys included."""
    others = st.tuples(string_tokens.filter(lambda key: not _is_reserved(key)), values)
    members = draw(st.lists(others, max_size=5))
    if draw(st.booleans()):
        members += draw(st.permutations(members))[:1]
    members.insert(draw(st.integers(0, len(members))), (b'"taskId"', [json.dumps(task_id).encode()]))
    if draw(st.booleans()):
        time = draw(
            st.sampled_from([b"0", b"null", b"1770621022078", b"1.770621022078E12", b"-1", b"9223372036854775807"])
        )
        members.insert(draw(st.integers(0, len(members))), (b'"updateTime"', [time]))
    return _object(members)


def spaced(tokens_: st.SearchStrategy[Tokens], whitespace: str) -> st.SearchStrategy[JsonText]:
    """Texts of these tokens with any of the characters ``whitespace`` between them."""

    @st.composite
    def make(draw: st.DrawFn) -> JsonText:
        parts = draw(tokens_)
        gaps = draw(st.lists(st.text(whitespace, max_size=3).map(str.encode), min_size=1, max_size=8))
        text = b"".join(gaps[number % len(gaps)] + token for number, token in enumerate(parts))
        return JsonText(text + gaps[-1], b"".join(parts))

    return make()
