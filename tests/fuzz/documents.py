"""Documents: the check, minifying, masking, the workflow type and the typed task."""

import fnmatch
import json
import math
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from fuzz.target import JSON_WORDS, Target
from support.documents import DOCUMENTED, DOCUMENTED_COMPACT
from taskgate.base.errors import TaskNotRepresentable
from taskgate.documents.document import DocumentError, check_document, minify
from taskgate.documents.masking import Masking
from taskgate.documents.task_message import task_from_document
from taskgate.documents.workflow_type import workflow_type_of
from taskgate.v1.task_pb2 import Task

PATTERNS = ("password", "*token*", "_[ab]?")
MASKING = Masking(PATTERNS)

Pairs = list[tuple[str, Any]]


class _Object(Pairs):
    """The members of an object, duplicates included."""


def _parse(document: bytes) -> Any:
    """The document as another parser reads it: numbers as their text, objects as their members."""
    return json.loads(document, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number)


class _Number(str):
    __slots__ = ()


def accepted(document: bytes) -> bool:
    """Whether ``document`` is one; a refusal is one short sentence."""
    try:
        check_document(document)
    except DocumentError as refused:
        assert 0 < len(str(refused)) < 300
        return False
    return True


def _masked(value: Any, *, within: bool, level: int = 0) -> Any:
    """Mask what ``_parse`` returned."""
    if isinstance(value, _Object):
        members = _Object()
        for key, item in value:
            payload = level == 0 and key in {"inputData", "outputData"} and isinstance(item, list)
            if within and any(fnmatch.fnmatchcase(_ascii_lower(key), pattern) for pattern in PATTERNS):
                members.append((key, "***"))
            else:
                members.append((key, _masked(item, within=within or payload, level=level + 1)))
        return members
    if isinstance(value, list):
        return [_masked(item, within=within, level=level + 1) for item in value]
    return value


def _ascii_lower(text: str) -> str:
    return "".join(character.lower() if character.isascii() else character for character in text)


def check_any(data: bytes) -> None:
    """A document that is accepted is JSON for another parser too, and stays the same without its whitespace.

    Its masked form is a document in which the values of matching keys, and no others, are hidden.
    """
    named = workflow_type_of(data)
    if not accepted(data):
        return
    parsed = _parse(data)
    assert isinstance(parsed, _Object)
    small = minify(data)
    assert accepted(small)
    assert _parse(small) == parsed
    assert minify(small) == small
    types = {value if type(value) is str else None for key, value in parsed if key == "workflowType"}
    assert named == (types.pop() or None if len(types) == 1 else None)
    masked = MASKING.apply(data)
    assert accepted(masked)
    assert _parse(masked) == _masked(parsed, within=False)
    assert MASKING.apply(masked) == masked


def type_any(data: bytes) -> None:
    """A document is typed or refused with the place of the fault. Typed, it has what REST has."""
    try:
        task = task_from_document(data)
    except DocumentError:
        assert not accepted(data)
        return
    except TaskNotRepresentable as refused:
        assert accepted(data)
        assert refused.message.isascii()
        assert refused.message.isprintable()
        assert len(refused.message) < 1000
        return
    assert accepted(data)
    wire = task.SerializeToString(deterministic=True)
    assert Task.FromString(wire).SerializeToString(deterministic=True) == wire
    document = json.loads(data, parse_int=float)
    assert task.task_id == (document.get("taskId") or "")
    assert Task.Status.Name(task.status) == document["status"]
    for key, held in (("inputData", task.input_data), ("outputData", task.output_data)):
        assert {name: _plain(value) for name, value in held.items()} == (document.get(key) or {})
    masked = task_from_document(MASKING.apply(data))
    for held in (masked.input_data, masked.output_data):
        for name, value in held.items():
            if MASKING._hides(json.dumps(name)[1:-1].encode()):
                assert value.string_value == "***"


def _plain(value: Value) -> Any:
    if value.WhichOneof("kind") == "number_value":
        assert math.isfinite(value.number_value)
        return value.number_value
    return json_format.MessageToDict(value)


_SECRETS = b'{"status":"FAILED","workflowType":"a","inputData":{"Password":{"a":[1]},"b":[{"x_token":"\\"}"}]}}'
_KEYS = [f'"{field.json_name}":'.encode() for field in Task.DESCRIPTOR.fields]
_WORDS = (
    *(*JSON_WORDS, *_KEYS, b'"status":"COMPLETED"', b'"password":', b'"_ax":', rb'"pass\u0077ord":', "\u017f".encode()),
    *(b'"@type":"t"', b'"@value":"AA=="', b'"workflowType":"a"', rb'"\u0077orkflowType":', rb'"input\u0044ata":'),
)
_SEEDS = (DOCUMENTED, DOCUMENTED_COMPACT, _SECRETS, b'{"status":"COMPLETED"}', b"{}", b"[]", b'{"a":"\\ud800"}')

TARGETS = (
    Target("document", check_any, _SEEDS, _WORDS, 16_384),
    Target("typed_task", type_any, _SEEDS, _WORDS, 16_384),
)
