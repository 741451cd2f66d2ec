"""What a caller may see: reads that are denied by workflow type, and reads that are masked."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID, compact, task
from support.turns import turns
from taskgate.base.errors import DocumentTooLarge, Overloaded, PermissionDenied, TaskNotFound
from taskgate.base.layout import Layout
from taskgate.base.task_id import TaskIdFormat
from taskgate.documents import conversion
from taskgate.documents.document import MAX_DOCUMENT_BYTES
from taskgate.documents.masking import Masking
from taskgate.documents.task_message import task_from_document
from taskgate.service import tasks
from taskgate.service.calls import Call, LargeAnswer, build_handlers
from taskgate.service.endpoints import GET_TASK_JSON, build_document_endpoint, build_endpoints
from taskgate.service.in_flight import COUNTED_BYTES, MIN_LIMIT_BYTES, InFlight
from taskgate.service.tasks import TaskService
from taskgate.service.view import View
from taskgate.v1.task_pb2 import Task
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

LAYOUTS = pytest.mark.parametrize("layout", list(Layout))
SIZES = pytest.mark.parametrize("size", [0, 100_000, 2_200_000], ids=["small", "large", "huge"])
METHODS = ("get_task_json", "get_task")

BILLING = View(frozenset({"billing"}), masked=False)
ALL = View(None, masked=False)
MASKED = View(None, masked=True)


class Store:
    """Has these documents."""

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self.documents = documents

    async def get_document(self, task_id: str) -> bytes | None:
        await turns()
        return self.documents.get(task_id)

    async def check(self) -> None: ...

    async def close(self) -> None: ...

    def abandon(self, read: asyncio.Task[bytes | None]) -> None: ...


@asynccontextmanager
async def serving(documents: Mapping[str, bytes], **options: Any) -> AsyncIterator[TaskService]:
    service = TaskService(Store(documents), TaskIdFormat.ANY, **options)
    try:
        yield service
    finally:
        await service.close()


async def read(service: TaskService, method: str, view: View | None, task_id: str = DOCUMENTED_ID) -> bytes:
    """The answer; its room is given back."""
    call = Call("", "", view=view)
    try:
        answer: bytes = await getattr(service, method)(task_id, call)
    finally:
        if call.room is not None:
            call.room.release()
    return answer


@LAYOUTS
@SIZES
async def test_tasks_of_other_workflow_types_are_denied(layout: Layout, size: int) -> None:
    """By both methods. A task whose type cannot be told is denied; one that does not exist is not found."""
    filler = {"outputData": {"a": "x" * size}}
    documents = {"mine": task("mine", workflowType="billing", **filler)}
    first = b'{"workflowType":"billing",'
    documents |= {
        "other": task("other", workflowType="payroll", **filler),
        "none": task("none", workflowType=None, **filler),
        "two": first + documents["mine"].replace(b'"billing"', b'"payroll"')[1:],
        "number": task("number", workflowType=1, **filler),
        "text": b'"billing"' + b" " * size,
        "broken": first + b'"a":"' + b"x" * size,
        "empty": b"",
    }
    in_flight = InFlight(MIN_LIMIT_BYTES, own_bytes=0)
    async with serving(documents, layout=layout, in_flight=in_flight) as service:
        for method in METHODS:
            expected = await read(service, method, ALL, "mine")
            assert await read(service, method, BILLING, "mine") == expected
            for task_id in documents.keys() - {"mine"}:
                with pytest.raises(PermissionDenied) as denied:
                    await read(service, method, BILLING, task_id)
                assert (denied.value.message, denied.value.metadata) == ("The key may not read this task", {})
            with pytest.raises(TaskNotFound):
                await read(service, method, BILLING, UNKNOWN_ID)
    assert in_flight.used == 0


async def test_errors_do_not_say_how_large_a_task_is_that_may_be_of_another_type() -> None:
    """Neither that it is over the limit nor how many bytes found no room."""
    documents = {"beyond": bytes(MAX_DOCUMENT_BYTES + 1), "large": task("large", workflowType="x" * 1_234_567)}
    in_flight = InFlight(MIN_LIMIT_BYTES, own_bytes=0, wait_seconds=0.1)
    async with serving(documents, in_flight=in_flight) as service:
        with pytest.raises(PermissionDenied):
            await read(service, "get_task_json", BILLING, "beyond")
        full = in_flight.room(Call("", ""))
        assert full.take("full", bytes(MIN_LIMIT_BYTES))
        with pytest.raises(Overloaded, match=r"^Overloaded: large answers take all the room; try again$") as refused:
            await read(service, "get_task_json", BILLING, "large")
        assert refused.value.metadata == {"limit": "in_flight_bytes_of_server"}
        full.release()
    assert in_flight.used == 0


async def test_each_denied_read_is_in_the_audit_log() -> None:
    """With the request, the task and the caller's address. Neither a task ID nor a type can forge a line."""
    task_id = "a\u202eb"
    async with serving({task_id: task(task_id, workflowType="pay\nroll" * 50), "mine": DOCUMENTED}) as service:
        with structlog.testing.capture_logs() as logged:
            endpoints = {**build_endpoints(service), "": build_document_endpoint(service)}
            handlers = build_handlers(endpoints, request_timeout=5)
            request = GetTaskJsonRequest(task_id=task_id).SerializeToString()
            for path, payload in ((GET_TASK_JSON, request), ("", task_id.encode())):
                call = Call(path, "request-7", caller="billing", peer=("192.0.2.1", 5), view=BILLING)
                with pytest.raises(PermissionDenied):
                    await handlers[path](call, payload)
            await handlers[""](Call("", "request-8"), b"mine")
    lines = [line for line in logged if line["event"] == "read denied"]
    assert lines == 2 * [
        {
            "event": "read denied",
            "log_level": "warning",
            "request_id": "request-7",
            "caller": "billing",
            "task_id": r"'a\u202eb'",
            "reason": r"it is of workflow type '" + (r"pay\nroll" * 8) + "'",
            "address": "192.0.2.1",
        }
    ]


