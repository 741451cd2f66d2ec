"""Convert a task document into the typed ``taskgate.v1.Task``.

The proto schema drives the conversion. At import each field of each message gets a table row: its JSON key, the Python
type of values that can be assigned directly, and a setter for other values. Converting a key is then one lookup and one
assignment.

The comment of ``Task`` in ``protos/taskgate/v1/task.proto`` has the rules and their reasons.
"""

import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.struct_pb2 import Value

from taskgate.base.errors import TaskNotRepresentable
from taskgate.documents.document import check_document, check_text
from taskgate.documents.value_message import FAULTS, MAX_LEVEL, Misfit, at_step, set_value, set_values, too_deep
from taskgate.v1.task_definition_pb2 import TaskDef
from taskgate.v1.task_pb2 import Task
from taskgate.v1.workflow_task_pb2 import WorkflowTask

_TASK_LEVEL = 1
"""The level of ``Task`` in the answer: inside ``GetTaskResponse``."""

_VALUE = Value.DESCRIPTOR.full_name
_ANY = AnyMessage.DESCRIPTOR.full_name
_LIST = WorkflowTask.WorkflowTaskList.DESCRIPTOR.full_name

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    Task.DESCRIPTOR.full_name: {"callback_from_worker": True},
    WorkflowTask.DESCRIPTOR.full_name: {
        "type": "SIMPLE",
        "retry_count": -1,  # Conductor's value for "not given" (``ProtoMapper``)
    },
    TaskDef.DESCRIPTOR.full_name: {
        "retry_count": 3,
        "timeout_policy": TaskDef.TIME_OUT_WF,
        "retry_logic": TaskDef.FIXED,  # protobuf's zero, set because both of its enums always are
        "retry_delay_seconds": 60,
        "response_timeout_seconds": 3600,
        "rate_limit_frequency_in_seconds": 1,
        "backoff_scale_factor": 1,
        "task_status_listener_enabled": True,
    },
}
"""Conductor's defaults (in its classes of the same names) for fields that Conductor always writes, where protobuf's
zero would be wrong if the document lacks the key."""

_REASON = "reasonForIncompletion"

_MAX_DIGITS = 310
"""Longer integers, sign included, are beyond any finite double."""

_MAX_PATH_KEY = 64
_MAX_PATH = 512
"""Characters of a path, which is sent in a header: keys may have any length."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Setter = Callable[[Any, Any, int], None]
"""Sets a field: (message, JSON value, level of the message). Raises one of ``FAULTS``."""

_Field = tuple[str, type | None, Setter]
"""A field's name, the type of values that can be assigned directly, and the setter for all others.

