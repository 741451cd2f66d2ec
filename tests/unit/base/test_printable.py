"""Text of others, as a terminal may show it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgate.base.printable import printable, printable_json, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b é 😀 \\", "a b é 😀 \\"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\tb\r\nc\x7f", r"a\tb\r\nc\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\ud800", r"\ud800"),
        ("\u200b\ufeff\U000e0041", r"\u200b\ufeff\U000e0041"),
    ],
    ids=ascii,
)
def test_controls_turned_and_hidden_text_and_half_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(text=st.text(st.characters()))
def test_what_is_shown_is_printable_and_can_be_encoded(text: str) -> None:
    assert printable(text).isprintable()
    assert "".join(printable_lines(text).split("\n")).isprintable()
    printable(text).encode()


@given(value=st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_keeps_its_value(value: object) -> None:
    document = json.dumps(value, ensure_ascii=False, indent="\r\t").encode()
    shown = printable_json(document)
    assert json.loads(shown) == value
    assert "".join(shown.replace("\t", "").split("\n")).isprintable()
