"""Store any JSON value in a ``google.protobuf.Value``, in place.

Most of a task is such values, so this is the hot loop of ``GetTask``. Setting fields in place costs half as much as
building values and copying them in, and a quarter of ``json_format``.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

MAX_LEVEL = 100
"""Levels of nested messages that protobuf parsers accept by default in C++, Java and Python."""


class Misfit(Exception):
    """A field cannot hold a value. ``path`` has keys and list indexes, innermost first; it grows as the error rises."""

    def __init__(self, reason: str, *path: str | int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = list(path)


FAULTS = (Misfit, ValueError, OverflowError)
"""Errors of setting a field: ours, and protobuf's for lone surrogates and numbers out of range."""


def at_step(fault: Exception, step: str | int) -> Misfit:
    """Return ``fault``, one of ``FAULTS``, as a Misfit with ``step``, its key or index, added to the path."""
    if isinstance(fault, Misfit):
        misfit = fault
    elif isinstance(fault, UnicodeEncodeError):
        misfit = Misfit("text with a lone surrogate, which is not Unicode")
    else:
        misfit = Misfit("a number out of range")
    misfit.path.append(step)
    return misfit


def too_deep() -> Misfit:
    """Return the Misfit for a message below ``MAX_LEVEL``."""
    return Misfit(f"nested beyond the {MAX_LEVEL} levels that protobuf parsers accept")


def set_value(target: Any, item: Any, level: int) -> None:
    """Store ``item`` in the Value ``target``, which is at ``level``. Raises one of ``FAULTS``."""
    # Most frequent types first; type() and not isinstance(), since bool is an int.
    kind = type(item)
    if kind is str:
        target.string_value = item
    elif kind is dict:
        _set_struct(target.struct_value, item, level + 1)
    elif kind is list:
        _set_list(target.list_value, item, level + 1)
    elif kind is bool:
        target.bool_value = item
    elif item is None:
        target.null_value = 0
    else:
        number = float(item)  # the nearest double; OverflowError beyond the range
        if not isfinite(number):
            raise Misfit("a number out of range")
        target.number_value = number


def set_values(target: Any, items: Mapping[str, Any], level: int) -> None:
    """Store ``items``, not empty, in ``target``, a ``map<string, Value>`` of a message at ``level``. Raises Misfit."""
    level += 2  # the map's entry, and the value in it
    if level > MAX_LEVEL:
        raise too_deep()
    for key, item in items.items():
        try:
            set_value(target[key], item, level)
        except FAULTS as fault:
            raise at_step(fault, key) from fault


def _set_struct(target: Any, items: Mapping[str, Any], level: int) -> None:
    if items:
        set_values(target.fields, items, level)
    elif level > MAX_LEVEL:
        raise too_deep()
    else:
        target.SetInParent()


def _set_list(target: Any, items: Sequence[Any], level: int) -> None:
    if level + bool(items) > MAX_LEVEL:
        raise too_deep()
    if not items:
        target.SetInParent()
        return
    values = target.values
    for item in items:
        try:
            set_value(values.add(), item, level + 1)
        except FAULTS as fault:
            raise at_step(fault, len(values) - 1) from fault