Not a NamedTuple: unpacking one costs three times as much, 30 times a task."""

_Table = dict[str, _Field]
"""Fields by JSON key."""


def task_from_document(document: bytes) -> Task:
    """Convert ``document``, in about a microsecond for each of its values.

    Raises:
        DocumentError: the bytes are not a task document.
        TaskNotRepresentable: ``Task`` cannot hold a value; message and ``metadata["path"]`` say where, not the value.
    """
    values = _parse(document)
    if values.get("status") is None:
        raise _refusal(Misfit("missing", "status"))
    _replace_half_pair(values)
    task = Task()
    try:
        _fill_task(task, values, _TASK_LEVEL)
    except Misfit as misfit:
        raise _refusal(misfit) from misfit
    return task


def _replace_half_pair(values: dict[str, Any]) -> None:
    """Replace half a surrogate pair at the end of the reason by ``?``, as Conductor's own message has it.

    Conductor cuts a long reason at 500 UTF-16 units, perhaps within a pair.
    """
    reason = values.get(_REASON)
    if type(reason) is str and "\ud800" <= reason[-1:] <= "\udbff":
        values[_REASON] = f"{reason[:-1]}?"


def _refusal(misfit: Misfit) -> TaskNotRepresentable:
    path = _path_text(misfit.path)
    return TaskNotRepresentable(
        f"The task cannot be expressed as taskgate.v1.Task: {path}: {misfit.reason}. GetTaskJson returns it exactly",
        path=path,
    )


def _path_text(reversed_path: Sequence[str | int]) -> str:
    """Write a path as ``outputData.headers["content-length"][0]``: printable ASCII of limited length."""
    text = ""
    for step in reversed(reversed_path):
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step) and len(step) <= _MAX_PATH_KEY:
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step[:_MAX_PATH_KEY] + ('...' if len(step) > _MAX_PATH_KEY else ''))}]"
    return text if len(text) <= _MAX_PATH else f"{text[:_MAX_PATH]}..."


# From bytes to Python -------------------------------------------------------------------------------------------------

_parse_json = msgspec.json.Decoder().decode


def _parse(document: bytes) -> dict[str, Any]:
    """Parse the object in ``document``; numbers beyond any double become infinite. Raises DocumentError."""
    check_text(document)
    try:
        values = _parse_json(document)
    except (msgspec.DecodeError, RecursionError):
        # Not JSON, or JSON that msgspec refuses: lone surrogates, numbers beyond any double.
        check_document(document)
        values = json.loads(document, parse_int=_parse_integer)
    if type(values) is not dict:
        check_document(document)
    return values  # type: ignore[no-any-return] # a dict, or check_document has raised


def _parse_integer(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else inf


# From Python to the message -------------------------------------------------------------------------------------------


def _fill(message: Any, table: _Table, values: Mapping[str, Any], level: int) -> None:
    """Set the fields of ``message``, which is at ``level``. Raises Misfit."""
    for key, value in values.items():
        field = table.get(key)
        if field is None or value is None:
            continue
        name, plain, set_field = field
        try:
            if type(value) is plain:
                setattr(message, name, value)
            else:
                set_field(message, value, level)
        except FAULTS as fault:
            raise at_step(fault, key) from fault


def _expected(description: str) -> Misfit:
    return Misfit(f"expected {description}")


def _refusing_setter(description: str) -> Setter:
    """Make a setter for fields that take only plain values."""

    def set_field(message: Any, value: Any, level: int) -> None:
        del message, value, level
        raise _expected(description)

    return set_field


def _whole_number_setter(name: str) -> Setter:
    def set_field(message: Any, value: Any, level: int) -> None:
        del level
        if type(value) is not float or not value.is_integer():
            raise _expected("a whole number")
        setattr(message, name, int(value))

    return set_field


def _enum_setter(name: str, enum: EnumDescriptor) -> Setter:
    numbers = {value.name: value.number for value in enum.values}

    def set_field(message: Any, value: Any, level: int) -> None:
        del level
        number = numbers.get(value) if type(value) is str else None
        if number is None:
            raise _expected(f"one of {', '.join(numbers)}")
        setattr(message, name, number)

    return set_field


def _any_setter(name: str) -> Setter:
    """Make a setter for ``google.protobuf.Any`` from Conductor's own JSON form (``JsonProtoModule``)."""

    def set_field(message: Any, value: Any, level: int) -> None:
        if level + 1 > MAX_LEVEL:
            raise too_deep()
        if type(value) is not dict:
            raise _expected('an object with "@type" and "@value"')
        for key in ("@type", "@value"):
            if type(value.get(key)) is not str:
                raise Misfit("expected a string", key)
        target = getattr(message, name)
        try:
            target.type_url = value["@type"]
        except FAULTS as fault:
            raise at_step(fault, "@type") from fault
        try:
            target.value = binascii.a2b_base64(value["@value"], strict_mode=True)
        except ValueError as fault:
            raise Misfit("expected base64", "@value") from fault

    return set_field


def _value_setter(name: str) -> Setter:
    def set_field(message: Any, value: Any, level: int) -> None:
        if level + 1 > MAX_LEVEL:
            raise too_deep()
        set_value(getattr(message, name), value, level + 1)

    return set_field


def _value_map_setter(name: str) -> Setter:
    def set_field(message: Any, value: Any, level: int) -> None:
        if type(value) is not dict:
            raise _expected("an object")
        if value:
            set_values(getattr(message, name), value, level)

    return set_field


def _text_map_setter(name: str) -> Setter:
    def set_field(message: Any, value: Any, level: int) -> None:
        if type(value) is not dict:
            raise _expected("an object")
        if level + bool(value) > MAX_LEVEL:  # the map's entries
            raise too_deep()
        target = getattr(message, name)
        for key, text in value.items():
            if type(text) is not str:
                raise Misfit("expected a string", key)
            try:
                target[key] = text
            except FAULTS as fault:
                raise at_step(fault, key) from fault

    return set_field


