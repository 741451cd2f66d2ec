r"""Text of others, as a terminal may show it.

A task, a file name or an ID may hold control characters, which clear the screen, set the window's title or forge a
line, and characters that turn the direction of text, hide, or are half of one. ``str.isprintable`` knows them all: it
is False for Unicode's categories "other" and "separator", but for the space.
"""


def printable(text: str) -> str:
    r"""``text`` on one line, with each character that is not printable as an escape: ``\n``, ``\x1b``, ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def printable_lines(text: str) -> str:
    """``text`` that consists of lines, each of them ``printable``."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(document: bytes) -> str:
    r"""The JSON ``document`` with the same value, in which whatever is not printable is an escape of JSON's own.

    Line breaks and tabs between its tokens stay; a carriage return there, which would move the cursor, becomes a space.
    """
    text = document.decode(errors="replace")
    if text.isprintable():
        return text
    return "".join(map(_in_json, text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _in_json(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    if character == "\r":
        return " "
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def is_text(value: str) -> bool:
    """Whether ``value`` can be written in UTF-8. Python keeps other bytes of a command line as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
