"""What counts as a task document, and how it loses its whitespace and nothing else."""

import json
from collections.abc import Callable, Hashable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.json_texts import JsonText, spaced, task_tokens, tokens
from taskgate.documents import document as document_module
from taskgate.documents.document import MAX_NESTING, CheckedDocuments, DocumentError, check_document, minify, sha256

Digest = Callable[[bytes], Hashable]

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
    "too deep, and long": (
        b'{"s":"' + b"x" * 70_000 + b'","a":' + b'{"a":' * (MAX_NESTING - 1) + b"{}" + b"}" * MAX_NESTING,
        "nested more than",
    ),
    "too deep, with a surrogate": (b'{"s":"\\ud800","a":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested more than"),
}


@pytest.mark.parametrize(("document", "reason"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_with_a_reason(document: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        check_document(document)


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


def is_object(document: bytes) -> bool:
    """What Python's own parser says; it takes NaN and Infinity, and encodings other than UTF-8."""
    try:
        text = document.decode()
        return isinstance(json.loads(text, parse_constant=lambda _: 1 / 0, parse_int=float), dict)
    except (ValueError, ZeroDivisionError):
        return False


any_text = spaced(task_tokens("1"), " \t\r\n")


@given(text=any_text)
def test_every_json_object_is_a_document_and_keeps_its_tokens(text: JsonText) -> None:
    """Numbers and escapes of every form, keys twice, deep nesting, whitespace wherever it may be."""
    check_document(text.spaced)
    assert minify(text.spaced) == text.minified
    assert tokens(text.spaced) == tokens(text.minified)


@given(text=any_text, data=st.data())
def test_damaged_document_is_judged_as_the_json_module_does(text: JsonText, data: st.DataObject) -> None:
    """A few bytes added, removed or changed: what a strict parser takes is accepted, and nothing else."""
    damaged = bytearray(text.spaced)
    pieces = [b"", b'"', b"\\", b"{", b"]", b",", b"0", b"\xff", b"\n", b"\0", b"NaN", b"\\u", b"e", b"\x0c"]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(pieces))
    try:
        check_document(bytes(damaged))
    except DocumentError:
        assert not is_object(bytes(damaged))
    else:
        assert is_object(bytes(damaged))


@given(document=st.binary(max_size=60) | st.text('{}[]",:\\ u0d8eE+-.tfn').map(str.encode))
def test_arbitrary_bytes_are_judged_as_the_json_module_does(document: bytes) -> None:
    """Never anything but acceptance or DocumentError."""
    try:
        check_document(document)
    except DocumentError:
        assert not is_object(document)
    else:
        assert is_object(document)


def test_brackets_side_by_side_or_in_strings_are_not_nesting() -> None:
    check_document(b'{"a":[' + b"[]," * 5000 + b"{}]}")
    check_document(rb'{"a":"\"' + b"[" * 3000 + rb'\\","b":"' + b"{" * 3000 + b'"}')
    check_document(b'{"a":["","[",' + b'"[[]","]{",' * 3000 + b'""]}')


@pytest.mark.parametrize("before", [0, 1, 255, 256, 400, 3000])
def test_deepest_level_may_be_anywhere(before: int) -> None:
    """Brackets are counted in stretches; a level too many is found wherever one ends."""
    most = MAX_NESTING - 2
    for levels in (most, most + 1):
        document = b'{"a":[' + b"{}," * before + b"[" * levels + b"]" * levels + b",{}" * before + b"]}"
        if levels == most:
            check_document(document)
        else:
            with pytest.raises(DocumentError, match="1000 levels"):
                check_document(document)


def test_deepest_level_may_be_there_several_times() -> None:
    """Where brackets alone might be too many, levels are counted one by one: as many as allowed, and one more."""
    for levels in (MAX_NESTING - 2, MAX_NESTING - 1):
        document = b'{"a":' + b"[" * levels + b"[],{},[]" + b"]" * levels + b"}"
        if levels + 2 <= MAX_NESTING:
            check_document(document)
        else:
            with pytest.raises(DocumentError, match="1000 levels"):
                check_document(document)


@given(text=st.text('[]{}"\\ a', min_size=2100, max_size=2400).map(str.encode))
def test_nesting_of_any_text_is_counted_without_a_crash(text: bytes) -> None:
    with pytest.raises(DocumentError):
        check_document(b'{"a":' + text + b"}]")


@pytest.mark.parametrize("levels", [1001, 1500, 1999, 2001, 100_000])
def test_brackets_left_open_are_refused_on_either_side_of_the_recursion_limit(levels: int) -> None:
    with pytest.raises(DocumentError):
        check_document(b'{"a":' + b"[" * levels)


@pytest.mark.parametrize("digest", [hash, sha256])
class TestCheckedDocuments:
    def test_bad_document_is_refused_every_time(self, digest: Digest) -> None:
        checked = CheckedDocuments(digest)
        for _ in range(2):
            with pytest.raises(DocumentError):
                checked.check(b"[1]")

    def test_good_document_is_parsed_once(self, digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
        parsed: list[bytes] = []
        monkeypatch.setattr(document_module, "check_document", parsed.append)
        checked = CheckedDocuments(digest)
        for _ in range(3):
            checked.check(b"{}")
        assert parsed == [b"{}"]

    def test_only_so_many_are_remembered(self, digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest is forgotten first."""
        parsed: list[bytes] = []
        monkeypatch.setattr(document_module, "check_document", parsed.append)
        checked = CheckedDocuments(digest, remembered=2)
        for text in (b"{}", b'{"a":1}', b'{"a":2}', b'{"a":1}', b"{}"):
            checked.check(text)
        assert parsed == [b"{}", b'{"a":1}', b'{"a":2}', b"{}"]