def _texts_setter(name: str) -> Setter:
    def set_field(message: Any, value: Any, level: int) -> None:
        del level
        if type(value) is not list:
            raise _expected("a list")
        if not value:
            return
        target = getattr(message, name)
        for text in value:
            if type(text) is not str:
                raise Misfit("expected a string", len(target))
            try:
                target.append(text)
            except FAULTS as fault:
                raise at_step(fault, len(target)) from fault

    return set_field


def _message_setter(name: str, descriptor: Descriptor) -> Setter:
    fill = _filler(descriptor)

    def set_field(message: Any, value: Any, level: int) -> None:
        fill(getattr(message, name), value, level + 1)

    return set_field


def _messages_setter(name: str, descriptor: Descriptor) -> Setter:
    fill = _filler(descriptor)

    def set_field(message: Any, value: Any, level: int) -> None:
        if type(value) is not list:
            raise _expected("a list")
        if not value:
            return
        target = getattr(message, name)
        for item in value:
            try:
                fill(target.add(), item, level + 1)
            except FAULTS as fault:
                raise at_step(fault, len(target) - 1) from fault

    return set_field


def _message_map_setter(name: str, descriptor: Descriptor) -> Setter:
    fill = _filler(descriptor)

    def set_field(message: Any, value: Any, level: int) -> None:
        if type(value) is not dict:
            raise _expected("an object")
        if not value:
            return
        target = getattr(message, name)
        for key, item in value.items():
            try:
                fill(target[key], item, level + 2)  # the map's entry, and the message in it
            except FAULTS as fault:
                raise at_step(fault, key) from fault

    return set_field


# The table ------------------------------------------------------------------------------------------------------------

_PLAIN = {
    FieldDescriptor.TYPE_STRING: (str, "a string"),
    FieldDescriptor.TYPE_BOOL: (bool, "true or false"),
    FieldDescriptor.TYPE_INT32: (int, ""),
    FieldDescriptor.TYPE_INT64: (int, ""),
}

_fillers: dict[str, Setter] = {}


def _filler(descriptor: Descriptor) -> Setter:
    """Return the function that fills a message of this type: (message, JSON value, level of the message)."""
    name = descriptor.full_name
    if name not in _fillers:
        table: _Table = {}
        make = _list_filler if name == _LIST else _object_filler
        _fillers[name] = make(table, tuple(_DEFAULTS.get(name, {}).items()))
        # After the filler is registered: a message may hold others of its own type.
        table.update((field.json_name, _field(field)) for field in descriptor.fields)
    return _fillers[name]


def _object_filler(table: _Table, defaults: Sequence[tuple[str, Any]]) -> Setter:
    def fill(message: Any, value: Any, level: int) -> None:
        if level > MAX_LEVEL:
            raise too_deep()
        if type(value) is not dict:
            raise _expected("an object")
        message.SetInParent()
        for name, default in defaults:
            setattr(message, name, default)
        _fill(message, table, value, level)

    return fill


def _list_filler(table: _Table, defaults: Sequence[tuple[str, Any]]) -> Setter:
    """Return the filler of a message that wraps a bare list."""
    del defaults

    def fill(message: Any, value: Any, level: int) -> None:
        if level > MAX_LEVEL:
            raise too_deep()
        _, _, set_field = table["tasks"]
        set_field(message, value, level)

    return fill


def _field(field: FieldDescriptor) -> _Field:
    if field.message_type is not None:
        return field.name, None, _message_field_setter(field, field.message_type)
    if field.is_repeated:
        return field.name, None, _texts_setter(field.name)
    if field.enum_type is not None:
        return field.name, None, _enum_setter(field.name, field.enum_type)
    plain, description = _PLAIN[field.type]
    return field.name, plain, _whole_number_setter(field.name) if plain is int else _refusing_setter(description)


def _message_field_setter(field: FieldDescriptor, held: Descriptor) -> Setter:
    if held.GetOptions().map_entry:
        return _map_setter(field.name, held.fields_by_name["value"].message_type)
    if field.is_repeated:
        return _messages_setter(field.name, held)
    if held.full_name == _VALUE:
        return _value_setter(field.name)
    if held.full_name == _ANY:
        return _any_setter(field.name)
    return _message_setter(field.name, held)


def _map_setter(name: str, held: Descriptor | None) -> Setter:
    if held is None:
        return _text_map_setter(name)
    return _value_map_setter(name) if held.full_name == _VALUE else _message_map_setter(name, held)


_fill_task = _filler(Task.DESCRIPTOR)
