"""JSON schemas of the messages in ``protos/``, with the protos' comments as descriptions.

The schemas describe the JSON documents that REST serves, which are older than the protos: 64-bit integers are numbers,
and what the protos must wrap (lists of lists, arbitrary JSON) is plain JSON. Sentences of a comment that are about the
typed message alone are left out. Imported documents are served as they are, so any member of theirs may be null.
"""

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

Schema = dict[str, Any]

PACKAGE = ".taskgate.v1."

_TYPED_ONLY = (
    r"Numbers become doubles\b",
    r"REST only\.",
    r"\bon the wire with\b",
    r"Presence is as in `Task`",
    r"\bso 0 always means\b",
    r"-1, Conductor's value for unset",
    r"an empty and a missing map cannot be distinguished",
    r"^(The|In the) REST document\b",
    r"^Always set\b",
    r"^`optional`",
    r"that is not `optional`",
    r"^The name differs from REST's\b",
)
"""Sentences that match one of these are about the typed message."""

_TYPED_CLAUSE = re.compile(r"; Conductor's gRPC then has \w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`-])")
_NAME = re.compile(r"`((?:[A-Za-z]+\.)?[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?:\.[a-z_]+)?)`")
_LINT = re.compile(r"buf:lint:ignore .*")

_INTEGERS = {FieldDescriptorProto.TYPE_INT32: "int32", FieldDescriptorProto.TYPE_INT64: "int64"}
_PLAIN = {FieldDescriptorProto.TYPE_STRING: "string", FieldDescriptorProto.TYPE_BOOL: "boolean"}
_ANY_JSON = ".google.protobuf.Value"
_ANY_MESSAGE = ".google.protobuf.Any"
_LIST = f"{PACKAGE}WorkflowTask.WorkflowTaskList"


