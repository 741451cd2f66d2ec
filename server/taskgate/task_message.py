"""A task document as the typed ``taskgate.v1.Task``.

The proto schema is the table: for every field of every message, its JSON key and the function that stores a JSON value
in it are worked out once, at import. Converting is then one dictionary lookup and one call for each key of the document
(33 µs for the documented task; nested constructors take twice, ``json_format`` four times as long).

What the schema cannot hold is refused with the place, never rounded, cut or left at zero; the one stated exception are
integers beyond 2^53 in payload maps, which become the nearest double. Keys without a field are left out.
"""

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from taskgate.document import check_document
from taskgate.errors import TaskNotRepresentable
from taskgate.v1.task_pb2 import Task

PARSER_LEVELS = 100
"""Levels of messages below the outermost one that protobuf parsers accept by default (C++, Java, Python)."""

_TASK_LEVEL = 1
"""``Task`` is inside ``GetTaskResponse``."""

Setter = Callable[[Any, Any, int], None]
"""Stores a JSON value in a message: (message, value, level of the message); raises ``_Misfit``."""


class _Misfit(Exception):
    """A value has no place in its field; ``path`` grows, innermost part first, on the way out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str | int] = []


def task_from_document(document: bytes) -> Task:
    """The document as a ``Task``.

    Raises:
        DocumentError: the bytes are not a JSON object at all.
        TaskNotRepresentable: a value has no place in ``Task``; the message and ``metadata["path"]`` say where.
    """
    values = _load(document)
    task = Task()
    try:
        if values.get("status") is None:
            misfit = _Misfit("a task needs a status")
            misfit.path.append("status")
            raise misfit
        _fill_task(task, values, _TASK_LEVEL)
    except _Misfit as misfit:
        path = _path(misfit.path)
        raise TaskNotRepresentable(
            f"The task cannot be expressed as taskgate.v1.Task: {path}: {misfit.reason}. GetTaskJson returns it exactly",
            path=path,
        ) from misfit
    return task


def _load(document: bytes) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not JSON, or one of the legal things msgspec does not take: lone surrogates, numbers beyond a double.
        check_document(document)
        values = json.loads(document, parse_int=_integer)
    if not isinstance(values, dict):
        check_document(document)
    return values


def _integer(digits: str) -> int | float:
    """An int where a double could hold it roughly; else infinity, which every field refuses."""
    return int(digits) if len(digits) <= sys_float_digits else math.inf


sys_float_digits = 310


def _path(reversed_parts: list[str | int]) -> str:
    """``outputData.list[3].key``; keys are escaped, since a document may hold any."""
    path = ""
    for part in reversed(reversed_parts):
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part if part.isprintable() else ascii(part)[1:-1]
            path += f".{name}" if path else name
    return path


# Leaves: one function for each kind of value ------------------------------------------------------------------------


def _scalar(field: FieldDescriptor, check: Callable[[Any], Any]) -> Setter:
    name = field.name

    def store(message: Any, value: Any, level: int) -> None:
        del level
        try:
            setattr(message, name, check(value))
        except ValueError as error:
            raise _Misfit(_value_reason(error, field)) from error

    return store


def _value_reason(error: ValueError, field: FieldDescriptor) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "the text is not Unicode (a lone surrogate)"
    return f"the number is outside the range of {'int32' if field.type == field.TYPE_INT32 else 'int64'}"


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _Misfit("expected a string")
    return value


def _whole_number(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise _Misfit("expected a whole number")


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise _Misfit("expected true or false")
    return value


def _enum(enum: EnumDescriptor) -> Callable[[Any], int]:
    numbers = {value.name: value.number for value in enum.values}

    def number(value: Any) -> int:
        try:
            return numbers[value]
        except (KeyError, TypeError) as error:
            raise _Misfit(f"expected one of {', '.join(numbers)}") from error

    return number


def _set_value(target: Any, value: Any, level: int) -> None:
    """Store any JSON value in a ``google.protobuf.Value`` that is ``level`` messages deep."""
    kind = type(value)
    if kind is str:
        try:
            target.string_value = value
        except UnicodeEncodeError as error:
            raise _Misfit("the text is not Unicode (a lone surrogate)") from error
    elif kind is int or kind is float:
        _set_number(target, value)
    elif kind is bool:
        target.bool_value = value
    elif value is None:
        target.null_value = 0
    elif kind is dict:
        _set_struct(target.struct_value, value, level + 1)
    else:
        _set_list(target.list_value, value, level + 1)


def _set_number(target: Any, value: float) -> None:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Misfit("the number is beyond what a double can hold")
    target.number_value = number


def _set_struct(target: Any, value: dict[str, Any], level: int) -> None:
    if not value:
        target.SetInParent()
        _check_level(level)
        return
    _check_level(level + 2)
    _fill_value_map(target.fields, value, level + 2)


def _set_list(target: Any, value: list[Any], level: int) -> None:
    if not value:
        target.SetInParent()
        _check_level(level)
        return
    _check_level(level + 1)
    add = target.values.add
    for index, item in enumerate(value):
        try:
            _set_value(add(), item, level + 1)
        except _Misfit as misfit:
            misfit.path.append(index)
            raise


def _fill_value_map(fields: Any, value: dict[str, Any], level: int) -> None:
    for key, item in value.items():
        try:
            _set_value(fields[key], item, level)
        except _Misfit as misfit:
            misfit.path.append(key)
            raise
        except UnicodeEncodeError as error:
            misfit = _Misfit("the key is not Unicode (a lone surrogate)")
            misfit.path.append(key)
            raise misfit from error


def _check_level(level: int) -> None:
    if level > PARSER_LEVELS:
        raise _Misfit("nested deeper than protobuf parsers accept")


# Fields that hold messages ------------------------------------------------------------------------------------------


def _message(field: FieldDescriptor) -> Setter:
    """A field that holds one message of ours, a ``Value`` or an ``Any``."""
    name = field.name
    kind = field.message_type.full_name
    if kind == "google.protobuf.Value":
        return lambda message, value, level: _set_value(getattr(message, name), value, level + 1)
    if kind == "google.protobuf.Any":
        return lambda message, value, level: _set_any(getattr(message, name), value)
    fill = _filler(field.message_type)

    def store(message: Any, value: Any, level: int) -> None:
        target = getattr(message, name)
        target.SetInParent()
        fill(target, value, level + 1)

    return store


def _set_any(target: Any, value: Any) -> None:
    """Conductor's own JSON of an Any, ``{"@type": type URL, "@value": base64}`` (contract section 1.4)."""
    try:
        target.type_url = _text(value["@type"])
        target.value = base64.b64decode(_text(value["@value"]), validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise _Misfit('expected {"@type": "...", "@value": "base64"}') from error


def _map(field: FieldDescriptor) -> Setter:
    """A map from strings to ``Value``, to strings, or to lists of messages."""
    name = field.name
    held = field.message_type.fields_by_name["value"]
    if held.message_type is not None and held.message_type.full_name == "google.protobuf.Value":

        def store_values(message: Any, value: Any, level: int) -> None:
            _expect(value, dict)
            _check_level(level + 2)
            _fill_value_map(getattr(message, name), value, level + 2)

        return store_values

    fill_list = _list_filler(held.message_type) if held.message_type is not None else None

    def store(message: Any, value: Any, level: int) -> None:
        target = getattr(message, name)
        for key, item in _expect(value, dict).items():
            try:
                if fill_list is None:
                    target[key] = _text(item)
                else:
                    fill_list(target[key], item, level + 2)
            except _Misfit as misfit:
                misfit.path.append(key)
                raise
            except UnicodeEncodeError as error:
                misfit = _Misfit("the text is not Unicode (a lone surrogate)")
                misfit.path.append(key)
                raise misfit from error

    return store


def _repeated(field: FieldDescriptor) -> Setter:
    """A list of strings, of messages, or of lists of messages."""
    name = field.name
    if field.message_type is None:

        def add(target: Any, item: Any, level: int) -> None:
            del level
            try:
                target.append(_text(item))
            except UnicodeEncodeError as error:
                raise _Misfit("the text is not Unicode (a lone surrogate)") from error

    elif (fill_list := _list_filler(field.message_type)) is not None:

        def add(target: Any, item: Any, level: int) -> None:
            fill_list(target.add(), item, level + 1)

    else:
        fill = _filler(field.message_type)

        def add(target: Any, item: Any, level: int) -> None:
            fill(target.add(), item, level + 1)

    def store(message: Any, value: Any, level: int) -> None:
        target = getattr(message, name)
        for index, item in enumerate(_expect(value, list)):
            try:
                add(target, item, level)
            except _Misfit as misfit:
                misfit.path.append(index)
                raise

    return store


def _list_filler(descriptor: Descriptor) -> Setter | None:
    """For a message that only wraps a list (``WorkflowTaskList``; JSON has the plain array), what fills it."""
    if [field.name for field in descriptor.fields] != ["tasks"]:
        return None
    return _repeated(descriptor.fields[0])


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise _Misfit("expected an object" if kind is dict else "expected a list")
    return value


# Messages: the table, and the loop that uses it ---------------------------------------------------------------------

_DEFAULTS: dict[str, dict[str, Any]] = {
    "taskgate.v1.Task": {"callback_from_worker": True},
    # Conductor's gRPC sends -1 for "not given" (contract section 2.3).
    "taskgate.v1.WorkflowTask": {"retry_count": -1},
    # Conductor's own defaults (contract section 1.6).
    "taskgate.v1.TaskDef": {
        "retry_count": 3,
        "retry_delay_seconds": 60,
        "response_timeout_seconds": 3600,
        "timeout_policy": 1,
        "backoff_scale_factor": 1,
        "task_status_listener_enabled": True,
    },
}
"""Values of fields without presence whose zero value would say something that the document does not."""

_fillers: dict[str, Setter] = {}


def _filler(descriptor: Descriptor) -> Setter:
    """What fills a message of this type from a JSON object. Types may hold themselves, so the table is bound late."""
    known = _fillers.get(descriptor.full_name)
    if known is not None:
        return known
    setters: dict[str, Setter] = {}
    defaults = tuple(_DEFAULTS.get(descriptor.full_name, {}).items())

    def fill(message: Any, value: Any, level: int) -> None:
        _check_level(level)
        for name, default in defaults:
            setattr(message, name, default)
        for key, item in _expect(value, dict).items():
            store = setters.get(key)
            if store is None or item is None:
                continue
            try:
                store(message, item, level)
            except _Misfit as misfit:
                misfit.path.append(key)
                raise

    _fillers[descriptor.full_name] = fill
    for field in descriptor.fields:
        setters[field.json_name] = _setter(field)
    return fill


def _setter(field: FieldDescriptor) -> Setter:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map(field)
    if field.is_repeated:
        return _repeated(field)
    if field.message_type is not None:
        return _message(field)
    checks: dict[int, Callable[[Any], Any]] = {
        FieldDescriptor.TYPE_STRING: _text,
        FieldDescriptor.TYPE_INT32: _whole_number,
        FieldDescriptor.TYPE_INT64: _whole_number,
        FieldDescriptor.TYPE_BOOL: _truth,
    }
    return _scalar(field, _enum(field.enum_type) if field.enum_type is not None else checks[field.type])


_fill_task = _filler(Task.DESCRIPTOR)
