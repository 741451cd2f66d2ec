"""Decode a stored row into a ``TaskModel``: fast if Jackson wrote it, else with all of Jackson's leniency."""

import json
import re
from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, UnsetType

from taskgate.documents.conductor.coercion import (
    Number,
    Reader,
    enum_reader,
    integer_reader,
    is_blank,
    list_reader,
    map_reader,
    read_boolean,
    read_text,
    read_untyped,
    reencode_base64,
    refuse,
)
from taskgate.documents.conductor.encoder import DoubleCache, java_double
from taskgate.documents.conductor.schema import JavaObject, Mark, ProtoAny, TaskDef, TaskModel, WorkflowDef
from taskgate.documents.document import DocumentError

_SUB_WORKFLOW_ID = "subWorkflowId"

_NULL = re.compile(r"null(?![\w$])")
"""Jackson refuses a letter or digit right after null, as in ``nullable``, and does not read anything else after it."""


class NullRowError(DocumentError):
    """The row is the text ``null``, for which Conductor answers that the task does not exist."""


_decode_canonical = msgspec.json.Decoder(TaskModel, float_hook=DoubleCache().__getitem__).decode


def read_task_model(stored: bytes) -> TaskModel:
    """Decode a row in UTF-8; floats in its maps are results of ``encodable_double``.

    Raises:
        NullRowError: the row is null.
        DocumentError: Jackson cannot read the row.
    """
    try:
        model = _decode_canonical(stored)
    except msgspec.DecodeError:  # broken JSON, or types that Jackson does not write
        return _read_leniently(stored)
    return _read_leniently(stored) if model.subWorkflowId is not UNSET and is_blank(model.subWorkflowId) else model


def _no_constant(name: str) -> NoReturn:
    raise DocumentError(f"not JSON: {name}")


_loose_json = json.JSONDecoder(
    parse_float=lambda text: Number(text, is_float=True),
    parse_int=lambda text: Number(text, is_float=False),
    parse_constant=_no_constant,
)


def _read_leniently(stored: bytes) -> TaskModel:
    text = stored.decode().lstrip(" \t\r\n")
    if _NULL.match(text):
        raise NullRowError("null")
    try:
        value, _ = _loose_json.raw_decode(text)  # like Jackson, ignores what follows the object
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON: {error.msg} at character {error.pos}") from error
    model = _object_reader(TaskModel)(value)
    if not isinstance(model, TaskModel):
        refuse(value, "an object")
    # Jackson calls setters in the order of the row, and setSubWorkflowId writes into the output that is set by then.
    # The order matters only for a blank ID: the projection writes any other ID into the output.
    keys = list(value)
    if _SUB_WORKFLOW_ID in model.outputData and "outputData" in keys[: _position(_SUB_WORKFLOW_ID, keys)]:
        model.outputData[_SUB_WORKFLOW_ID] = None if model.subWorkflowId is UNSET else model.subWorkflowId
    return model


def _position(key: str, keys: list[str]) -> int:
    return keys.index(key) if key in keys else 0


@cache
def _object_reader(java_class: type[JavaObject]) -> Reader:
    """Make a reader for objects. The readers of its properties are made at first use, since classes are recursive."""

    def read(value: Any) -> JavaObject | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            refuse(value, "an object")
        readers = _property_readers(java_class)
        return java_class(**{name: readers[name](item) for name, item in value.items() if name in readers})

    return read


@cache
def _property_readers(java_class: type[JavaObject]) -> dict[str, Reader]:
    hints = get_type_hints(java_class, include_extras=True)
    return {
        field.name: _property_reader(hints[field.name], field)
        for field in msgspec.structs.fields(java_class)
        if Mark.COMPUTED not in _marks(hints[field.name])
    }


def _property_reader(hint: Any, field: msgspec.structs.FieldInfo) -> Reader:
    """Make a reader that replaces null by the property's value for null."""
    read, null = _reader(hint), _null_value(hint, field)

    def read_property(value: Any) -> Any:
        found = read(value)
        return null() if found is None else found

    return read_property


def _null_value(hint: Any, field: msgspec.structs.FieldInfo) -> Callable[[], Any]:
    if UnsetType in get_args(hint):
        return lambda: UNSET
    if Mark.NULL_IS_DEFAULT in _marks(hint):
        return (lambda: field.default) if field.default_factory is NODEFAULT else field.default_factory
    return bool if hint is bool else int  # null for Java's primitives: false and 0


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union without UnsetType, or the single type."""
    members = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    return tuple(member for member in members if member is not UnsetType)


def _marks(hint: Any) -> tuple[Any, ...]:
    (member, *_) = _members(hint)
    return tuple(member.__metadata__) if get_origin(member) is Annotated else ()


def _reader(hint: Any) -> Reader:
    """Return the reader for a type of the schema table."""
    members, marks = _members(hint), _marks(hint)
    if len(members) > 1:
        return _read_definition if WorkflowDef in members else read_untyped
    kind = get_args(members[0])[0] if marks else members[0]
    if kind is int:
        (bounds,) = [mark for mark in marks if isinstance(mark, Meta)]
        return integer_reader(cast("int", bounds.ge), cast("int", bounds.le))
    if get_origin(kind) is Literal:
        return enum_reader(get_args(kind))
    if get_origin(kind) is list:
        return list_reader(_reader(*get_args(kind)))
    if get_origin(kind) is dict:
        return map_reader(_reader(get_args(kind)[1]), nulls=Mark.NO_NULLS not in marks)
    return _SIMPLE.get(kind) or _object_reader(kind)


def _read_any_message(value: Any) -> ProtoAny | None:
    if value is None:
        return None
    kind, encoded = (value.get("@type"), value.get("@value")) if isinstance(value, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(encoded, str):
        refuse(value, "an object with @type and @value")
    return ProtoAny(kind, reencode_base64(encoded))


def _read_task_def(value: Any) -> Any:
    """Read a TaskDef; Jackson passes a text to the constructor ``TaskDef(String name)``."""
    return TaskDef(name=value) if isinstance(value, str) else _object_reader(TaskDef)(value)


_SIMPLE: dict[Any, Reader] = {
    Any: read_untyped,
    str: read_text,
    bool: read_boolean,
    ProtoAny: _read_any_message,
    TaskDef: _read_task_def,
}


def _read_definition(value: Any) -> Any:
    """Read as ``SubWorkflowParams.setWorkflowDefinition``: an expression, or a map that becomes a WorkflowDef."""
    if isinstance(value, dict):
        return _object_reader(WorkflowDef)(_reread_numbers(value))
    if value is None or (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    return refuse(value, "a workflow definition")


def _reread_numbers(value: Any) -> Any:
    """Replace the text of each number by Java's: this setter gets a map whose numbers Jackson has already read."""
    if isinstance(value, dict):
        return {key: _reread_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_reread_numbers(item) for item in value]
    if isinstance(value, Number):
        text = java_double(value.text).strip('"') if value.is_float else str(int(value.text))
        return Number(text, is_float=value.is_float)
    return value
