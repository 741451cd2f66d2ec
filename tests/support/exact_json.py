"""Compare JSON as written: ``1`` differs from ``1.0``, ``1.0`` from ``1.00``, a repeated key from a single one.

Whitespace and the escaping of characters make no difference. A separate function compares the order of keys.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Number:
    """A number by its text."""

    text: str

    def __repr__(self) -> str:
        return self.text


class Members(list[tuple[str, Any]]):
    """The members of an object in the order of the text, repeated keys included."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: {value!r}" for key, value in self) + "}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where two texts differ: the ``path`` (names and positions, with dots) and the value of each."""

    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.actual}"


def parse(text: bytes) -> Any:
    """Parse a JSON text, numbers as ``Number``, objects as ``Members``."""
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse, object_pairs_hook=Members)


def differences(expected: Any, actual: Any, path: str = "") -> Iterator[Difference]:
    """Every place in which two parsed values differ, apart from the order of keys."""
    if type(expected) is not type(actual):
        yield Difference(path, _short(expected), _short(actual))
    elif isinstance(expected, Members):
        yield from _member_differences(expected, actual, path)
    elif isinstance(expected, list):
        if len(expected) != len(actual):
            yield Difference(f"{path}.length", str(len(expected)), str(len(actual)))
        for number, (left, right) in enumerate(zip(expected, actual, strict=False)):
            yield from differences(left, right, f"{path}.{number}")
    elif expected != actual:
        yield Difference(path, _short(expected), _short(actual))


def order_differences(expected: Any, actual: Any, path: str = "") -> Iterator[Difference]:
    """Every object whose keys have another order; for values that are otherwise equal."""
    if isinstance(expected, Members):
        left, right = [key for key, _ in expected], [key for key, _ in actual]
        if left != right:
            yield Difference(path or "(top)", " ".join(left), " ".join(right))
        theirs = dict(actual)
        for key, value in expected:
            yield from order_differences(value, theirs[key], f"{path}.{key}".lstrip("."))
    elif isinstance(expected, list):
        for number, (left, right) in enumerate(zip(expected, actual, strict=True)):
            yield from order_differences(left, right, f"{path}.{number}")


def _member_differences(expected: Members, actual: Members, path: str) -> Iterator[Difference]:
    for side in (expected, actual):
        if len(dict(side)) != len(side):
            yield Difference(path, _short(expected), _short(actual))
            return
    left, right = dict(expected), dict(actual)
    for key in [*left, *(key for key in right if key not in left)]:
        where = f"{path}.{key}".lstrip(".")
        if key not in left:
            yield Difference(where, ABSENT, _short(right[key]))
        elif key not in right:
            yield Difference(where, _short(left[key]), ABSENT)
        else:
            yield from differences(left[key], right[key], where)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:90]} ... {text[-90:]}"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
