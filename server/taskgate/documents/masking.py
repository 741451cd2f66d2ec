"""Hide the values of named keys in a document: every other byte stays as it is.

Conductor keeps what a task was given and what it returned in ``inputData`` and ``outputData``. Keys are hidden at any
depth of these two. A copy of a value in another place is not hidden: a literal in ``workflowTask.inputParameters`` or
``taskDefinition.inputTemplate``, the text of ``reasonForIncompletion``, JSON inside a string, and ``subWorkflowId``,
which Conductor copies out of the two.
"""

import fnmatch
import re
from collections.abc import Generator, Sequence

from taskgate.documents.json_scan import (
    CLOSING,
    KEY,
    MARKS,
    OPENING,
    broken,
    end_of_value,
    is_container,
    key_text,
    next_member,
    start_of_members,
)

MASK = b'"***"'
"""What stands in place of a hidden value of any kind."""

_PAYLOADS = frozenset({"inputData", b"inputData", "outputData", b"outputData"})

_MAX_KNOWN = 4096
_MAX_KNOWN_BYTES = 128
"""How many keys are remembered, and how long they may be: documents repeat their keys."""

_PLAIN_WORD = re.compile(rb"[a-z0-9_-]+")

_Spans = Generator[tuple[int, int], None, int]
"""The first byte and the end of each value to hide; returns the place behind the last byte that was looked at."""


class Masking:
    """The patterns of the keys to hide, as of file names: ``*``, ``?``, ``[abc]``.

    Keys are compared with their escapes decoded, ASCII letters in either case. All duplicates of a key are hidden. For
    one thread.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """``patterns``, one or more, come from ``parse_patterns``."""
        self.patterns = tuple(patterns)
        # ASCII: a pattern's letters then match no other character, such as the Kelvin sign for k, and _words are sound.
        either = "|".join(map(fnmatch.translate, patterns))
        self._matches = re.compile(either, re.IGNORECASE | re.ASCII).match
        self._words = [_word(pattern) for pattern in patterns]
        self._known: dict[bytes, bool] = {}

    def apply(self, document: bytes) -> bytes:
        """Return the document with ``MASK`` as the value of each matching key; the same object if there is none.

        The document must have passed ``check_document``. Raises DocumentError where it shows that it has not.
        """
        if not self._may_match(document):
            return document
        parts: list[bytes] = []
        start = 0
        for first, end in self._hidden(document):
            parts += (document[start:first], MASK)
            start = end
        if not parts:
            return document
        parts.append(document[start:])
        return b"".join(parts)

    def _may_match(self, document: bytes) -> bool:
        """Rule out most documents cheaply: a key that matches has the word of a pattern, or an escape of ASCII."""
        lower = document.lower()
        return any(word in lower for word in self._words) or b"\\u00" in lower

    def _hidden(self, document: bytes) -> _Spans:
        at = start_of_members(document)
        while (member := next_member(document, at)) is not None:
            key, at = member
            if not is_container(document, at):
                continue
            if (key_text(key) if b"\\" in key else key) in _PAYLOADS:
                at = yield from self._hidden_within(document, at)
            else:
                at = end_of_value(document, at)
        return at

    def _hidden_within(self, document: bytes, start: int) -> _Spans:
        """Look through the object or list that begins at ``start``."""
        at, depth = start, 0
        while True:
            for mark in MARKS.finditer(document, at):
                kind = mark.lastindex
                if kind == OPENING:
                    depth += 1
                elif kind == CLOSING:
                    depth -= 1
                    if not depth:
                        return mark.end()
                elif kind != KEY:
                    raise broken()
                elif self._hides(mark[KEY]):
                    at = end_of_value(document, mark.end())
                    yield mark.end(), at
                    break

    def _hides(self, key: bytes) -> bool:
        """Whether to hide the value of ``key``, which is as it stands in the document."""
        known = self._known.get(key)
        if known is not None:
            return known
        text = key_text(key)
        hides = text is None or self._matches(text) is not None
        if len(key) <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = hides
        return hides


def _word(pattern: str) -> bytes:
    """Return the longest word, in lower case, that each key of ``pattern`` has; b"" if there is none."""
    words = _PLAIN_WORD.findall(pattern.partition("[")[0].encode().lower())  # behind "[" is a set of characters
    return max(words, key=len, default=b"")
