"""Masking: the value of each key that matches is replaced, at any depth of the two payloads, and no other byte."""

import fnmatch
import json
import string
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.documents import DOCUMENTED
from support.json_texts import WHITESPACE, JsonText, Tokens, scalar_tokens, spaced, string_tokens, tokens
from taskgate.documents.document import DocumentError, check_document
from taskgate.documents.masking import Masking

PATTERNS = ("password", "*token*", "_s?crets", "k[ab]", "Größe")

_keys = string_tokens | st.sampled_from(
    [
        *(b'"inputData"', rb'"input\u0044ata"', b'"outputData"', b'"InputData"'),
        *(b'"password"', rb'"pass\u0077ord"', rb'"\u0050ASSWORD"', b'"passwords"', '"pa\u017f\u017fword"'.encode()),
        *(b'"token"', b'"my_Token_2"', rb'"\u0074o\u212aen"', b'"_secrets"', b'"ka"', b'"kc"', '"GRÖßE"'.encode()),
        *('"Größe"'.encode(), b'"gr\\u00f6\\u00dfe"', b'"a"', b'""'),
    ]
)


def _listed(items: Sequence[Tokens]) -> Tokens:
    return [token for number, item in enumerate(items) for token in ([b","] if number else []) + item]


def _objects(values: st.SearchStrategy[Tokens]) -> st.SearchStrategy[Tokens]:
    members = st.lists(st.tuples(_keys, values).map(lambda member: [member[0], b":", *member[1]]), max_size=5)
    return members.map(lambda items: [b"{", *_listed(items), b"}"])


_values = st.recursive(
    scalar_tokens.map(lambda token: [token]),
    lambda inner: _objects(inner) | st.lists(inner, max_size=3).map(lambda items: [b"[", *_listed(items), b"]"]),
    max_leaves=25,
)


def _lower(text: str) -> str:
    return text.translate(str.maketrans(string.ascii_uppercase, string.ascii_lowercase))


def _hides(key: bytes) -> bool:
    return any(fnmatch.fnmatchcase(_lower(json.loads(key)), _lower(pattern)) for pattern in PATTERNS)


def _with_gaps(text: bytes) -> list[tuple[bytes, bytes]]:
    """Each token with the whitespace before it."""
    found, position = [], 0
    for token in tokens(text):
        start = position
        while text[position] in WHITESPACE:
            position += 1
        found.append((text[start:position], token))
        position += len(token)
    return [*found, (text[position:], b"")]


def _value(parts: list[tuple[bytes, bytes]], at: int, level: int, *, within: bool) -> tuple[int, bytes]:
    """The text of the value at ``at`` with masks, and the position behind it; ``within`` a payload."""
    gap, token = parts[at]
    text = gap + token
    at += 1
    if token not in {b"{", b"["}:
        return at, text
    while parts[at][1] not in {b"}", b"]"}:
        if parts[at][1] == b",":
            text += b"".join(parts[at])
            at += 1
        hidden, payload = False, within
        if token == b"{":
            key = parts[at][1]
            payload = within or (level == 0 and json.loads(key) in {"inputData", "outputData"})
            hidden = within and _hides(key)
            text += b"".join(parts[at]) + b"".join(parts[at + 1])
            at += 2
        before = parts[at][0]
        at, value = _value(parts, at, level + 1, within=payload)
        text += before + b'"***"' if hidden else value
    return at + 1, text + b"".join(parts[at])


def reference(text: bytes) -> bytes:
    """Mask token by token."""
    parts = _with_gaps(text)
    at, masked = _value(parts, 0, 0, within=False)
    return masked + parts[at][0]


@example(JsonText(DOCUMENTED, b""))
@example(JsonText(rb'{"inputData":{"a":"\\","b":"\":{\"password","password":1}}', b""))
@given(spaced(_objects(_values), " \t\r\n"))
def test_values_of_matching_keys_are_hidden_and_nothing_else_changes(text: JsonText) -> None:
    """Compared with a slow reference; equal bytes, duplicates and escapes included."""
    check_document(text.spaced)
    masked = Masking(PATTERNS).apply(text.spaced)
    assert masked == reference(text.spaced)
    check_document(masked)