def secrets(size: int) -> bytes:
    values = {"password": ["hunter2"], "a": [{"api_Token": 1, "kept": "x" * size}], "b": [{"c": 1.0}] * (size // 500)}
    return task(DOCUMENTED_ID, inputData=values, outputData={"password": None})


def hidden(document: bytes) -> bytes:
    return (
        document.replace(b'"password":["hunter2"]', b'"password":"***"')
        .replace(b'"api_Token":1', b'"api_Token":"***"')
        .replace(b'"password":null', b'"password":"***"')
    )


@LAYOUTS
@SIZES
async def test_both_forms_of_a_task_are_masked_alike(layout: Layout, size: int) -> None:
    """For callers without a role or with a masked view. Others get the stored bytes, whatever was answered before."""
    mask = ["password", "*token*"]
    in_flight = InFlight(MIN_LIMIT_BYTES, own_bytes=0)
    async with serving({DOCUMENTED_ID: secrets(size)}, layout=layout, mask=mask, in_flight=in_flight) as service:
        for _ in range(2):  # the second answers come from the cache
            plain = await read(service, "get_task_json", ALL)
            masked = hidden(plain)
            assert masked != plain
            assert masked.count(b'"***"') == 3
            for view in (None, MASKED):
                assert await read(service, "get_task_json", view) == masked
                assert Task.FromString(await read(service, "get_task", view)) == task_from_document(masked)
            assert Task.FromString(await read(service, "get_task", ALL)) == task_from_document(plain)
    assert in_flight.used == 0


@SIZES
async def test_document_without_such_a_key_is_answered_as_it_is(size: int) -> None:
    document = b" " + json.dumps(json.loads(secrets(size)), indent=2).encode() + b"\n"
    async with serving({DOCUMENTED_ID: document}, mask=["credential"]) as service:
        assert await read(service, "get_task_json", None) == document


async def test_masked_answers_are_counted_at_their_own_size() -> None:
    """Masking may shorten or lengthen a document across the size from which answers are counted."""
    long = task(DOCUMENTED_ID, inputData={"password": "x" * COUNTED_BYTES})
    short = task(DOCUMENTED_ID, inputData={"a": [{"password": 1}] * 4300})
    assert len(short) > COUNTED_BYTES
    shorter = compact({"inputData": [{"password": 1}] * 4000})
    assert len(shorter) < COUNTED_BYTES
    for document in (long, short, shorter):
        in_flight = InFlight(MIN_LIMIT_BYTES, own_bytes=0)
        async with serving({DOCUMENTED_ID: document}, mask=["password"], in_flight=in_flight) as service:
            call = Call("", "")
            answer = await service.get_task_json(DOCUMENTED_ID, call)
            assert in_flight.used == (len(answer) if call.room else 0)
            assert call.room is not None or len(answer) <= COUNTED_BYTES
            if call.room is not None:
                call.room.release()
            assert in_flight.used == 0


async def test_document_that_masking_makes_too_large_is_refused() -> None:
    """A mask may be longer than the value."""
    numbers = b",".join([b'{"pin":1}'] * 100)
    document = b'{"inputData":[' + numbers + b'],"a":"' + b"x" * (MAX_DOCUMENT_BYTES - 1200) + b'"}'
    assert len(document) < MAX_DOCUMENT_BYTES
    async with serving({DOCUMENTED_ID: document}, mask=["pin"]) as service:
        with pytest.raises(DocumentTooLarge):
            await read(service, "get_task_json", None)
        assert await read(service, "get_task_json", ALL) == document


@LAYOUTS
async def test_large_documents_are_masked_and_judged_in_another_process(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it would stop the event loop for a moment, this process does neither."""

    def fail(*_: object) -> None:
        pytest.fail("in the process of the event loop")

    monkeypatch.setattr(Masking, "apply", fail)
    monkeypatch.setattr(tasks, "workflow_type_of", fail)
    monkeypatch.setattr(conversion, "workflow_type_of", fail)
    document = task(DOCUMENTED_ID, workflowType="billing", inputData={"rows": [{"password": 1}] * 10_000})
    view = View(frozenset({"billing"}), masked=True)
    async with serving({DOCUMENTED_ID: document}, mask=["password"], layout=layout) as service:
        assert (await read(service, "get_task_json", view)).count(b'"password":"***"') == 10_000
        rows = Task.FromString(await read(service, "get_task", view)).input_data["rows"].list_value.values
        assert {row.struct_value.fields["password"].string_value for row in rows} == {"***"}


async def test_answer_with_room_is_sent_in_parts() -> None:
    """A masked document is a large answer like any other."""
    async with serving({DOCUMENTED_ID: secrets(100_000)}, mask=["password"]) as service:
        call = Call("", "")
        request = GetTaskJsonRequest(task_id=DOCUMENTED_ID).SerializeToString()
        answer = await build_endpoints(service)[GET_TASK_JSON](call, request)
        assert isinstance(answer, LargeAnswer)
        assert call.room is not None
        call.room.release()
