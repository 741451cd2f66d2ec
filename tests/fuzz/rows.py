"""Conductor's rows: the decoder, the projection into a document, and the conversions that a server makes of one."""

import json
from pathlib import Path

from fuzz.documents import MASKING, accepted
from fuzz.target import JSON_WORDS, Target
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from taskgate.base.errors import DocumentUnreadable, TaskNotFound, TaskNotRepresentable
from taskgate.documents.conductor import NullRowError, project_task_model
from taskgate.documents.conductor.schema import TaskModel
from taskgate.documents.conversion import Conversion, convert
from taskgate.documents.document import DocumentError, minify

_NOW = 1_770_621_022_078


def project_any(data: bytes) -> None:
    """A row is refused, or it is a document without whitespace, which can be read as a row in its turn.

    The first time, a null may become a default that the row lacked; from then on it is its own answer.
    """
    try:
        document, cacheable = project_task_model(data, _NOW)
    except NullRowError:
        assert data.lstrip().startswith(b"null")
        return
    except DocumentError as refused:
        assert len(str(refused)) < 500
        return
    assert accepted(document)
    assert minify(document) == document
    again, _ = project_task_model(document, _NOW)
    assert not cacheable or project_task_model(again, _NOW).document == again


def convert_any(data: bytes) -> None:
    """Every conversion of any stored bytes ends in an answer or in a documented error."""
    for conversion in Conversion:
        try:
            answer = convert(conversion, DOCUMENTED_ID, data, MASKING).answer
        except (TaskNotFound, DocumentUnreadable, TaskNotRepresentable):
            continue
        if conversion in {Conversion.ROW_TO_DOCUMENT, Conversion.ROW_TO_MASKED_DOCUMENT}:
            assert accepted(answer)


_DATA = Path(__file__).parent.parent / "data"
_RECORDED = [case["row"].encode() for case in json.loads((_DATA / "task_model_rows.json").read_text())]
_KEYS = [f'"{name}":'.encode() for name in TaskModel.__struct_encode_fields__]
_WORDS = (
    *(*JSON_WORDS, *_KEYS, b'"status":"COMPLETED"', b'"subWorkflowId":""', b'" 5 "', b'"+1"', "٣".encode(), b"1e3"),
    *(b'"workflowDefinition":', b'"@type":"t"', b'"@value":"A A=="', b'"${a}"', b"nullx", b'"name":', b'"tasks":[{}]'),
    *(b'"taskDefinition":"t"', b'"inputParameters":', b'"decisionCases":', b'"reasonForIncompletion":"', b"x" * 499),
)
_SEEDS = (*_RECORDED[::3], DOCUMENTED_COMPACT, b"null", b'{"status":"COMPLETED"}')

TARGETS = (
    Target("row", project_any, _SEEDS, _WORDS, 16_384),
    Target("conversion", convert_any, _SEEDS, _WORDS, 16_384),
)
