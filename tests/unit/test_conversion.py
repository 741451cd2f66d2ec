"""Large typed tasks, converted in a process of their own."""

import asyncio
import sys
import time

import psutil
import pytest

from support.documents import task
from taskgate.conversion import LargeConversions
from taskgate.document import DocumentError
from taskgate.errors import TaskNotRepresentable
from taskgate.task_message import task_from_document
from taskgate.v1.task_pb2 import Task

ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"


async def test_message_is_what_the_conversion_in_this_process_makes() -> None:
    document = task(ID, outputData={f"key {number}": [number, None, "é"] for number in range(100)})
    converted = await LargeConversions(sys.executable).convert(document)
    assert Task.FromString(converted) == task_from_document(document)


async def test_refusal_has_the_same_words_and_place() -> None:
    document = task(ID, retryCount="three")
    with pytest.raises(TaskNotRepresentable) as here:
        task_from_document(document)
    with pytest.raises(TaskNotRepresentable) as there:
        await LargeConversions(sys.executable).convert(document)
    assert (there.value.message, there.value.metadata) == (here.value.message, here.value.metadata)


async def test_bytes_that_are_no_document_are_refused() -> None:
    with pytest.raises(DocumentError, match="not a JSON object"):
        await LargeConversions(sys.executable).convert(b"[]")


async def test_interpreter_that_is_not_there_is_an_error_and_blocks_nobody() -> None:
    conversions = LargeConversions("/nowhere/python")
    for _ in range(2):
        with pytest.raises(OSError, match="nowhere"):
            await conversions.convert(b"{}")


async def test_conversion_that_nobody_waits_for_is_ended() -> None:
    """Its process is gone soon after the caller has cancelled, and the next one has its turn."""
    conversions = LargeConversions(sys.executable)
    document = task(ID, outputData={f"k{number}": {"a": [number]} for number in range(300_000)})
    others = set(psutil.Process().children())  # systems that other tests have started
    running = asyncio.create_task(conversions.convert(document))
    await asyncio.sleep(0.5)  # on purpose: it has begun
    assert set(psutil.Process().children()) - others
    running.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 1
    assert not set(psutil.Process().children()) - others
    assert await conversions.convert(task(ID))
