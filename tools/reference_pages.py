"""Pages of Markdown about the messages, methods and errors in ``protos/``, made of the protos' comments."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from tools.openapi_schemas import PACKAGE, cleaned, elements

_FILES = ("task_service", "token_service", "task", "workflow_task", "task_definition")
"""What is called first, then what it returns."""

_ERRORS = "error_reason"
_MADE = "<!-- Made of protos/taskgate/v1 by `make protos`. Edit the comments there. -->\n"
_SCALARS = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}
_INTRODUCTION = """\
The package `taskgate.v1`, as its [protos](../protos/taskgate/v1/task_service.proto) say it. For REST there is the
[OpenAPI document](../gateway/openapi.json), which every server shows at `/docs`.
"""
_PREFIX = "ERROR_REASON_"
_CALLED = (ServiceDescriptorProto, MethodDescriptorProto)
_STATUS = re.compile(r"^([A-Z_]+) · (\d{3}) · (.+)$", re.DOTALL)
_FIRST_CLAUSE = re.compile(r"[;:.]\s|\.$| that ")
_CODE = re.compile(r"`[^`]+`")
_COLUMNS = 120


@dataclass(frozen=True)
class Element:
    """A message, field, enum, value, service or method, with its full name and its comment."""

    name: str
    comment: str
    descriptor: Any


class Reference:
    """Makes the pages of a descriptor set that has its source. Raises ValueError for a comment of another form."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        self._files: dict[str, list[Element]] = {}
        for file in descriptors.file:
            if f".{file.package}." != PACKAGE:
                continue
            comments = {tuple(at.path): cleaned(at.leading_comments) for at in file.source_code_info.location}
            self._files[file.name.rpartition("/")[2].removesuffix(".proto")] = [
                Element(name.removeprefix(PACKAGE), comments.get(tuple(path), ""), descriptor)
                for name, path, descriptor in elements(file)
            ]
        if set(self._files) != {*_FILES, _ERRORS}:
            raise ValueError(f"name the files of the protos in reference_pages.py: {sorted(self._files)}")
        self._comments = {found.name: found.comment for file in self._files.values() for found in file}
        types = (DescriptorProto, EnumDescriptorProto, ServiceDescriptorProto, MethodDescriptorProto)
        every = [found for name in _FILES for found in self._files[name] if isinstance(found.descriptor, types)]
        self._headed = {found.name for found in every if not _is_map(found.descriptor)}

    def api(self) -> str:
        """The page about services, messages and enums."""
        parts = [_MADE, "# API reference\n", _INTRODUCTION]
        for file in _FILES:
            # A file's service stands before its messages, as readers meet it first.
            for found in sorted(self._files[file], key=lambda found: not isinstance(found.descriptor, _CALLED)):
                parts += self._section(found)
        return "\n".join(parts)

    def errors(self) -> str:
        """The page about every ``ErrorReason``."""
        enum, *values = self._files[_ERRORS]
        reasons = [_Reason.of(value) for value in values[1:]]
        parts = [_MADE, "# Errors\n", self._text(_without_last(enum.comment)) + "\n"]
        parts += ["What gRPC or Envoy refuse by themselves has no reason: [other errors](operating.md#errors).\n"]
        parts += ["Each name begins with `ERROR_REASON_`.\n"]
        parts += ["| reason | gRPC | HTTP | retry |", "|---|---|---|---|"]
        parts += [
            f"| [{reason.short}](#{reason.short.lower()}) | {reason.code} | {reason.http} | {reason.retry} |"
            for reason in reasons
        ]
        for reason in reasons:
            status = f"**{reason.code} · {reason.http}** · {reason.advice}"
            parts += [f"\n## {reason.short}\n", _wrapped(status) + "\n"]
            parts += [self._text(reason.when), "", "```text", reason.example, "```"]
        return "\n".join(parts) + "\n"

    def _section(self, found: Element) -> Iterator[str]:
        descriptor = found.descriptor
        if isinstance(descriptor, ServiceDescriptorProto):
            yield f"## {found.name}\n\n{self._text(found.comment)}\n"
        elif isinstance(descriptor, MethodDescriptorProto):
            yield f"### {found.name}\n\n{_wrapped(self._signature(descriptor))}\n\n{self._text(found.comment)}\n"
        elif isinstance(descriptor, EnumDescriptorProto):
            yield f"### {found.name}\n\n{self._text(found.comment)}\n"
            yield self._values(found.name, descriptor)
        elif isinstance(descriptor, DescriptorProto) and not _is_map(descriptor):
            level = "###" if "." in found.name else "##"
            yield f"{level} {found.name}\n\n{self._text(found.comment)}\n"
            yield self._fields(found.name, descriptor)

    def _signature(self, method: MethodDescriptorProto) -> str:
        stream = "stream of " if method.server_streaming else ""
        parts = [f"Takes {self._type(method.input_type)}", f"returns {stream}{self._type(method.output_type)}"]
        rule = method.options.Extensions[annotations_pb2.http]
        if verb := rule.WhichOneof("pattern"):
            parts.append(f"REST `{verb.upper()} {getattr(rule, verb)}`")
        return " · ".join(parts)

    def _values(self, name: str, enum: EnumDescriptorProto) -> str:
        scope = name.rpartition(".")[0]
        rows = [
            f"| `{value.name}` | {value.number} | {self._in_cell(self._comments[f'{scope}.{value.name}'])} |"
            for value in enum.value
        ]
        return "\n".join(["| value | number | meaning |", "|---|---:|---|", *rows, ""])

    def _fields(self, name: str, message: DescriptorProto) -> str:
        inner = {f"{PACKAGE}{name}.{nested.name}": nested for nested in message.nested_type}
        rows = [
            f"| `{field.name}` | {field.number} | {self._kind(field, inner)} |"
            f" {self._in_cell(self._comments[f'{name}.{field.name}'])} |"
            for field in message.field
        ]
        return "\n".join(["| field | number | type | meaning |", "|---|---:|---|---|", *rows, ""])

    def _kind(self, field: FieldDescriptorProto, inner: dict[str, DescriptorProto]) -> str:
        entry = inner.get(field.type_name)
        if entry is not None and entry.options.map_entry:
            key, value = entry.field
            return f"map of {self._kind(key, {})} to {self._kind(value, {})}"
        kind = _SCALARS.get(field.type) or self._type(field.type_name)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {kind}"
        return f"optional {kind}" if field.proto3_optional else kind

    def _type(self, name: str) -> str:
        plain = name.removeprefix(PACKAGE)
        return f"[{plain}](#{_anchor(plain)})" if plain in self._headed else f"`{name.removeprefix('.')}`"

    def _in_cell(self, comment: str) -> str:
        paragraphs = (" ".join(part.split()) for part in comment.split("\n\n"))
        return self._linked("<br><br>".join(paragraphs).replace("|", r"\|"))

    def _text(self, comment: str) -> str:
        """``comment`` as paragraphs with links."""
        return _wrapped(self._linked(comment))

    def _linked(self, text: str) -> str:
        """``text`` with links at the names that have a heading."""
        return re.sub(r"`([A-Z][A-Za-z_.]+)`", lambda found: self._link(found[1]), text)

    def _link(self, name: str) -> str:
        if name == "ErrorReason":
            return "[`ErrorReason`](errors.md)"
        if name.startswith(_PREFIX):
            return f"[`{name}`](errors.md#{name.removeprefix(_PREFIX).lower()})"
        return f"[`{name}`](api.md#{_anchor(name)})" if name in self._headed else f"`{name}`"


