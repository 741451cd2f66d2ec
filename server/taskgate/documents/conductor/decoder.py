"""From a stored row to its ``TaskModel``: at once where Jackson wrote it, leniently where something else did."""

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
    base64_again,
    enum_reader,
    integer_reader,
    is_blank,
    list_reader,
    map_reader,
    read_boolean,
    read_text,
    read_untyped,
    refuse,
)
from taskgate.documents.conductor.encoder import Doubles, java_double
from taskgate.documents.conductor.schema import Bean, Mark, ProtoAny, TaskDef, TaskModel, WorkflowDef
from taskgate.documents.document import DocumentError

_SUB_WORKFLOW_ID = "subWorkflowId"

_NULL = re.compile(r"null(?![\w$])")
"""Jackson takes no letter or digit right behind it, as in ``nullable``; it leaves all else that follows unread."""


class NoTaskError(DocumentError):
    """The row is the text ``null``: Conductor answers as if there were none."""


_read_written = msgspec.json.Decoder(TaskModel, float_hook=Doubles().__getitem__).decode


def read_task_model(stored: bytes) -> TaskModel:
    """The model of a row in UTF-8; the floats in its maps are as ``double`` gives them.

    Raises:
        NoTaskError: Jackson reads null.
        DocumentError: Jackson could not read it.
    """
    try:
        model = _read_written(stored)
    except msgspec.DecodeError:  # broken JSON, or values of types that Jackson does not write
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
        raise NoTaskError("null")
    try:
        value, _ = _loose_json.raw_decode(text)  # as Jackson does, without a look at what follows the object
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON: {error.msg} at character {error.pos}") from error
    model = _bean_reader(TaskModel)(value)
    if not isinstance(model, TaskModel):
        refuse(value, "an object")
    # Setters run in the row's order, and setSubWorkflowId writes into the output that is there by then. This shows only
    # where the ID is blank: any other is written there in the end.
    keys = list(value)
    if _SUB_WORKFLOW_ID in model.outputData and "outputData" in keys[: _place(_SUB_WORKFLOW_ID, keys)]:
        model.outputData[_SUB_WORKFLOW_ID] = None if model.subWorkflowId is UNSET else model.subWorkflowId
    return model


def _place(key: str, keys: list[str]) -> int:
    return keys.index(key) if key in keys else 0


@cache
def _bean_reader(bean: type[Bean]) -> Reader:
    """Reads objects; the readers of its properties are made at first use, for beans hold one another."""

    def read(value: Any) -> Bean | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            refuse(value, "an object")
        readers = _property_readers(bean)
        return bean(**{name: readers[name](item) for name, item in value.items() if name in readers})

    return read


@cache
def _property_readers(bean: type[Bean]) -> dict[str, Reader]:
    hints = get_type_hints(bean, include_extras=True)
    return {
        field.name: _property_reader(hints[field.name], field)
        for field in msgspec.structs.fields(bean)
        if Mark.MADE not in _marks(hints[field.name])
    }


def _property_reader(hint: Any, field: msgspec.structs.FieldInfo) -> Reader:
    """A reader with the property's own answer to null."""
    read, null = _reader(hint), _null(hint, field)

    def read_property(value: Any) -> Any:
        found = read(value)
        return null() if found is None else found

    return read_property


def _null(hint: Any, field: msgspec.structs.FieldInfo) -> Callable[[], Any]:
    if UnsetType in get_args(hint):
        return lambda: UNSET
    if Mark.NULL_IS_DEFAULT in _marks(hint):
        return (lambda: field.default) if field.default_factory is NODEFAULT else field.default_factory
    return bool if hint is bool else int  # Java's primitives: false and 0


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type that it is."""
    members = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    return tuple(member for member in members if member is not UnsetType)


def _marks(hint: Any) -> tuple[Any, ...]:
    (member, *_) = _members(hint)
    return tuple(member.__metadata__) if get_origin(member) is Annotated else ()


def _reader(hint: Any) -> Reader:
    """The reader for a type as the table writes it."""
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
    return _SIMPLE.get(kind) or _bean_reader(kind)


def _read_any_message(value: Any) -> ProtoAny | None:
    if value is None:
        return None
    kind, encoded = (value.get("@type"), value.get("@value")) if isinstance(value, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(encoded, str):
        refuse(value, "an object with @type and @value")
    return ProtoAny(kind, base64_again(encoded))


def _read_task_def(value: Any) -> Any:
    """Text is taken for the argument of ``TaskDef(String name)``."""
    return TaskDef(name=value) if isinstance(value, str) else _bean_reader(TaskDef)(value)


_SIMPLE: dict[Any, Reader] = {
    Any: read_untyped,
    str: read_text,
    bool: read_boolean,
    ProtoAny: _read_any_message,
    TaskDef: _read_task_def,
}


def _read_definition(value: Any) -> Any:
    """``SubWorkflowParams.setWorkflowDefinition``: an expression, or a map that becomes a WorkflowDef."""
    if isinstance(value, dict):
        return _bean_reader(WorkflowDef)(_settled(value))
    if value is None or (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    return refuse(value, "a workflow definition")


def _settled(value: Any) -> Any:
    """By then numbers have been read once: their text is no longer the one stored, but Java's."""
    if isinstance(value, dict):
        return {key: _settled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_settled(item) for item in value]
    if isinstance(value, Number):
        text = java_double(value.text).strip('"') if value.is_float else str(int(value.text))
        return Number(text, is_float=value.is_float)
    return value
