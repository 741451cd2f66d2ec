"""What counts as a task document, and how it loses its whitespace and nothing else."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgate.document import MAX_NESTING, DocumentError, check_document, minify

LEGAL = {
    "empty": b"{}",
    "whitespace": b' { "a" : [ 1 , 2 ] } \n',
    "huge numbers": b'{"a":[1e400,-1e-400,123456789012345678901234567890,0.1,-0]}',
    "a number of 10,000 digits": b'{"a":' + b"9" * 10_000 + b"}",
    "lone surrogates": b'{"a":"\\ud800","\\udfff":"\\ud800\\ud800 \\\\ud800"}',
    "surrogate pair": b'{"a":"\\ud83d\\ude00"}',
    "escapes": b'{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000"}',
    "duplicate keys": b'{"a":1,"a":2}',
    "unicode": '{"é":"\u2028😀"}'.encode(),
    "brackets in strings": b'{"a":"' + b"[{" * 2000 + b'"}',
    "as deep as allowed": b'{"a":' * (MAX_NESTING - 1) + b"{}" + b"}" * (MAX_NESTING - 1),
}


@pytest.mark.parametrize("document", LEGAL.values(), ids=LEGAL)
def test_legal_document_is_accepted(document: bytes) -> None:
    check_document(document)


REFUSED = {
    "nothing": (b"", "too early"),
    "list": (b"[]", "not a JSON object"),
    "number": (b"1", "not a JSON object"),
    "cut": (b'{"a":1', "too early"),
    "cut in a string": (b'{"a":"\\ud800', "too early"),
    "more behind": (b"{} {}", "not JSON"),
    "NaN": (b'{"a":NaN}', "not JSON"),
    "Infinity": (b'{"a":-Infinity}', "not JSON"),
    "leading zero": (b'{"a":01}', "not JSON"),
    "single quotes": (b"{'a':1}", "not JSON"),
    "trailing comma": (b'{"a":1,}', "not JSON"),
    "comment": (b'{"a":1/**/}', "not JSON"),
    "raw line break in a string": (b'{"a":"\n"}', "not JSON"),
    "bad escape": (b'{"a":"\\x41"}', "not JSON"),
    "bad escape beside a surrogate": (b'{"a":"\\ud800\\x41"}', "not JSON"),
    "latin-1": (b'{"a":"\xe9"}', "not UTF-8 at byte 6"),
    "surrogate as UTF-8": (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not JSON"),
    "too deep": (b'{"a":' * MAX_NESTING + b"{}" + b"}" * MAX_NESTING, "nested more than 1000 levels deep"),
    "too deep in lists": (b'{"a":' + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}", "nested more than"),
    "deep and never closed": (b'{"a":' + b"[" * 100_000, "nested more than"),
    "too deep, with a surrogate": (b'{"s":"\\ud800","a":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested more than"),
}


@pytest.mark.parametrize(("document", "reason"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_with_a_reason(document: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        check_document(document)


def tokens(text: bytes) -> list[bytes]:
    """An independent tokenizer: strings, and runs of anything that is neither space nor part of a string."""
    found = []
    position = 0
    while position < len(text):
        if text[position : position + 1] == b'"':
            end = position + 1
            while text[end : end + 1] != b'"':
                end += 2 if text[end : end + 1] == b"\\" else 1
            found.append(text[position : end + 1])
            position = end + 1
        else:
            if not text[position : position + 1].isspace():
                found.append(text[position : position + 1])
            position += 1
    return found


@pytest.mark.parametrize("document", LEGAL.values(), ids=LEGAL)
def test_minify_keeps_every_token(document: bytes) -> None:
    assert tokens(document) == tokens(minify(document))
    assert minify(minify(document)) == minify(document)


json_value = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=15,
)


@given(
    value=st.dictionaries(st.text(st.characters()), json_value, max_size=5),
    indent=st.sampled_from([None, 0, 2, "\t"]),
    separators=st.sampled_from([(",", ":"), (" ,\r\n", " : ")]),
)
def test_any_layout_becomes_the_same_document(
    value: dict[str, Any], indent: int | str | None, separators: tuple[str, str]
) -> None:
    """Lone surrogates and all: laid out however, a document is legal and minifies to its tokens, joined."""
    document = json.dumps(value, indent=indent, separators=separators).encode()
    check_document(document)
    assert minify(document) == b"".join(tokens(document)) == json.dumps(value, separators=(",", ":")).encode()


@given(document=st.binary(max_size=60))
def test_arbitrary_bytes_are_judged_as_the_json_module_does(document: bytes) -> None:
    """Never anything but acceptance or DocumentError; what is accepted, Python's own parser takes as an object."""

    def is_object() -> bool:
        if document.startswith(b"\xef\xbb\xbf") or b"\0" in document:
            return False  # json detects encodings; JSON is UTF-8
        try:
            text = document.decode()
            return isinstance(json.loads(text, parse_constant=lambda _: 1 / 0), dict)
        except (ValueError, ZeroDivisionError):
            return False

    try:
        check_document(document)
    except DocumentError:
        assert not is_object() or re.search(rb"\\u", document)
    else:
        assert is_object()
