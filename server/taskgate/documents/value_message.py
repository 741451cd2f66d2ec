"""Any JSON value as ``google.protobuf.Value``, filled in place.

Setting fields on the message that will be sent costs half of what building values and moving them in does, and a
quarter of ``json_format``. Most of a task is such values: this is the hot loop of ``GetTask``.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

MAX_LEVEL = 100
"""Levels of messages below the outermost that protobuf parsers accept by default in C++, Java and Python."""


class Misfit(Exception):
    """A value has no place in its field. ``path`` grows on the way out: innermost step first, keys and list indexes."""

    def __init__(self, reason: str, *path: str | int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = list(path)


FAULTS = (Misfit, ValueError, OverflowError)
"""What setting fields raises: ours, and protobuf's for lone surrogates and for numbers out of range."""


def located(fault: Exception, step: str | int) -> Misfit:
    """``fault``, one of ``FAULTS``, as a Misfit that happened at ``step`` of what encloses it."""
    if isinstance(fault, Misfit):
        misfit = fault
    elif isinstance(fault, UnicodeEncodeError):
        misfit = Misfit("text with a lone surrogate, which is not Unicode")
    else:
        misfit = Misfit("a number out of range")
    misfit.path.append(step)
    return misfit


def too_deep() -> Misfit:
    """For a message that would be more than ``MAX_LEVEL`` levels below the outermost."""
    return Misfit(f"nested beyond the {MAX_LEVEL} levels that protobuf parsers accept")


def set_value(target: Any, item: Any, level: int) -> None:
    """Store ``item`` in the Value ``target``, which is ``level`` levels deep. Raises one of ``FAULTS``."""
    # In the order of how often they occur; type() and not isinstance(), for bool is an int.
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
        number = float(item)  # the nearest double; OverflowError if there is none
        if not isfinite(number):
            raise Misfit("a number out of range")
        target.number_value = number


def set_values(target: Any, items: Mapping[str, Any], level: int) -> None:
    """Store ``items``, at least one, in ``target``, a ``map<string, Value>`` of a message ``level`` levels deep.

    Raises Misfit.
    """
    level += 2  # the map's entry, and the value in it
    if level > MAX_LEVEL:
        raise too_deep()
    for key, item in items.items():
        try:
            set_value(target[key], item, level)
        except FAULTS as fault:
            raise located(fault, key) from fault


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
            raise located(fault, len(values) - 1) from fault