@dataclass(frozen=True)
class _Reason:
    name: str
    when: str
    code: str
    http: str
    advice: str
    example: str

    @classmethod
    def of(cls, value: Element) -> "_Reason":
        paragraphs = value.comment.split("\n\n")
        matches = ((index, _STATUS.match(text)) for index, text in enumerate(paragraphs))
        at, status = next(((index, match) for index, match in matches if match), (len(paragraphs), None))
        if status is None or len(paragraphs) <= at + 1:
            raise ValueError(f"{value.name}: the comment needs a line 'CODE · HTTP · retry' and an example after it")
        example = "\n".join(line.removeprefix("    ") for line in "\n\n".join(paragraphs[at + 1 :]).splitlines())
        advice = " ".join(status[3].split())
        return cls(value.descriptor.name, "\n\n".join(paragraphs[:at]), status[1], status[2], advice, example)

    @property
    def short(self) -> str:
        return self.name.removeprefix(_PREFIX)

    @property
    def retry(self) -> str:
        """The first clause of the advice."""
        return _FIRST_CLAUSE.split(self.advice)[0]


def _wrapped(text: str) -> str:
    """``text`` in lines of up to ``_COLUMNS``; code keeps its spaces and is not divided."""
    return "\n\n".join("\n".join(map(_filled, re.split(r"\n(?=\* )", part))) for part in text.split("\n\n"))


def _filled(part: str) -> str:
    whole = " ".join(_CODE.sub(lambda code: "\0".join(code[0].split()), part).split())
    indent = "  " if part.startswith("* ") else ""
    filled = textwrap.fill(whole, _COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ")


def _without_last(text: str) -> str:
    """``text`` without its last paragraph, which says of what the comments of values consist."""
    return text.rpartition("\n\n")[0]


def _is_map(descriptor: object) -> bool:
    return isinstance(descriptor, DescriptorProto) and descriptor.options.map_entry


def _anchor(heading: str) -> str:
    return heading.lower().replace(".", "")
