r"""Make untrusted text safe for a terminal: replace unprintable characters by escapes.

A task, a file name or an ID may hold control characters, which can clear the screen, set the window's title or forge a
line. It may also hold invisible characters, lone surrogates, and characters that reverse the direction of text.
``str.isprintable`` detects them all: it is False for Unicode's categories "other" and "separator", except the space.
"""


def printable(text: str) -> str:
    r"""Put ``text`` on one line, with each unprintable character as an escape: ``\n``, ``\x1b``, ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def printable_lines(text: str) -> str:
    """Make each line of ``text`` ``printable``; keep the line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(document: bytes) -> str:
    r"""Return the JSON ``document`` as text of the same value, with each unprintable character as a JSON escape.

    Line breaks and tabs between tokens stay. A carriage return would move the cursor; it becomes a space.
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
    """Whether ``value`` can be encoded as UTF-8. Python keeps other bytes of a command line as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