class Protos:
    """The messages, enums, methods and comments of a descriptor set that has its source."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        self._comments: dict[str, str] = {}
        self._messages: dict[str, DescriptorProto] = {}
        self._enums: dict[str, EnumDescriptorProto] = {}
        for file in descriptors.file:
            if f".{file.package}." == PACKAGE:
                self._read(file)

    def _read(self, file: FileDescriptorProto) -> None:
        comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
        for name, path, element in elements(file):
            self._comments[name] = cleaned(comments.get(path, ""))
            if isinstance(element, DescriptorProto):
                self._messages[name] = element
            elif isinstance(element, EnumDescriptorProto):
                self._enums[name] = element

    def comment(self, name: str) -> str:
        """The comment of ``name``, such as ``Task.status``, in paragraphs; raises KeyError for an unknown one."""
        return self._comments[PACKAGE + name]

    def summary(self, name: str) -> str:
        """The first paragraph of the comment of ``name``, without what is about the typed message alone."""
        return described(self.comment(name).partition("\n\n")[0])

    def first_sentence(self, name: str) -> str:
        """The first sentence of the comment of ``name``."""
        return _SENTENCE_END.split(self.summary(name))[0]

    def schemas(self, *roots: str, imported: bool = False) -> dict[str, Schema]:
        """The schemas of the messages ``roots`` and of all that they lead to, by component name.

        In what is ``imported`` every member may be null.
        """
        made: dict[str, Schema] = {}
        pending = [PACKAGE + root for root in roots]
        while pending:
            name = pending.pop(0)
            if component(name) in made:
                continue
            if name in self._enums:
                made[component(name)] = self._enum(name)
                continue
            message = self._messages[name]
            made[component(name)] = self._message(name, message, imported=imported)
            pending += [field.type_name for field in self._fields(message) if field.type_name in self._named()]
        return made

    def _named(self) -> set[str]:
        maps = {name for name, message in self._messages.items() if message.options.map_entry}
        return (self._messages.keys() - maps - {_LIST}) | self._enums.keys()

    def _fields(self, message: DescriptorProto) -> Iterator[FieldDescriptorProto]:
        """The fields of ``message``, and those of its maps and lists."""
        for field in message.field:
            yield field
            inner = self._messages.get(field.type_name)
            if inner is not None and (inner.options.map_entry or field.type_name == _LIST):
                yield from self._fields(inner)

    def _enum(self, name: str) -> Schema:
        plain = name.removeprefix(PACKAGE)
        scope = plain.rpartition(".")[0]
        values = [value.name for value in self._enums[name].value]
        lines = [f"* `{value}`: {described(self.comment(f'{scope}.{value}'))}" for value in values]
        return {"type": "string", "description": "\n".join([self.summary(plain), "", *lines]), "enum": values}

    def _message(self, name: str, message: DescriptorProto, *, imported: bool) -> Schema:
        plain = name.removeprefix(PACKAGE)
        properties = {
            field.json_name: self._property(f"{plain}.{field.name}", field, may_be_null=imported)
            for field in sorted(message.field, key=lambda field: field.number)
        }
        return {"type": "object", "description": self.summary(plain), "properties": properties}

    def _property(self, name: str, field: FieldDescriptorProto, *, may_be_null: bool) -> Schema:
        inner = self._messages.get(field.type_name)
        if inner is not None and inner.options.map_entry:
            value: Schema = {"type": "object", "additionalProperties": _or_null(self._value(inner.field[1]))}
        elif field.label == FieldDescriptorProto.LABEL_REPEATED:
            value = {"type": "array", "items": _or_null(self._value(field))}
        else:
            value = self._value(field)
            may_be_null = may_be_null or field.proto3_optional
        return {"description": described(self.comment(name)), **(_or_null(value) if may_be_null else value)}

    def _value(self, field: FieldDescriptorProto) -> Schema:
        """One value of ``field``, without a description; the empty schema is any JSON value."""
        if field.type in _INTEGERS:
            return {"type": "integer", "format": _INTEGERS[field.type]}
        if field.type in _PLAIN:
            return {"type": _PLAIN[field.type]}
        if field.type_name == _ANY_JSON:
            return {}
        if field.type_name == _ANY_MESSAGE:
            return {
                "type": "object",
                "properties": {"@type": {"type": "string"}, "@value": {"type": "string", "contentEncoding": "base64"}},
                "required": ["@type", "@value"],
            }
        if field.type_name == _LIST:
            return {"type": "array", "items": _or_null(self._value(self._messages[_LIST].field[0]))}
        return {"$ref": f"#/components/schemas/{component(field.type_name)}"}


def _or_null(value: Schema) -> Schema:
    """``value``, or null: of what may be absent, and in lists and maps, where Conductor keeps nulls."""
    if not value:
        return value
    if "$ref" in value:
        return {"anyOf": [value, {"type": "null"}]}
    return {**value, "type": [value["type"], "null"]}


def component(name: str) -> str:
    """The name of a schema: ``.taskgate.v1.Task.Status`` is ``TaskStatus``."""
    return name.removeprefix(PACKAGE).replace(".", "")


def described(comment: str) -> str:
    """Return ``comment`` for readers of JSON: in the names of JSON, and without what is about the typed message."""
    paragraphs = [_TYPED_CLAUSE.sub("", " ".join(part.split())) for part in comment.split("\n\n")]
    kept = [[text for text in _SENTENCE_END.split(part) if not _is_typed_only(text)] for part in paragraphs]
    return _NAME.sub(lambda found: f"`{_in_json(found[1])}`", "\n\n".join(" ".join(part) for part in kept if part))


def _is_typed_only(sentence: str) -> bool:
    return any(re.search(pattern, sentence) for pattern in _TYPED_ONLY)


def _in_json(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def cleaned(comment: str) -> str:
    """``comment`` without its indentation, and without what is for linters."""
    lines = (line.removeprefix(" ").rstrip() for line in comment.splitlines())
    return "\n".join(line for line in lines if not _LINT.fullmatch(line)).strip()


def elements(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """Each named element of ``file``: its full name, its path in the source, and its descriptor."""
    for index, message in enumerate(file.message_type):
        yield from _of_message(message, PACKAGE, (4, index))
    for index, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, PACKAGE, (5, index))
    for index, service in enumerate(file.service):
        yield PACKAGE + service.name, (6, index), service
        for number, method in enumerate(service.method):
            yield f"{PACKAGE}{service.name}.{method.name}", (6, index, 2, number), method


def _of_message(message: DescriptorProto, scope: str, path: tuple[int, ...]) -> Iterator[tuple[str, Any, Any]]:
    name = f"{scope}{message.name}"
    yield name, path, message
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, 2, index), field
    for index, inner in enumerate(message.nested_type):
        yield from _of_message(inner, f"{name}.", (*path, 3, index))
    for index, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, f"{name}.", (*path, 4, index))


def _of_enum(enum: EnumDescriptorProto, scope: str, path: tuple[int, ...]) -> Iterator[tuple[str, Any, Any]]:
    yield f"{scope}{enum.name}", path, enum
    for index, value in enumerate(enum.value):
        yield f"{scope}{value.name}", (*path, 2, index), value