@pytest.mark.parametrize(
    ("document", "masked"),
    [
        ('{"inputData":{"password":"a"}}', '{"inputData":{"password":"***"}}'),
        ('{"outputData" : {"PassWord" :\t{"a":[1]} }}', '{"outputData" : {"PassWord" :\t"***" }}'),
        (r'{"inputData":{"pass\u0077ord":null}}', r'{"inputData":{"pass\u0077ord":"***"}}'),
        (
            '{"inputData":{"password":1,"password":[{"password":2}]},"inputData":{"password":3}}',
            '{"inputData":{"password":"***","password":"***"},"inputData":{"password":"***"}}',
        ),
        ('{"inputData":[[{"a":[{"token":1.00}]}]]}', '{"inputData":[[{"a":[{"token":"***"}]}]]}'),
        (r'{"input\u0044ata":{"password":1}}', r'{"input\u0044ata":{"password":"***"}}'),
        ('{"password":1,"x":{"inputData":{"password":2}}}', None),
        ('{"inputData":"password","outputData":null}', None),
        ('{"inputData":{"a":"\\"password\\":1","passwords":1}}', None),
    ],
)
def test_where_keys_are_looked_for(document: str, masked: str | None) -> None:
    given_ = document.encode()
    found = Masking(["password", "*token*"]).apply(given_)
    assert found == (given_ if masked is None else masked.encode())
    assert masked is not None or found is given_


@given(
    st.lists(st.text("ab_é*?[]!-", min_size=1, max_size=5), min_size=1, max_size=3), st.text("abAB_éÉ]*-", max_size=5)
)
def test_keys_are_compared_as_file_names_are(patterns: list[str], key: str) -> None:
    """Whole, ASCII letters in either case; spelled with escapes or without."""
    hides = any(fnmatch.fnmatchcase(_lower(key), pattern) for pattern in patterns)
    for spelled in (json.dumps(key), json.dumps(key, ensure_ascii=False), "".join(f"\\u{ord(c):04x}" for c in key)):
        quoted = spelled if spelled.startswith('"') else f'"{spelled}"'
        document = f'{{"inputData":{{{quoted}:1}}}}'.encode()
        assert Masking(patterns).apply(document) == (document.replace(b":1", b':"***"') if hides else document)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"null", b"[]", b'"', b"{", b'{"inputData"', b'{"inputData":', b'{"inputData":{"password"'),
        *(b'{"inputData":{"password":', b'{"inputData":{"password":"a', b'{"inputData":{"password":[1}', b'{"a":"\\'),
        *(b'{"inputData":{"password":}}', b'{"inputData":{"password":,"a":1}}'),
    ],
)
def test_text_that_is_no_document_is_refused_and_not_shown(text: bytes) -> None:
    """Nothing is returned where it cannot be told where a value ends. Checked documents never come here."""
    with pytest.raises(DocumentError):
        Masking(["*"]).apply(text)


@given(st.binary(max_size=60) | st.lists(st.sampled_from(list(b'{}[]":,\\ap1')), max_size=60).map(bytes))
def test_any_bytes_are_masked_or_refused(text: bytes) -> None:
    try:
        Masking(["*a*", "p"]).apply(b'{"inputData":{' + text)
    except DocumentError:
        return


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputData":{"password":' + b" " * 8_000_000 + b"1}}",
        b'{"inputData":{"a":"' + rb"\"" * 4_000_000 + b'","password":1}}',
        b'{"inputData":{"password":1}}' + b" " * 8_000_000,
        b'{"inputData":' + b"[[]" + b",[]" * 2_000_000 + b',{"password":1}]}',
        b'{"' + b"a" * 8_000_000 + b'":1,"inputData":{"password":1}}',
        b'{"inputData":{"' + b"password_" * 900_000 + b'":1,"password":1}}',
    ],
    ids=["space", "escapes", "trailing", "brackets", "long-key", "long-candidate"],
)
def test_time_is_linear(text: bytes) -> None:
    """8 MB that would make a search go back or start again take a second or two; quadratic, they would take hours."""
    check_document(text)
    started = time.process_time()
    masked = Masking(["password", "*x*y*z*"]).apply(text)
    assert time.process_time() - started < 20
    assert masked.count(b'"***"') == 1
