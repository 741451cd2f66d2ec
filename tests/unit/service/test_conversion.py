"""Large rows and typed tasks, converted in a process of their own."""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from support.documents import task
from taskgate.base.errors import DocumentTooLarge, DocumentUnreadable, Overloaded, TaskgateError, TaskNotRepresentable
from taskgate.documents.conversion import Conversion, Converted, convert
from taskgate.documents.masking import Masking
from taskgate.service import large_conversions
from taskgate.service.conversion_process import ConversionFailedError, ConversionProcess
from taskgate.service.large_conversions import LargeConversions
from taskgate.v1.task_pb2 import Task

ID, OTHER_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1", "65fc73fe-0586-11f1-8b8d-6219b54da7f2"
ROW = task(ID, outputData={f"key {number}": [number, None, "é😀", 1e9] for number in range(100)})
TO_DOCUMENT = Conversion.ROW_TO_DOCUMENT
MASKING = Masking(["key [1-4]*", "Größe"])


@pytest_asyncio.fixture
async def conversions() -> AsyncIterator[LargeConversions]:
    opened = LargeConversions(sys.executable, masking=MASKING)
    yield opened
    await opened.close()


def process_of(conversions: LargeConversions) -> psutil.Process:
    assert conversions._process is not None
    return psutil.Process(conversions._process._process.pid)


async def until_running(conversions: LargeConversions) -> None:
    for _ in range(3):  # turns of the loop: the caller's, and one for what takes up its call
        await asyncio.sleep(0)
    assert conversions._running


async def stuck(conversions: LargeConversions) -> tuple[psutil.Process, asyncio.Task[Converted]]:
    """A process that stands still, and the caller whose conversion it does not do."""
    await conversions.convert(TO_DOCUMENT, ID, ROW)
    process = process_of(conversions)
    process.suspend()
    caller = asyncio.create_task(conversions.convert(TO_DOCUMENT, ID, ROW))
    await until_running(conversions)
    return process, caller


async def leave(caller: asyncio.Task[Converted]) -> None:
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


@pytest.mark.parametrize("conversion", Conversion)
async def test_result_is_what_this_process_makes(conversions: LargeConversions, conversion: Conversion) -> None:
    here, there = convert(conversion, ID, ROW, MASKING), await conversions.convert(conversion, ID, ROW)
    if conversion.name.endswith("_TASK"):  # protobuf leaves the order of map entries open
        assert Task.FromString(there.answer) == Task.FromString(here.answer)
    else:
        assert there == here
    assert (b"***" in there.answer) is ("MASKED" in conversion.name)


@pytest.mark.parametrize(
    ("kind", "conversion", "stored"),
    [
        (DocumentUnreadable, Conversion.DOCUMENT_TO_TASK, b"[]"),
        (DocumentUnreadable, Conversion.ROW_TO_DOCUMENT, b"{"),
        (DocumentUnreadable, Conversion.ROW_TO_TASK, b""),
        (TaskNotRepresentable, Conversion.DOCUMENT_TO_TASK, task(ID, retryCount="three")),
        (TaskNotRepresentable, Conversion.ROW_TO_TASK, task(ID, outputData={"a": 10**400})),
        (DocumentTooLarge, Conversion.ROW_TO_TASK, task(ID, outputData={"a": "😀" * 2_800_000})),  # 12 bytes each
    ],
)
async def test_refusal_has_the_same_words_and_place(
    conversions: LargeConversions, kind: type[TaskgateError], conversion: Conversion, stored: bytes
) -> None:
    with pytest.raises(kind) as here:
        convert(conversion, ID, stored)
    with pytest.raises(kind) as there:
        await conversions.convert(conversion, ID, stored)
    assert (there.value.message, there.value.metadata) == (here.value.message, here.value.metadata)
    assert await conversions.convert(TO_DOCUMENT, ID, ROW)


async def test_missing_interpreter_is_an_error_for_every_call_and_blocks_none() -> None:
    conversions = LargeConversions("/nowhere/python")
    for _ in range(2):
        with pytest.raises(OSError, match="nowhere"):
            await conversions.convert(TO_DOCUMENT, ID, ROW)
    await conversions.close()


async def test_stuck_conversion_ends_with_its_callers_deadline(conversions: LargeConversions) -> None:
    """And with it the process; the next one has its turn, in another."""
    await conversions.convert(TO_DOCUMENT, ID, ROW)
    process = process_of(conversions)
    process.suspend()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await conversions.convert(TO_DOCUMENT, ID, ROW)
    assert await conversions.convert(TO_DOCUMENT, ID, ROW)
    assert not process.is_running()


async def test_running_conversion_ends_when_its_last_caller_leaves(conversions: LargeConversions) -> None:
    large = task(ID, outputData={f"k{number}": {"a": [number]} for number in range(100_000)})
    await conversions.convert(TO_DOCUMENT, ID, ROW)
    process = process_of(conversions)
    caller = asyncio.create_task(conversions.convert(Conversion.ROW_TO_TASK, ID, large))
    await until_running(conversions)
    await leave(caller)
    assert await conversions.convert(TO_DOCUMENT, OTHER_ID, task(OTHER_ID))
    assert not process.is_running()


async def test_equal_values_that_wait_are_converted_once(conversions: LargeConversions) -> None:
    """Equal to the byte, whose bytes are no longer held twice; one that runs already is not shared."""
    process, first = await stuck(conversions)
    changed = task(ID, seq=7)
    callers = [asyncio.create_task(conversions.convert(TO_DOCUMENT, ID, bytes(bytearray(ROW)))) for _ in range(10)]
    others = [asyncio.create_task(conversions.convert(TO_DOCUMENT, ID, changed)) for _ in range(2)]
    others.append(asyncio.create_task(conversions.convert(TO_DOCUMENT, OTHER_ID, changed)))
    typed = asyncio.create_task(conversions.convert(Conversion.ROW_TO_TASK, ID, ROW))
    await asyncio.sleep(0)
    assert [len(job.callers) for job in conversions._waiting] == [10, 2, 1, 1]
    assert conversions._waiting_bytes == 2 * len(ROW) + 2 * len(changed)
    process.resume()
    assert {*await asyncio.gather(first, *callers)} == {convert(TO_DOCUMENT, ID, ROW)}
    assert {*await asyncio.gather(*others)} == {convert(TO_DOCUMENT, ID, changed)}
    assert Task.FromString((await typed).answer)
    assert conversions._waiting_bytes == 0


async def test_who_leaves_takes_nothing_from_those_who_stay(conversions: LargeConversions) -> None:
    """Who waits with others, who waits alone, and at last the one whose conversion is stuck."""
    _, first = await stuck(conversions)
    alone = asyncio.create_task(conversions.convert(TO_DOCUMENT, OTHER_ID, task(OTHER_ID)))
    leaver, stayer = (asyncio.create_task(conversions.convert(TO_DOCUMENT, ID, ROW)) for _ in range(2))
    await asyncio.sleep(0)
    await leave(leaver)
    await leave(alone)
    assert conversions._waiting_bytes == len(ROW)
    assert not stayer.done()
    await leave(first)
    assert await stayer == convert(TO_DOCUMENT, ID, ROW)


async def test_queue_is_bounded(conversions: LargeConversions, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes; more is refused at once as overload, and taken again when the queue is shorter."""
    monkeypatch.setattr(large_conversions, "MAX_WAITING_BYTES", len(ROW) + 10)
    process, first = await stuck(conversions)
    waiting = [asyncio.create_task(conversions.convert(TO_DOCUMENT, ID, ROW)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="large tasks wait"):
        await conversions.convert(TO_DOCUMENT, OTHER_ID, task(OTHER_ID))
    process.resume()
    await asyncio.gather(first, *waiting)
    assert await conversions.convert(TO_DOCUMENT, OTHER_ID, task(OTHER_ID))


async def test_process_that_is_killed_fails_no_call(conversions: LargeConversions) -> None:
    """What it had is done once more, and what waits has its turn; nothing is noticed of one that had nothing."""
    process, first = await stuck(conversions)
    waiting = asyncio.create_task(conversions.convert(TO_DOCUMENT, OTHER_ID, task(OTHER_ID)))
    await asyncio.sleep(0)
    process.kill()
    assert await first == convert(TO_DOCUMENT, ID, ROW)
    assert await waiting
    idle = process_of(conversions)
    idle.kill()
    await asyncio.to_thread(idle.wait, 10)
    assert await conversions.convert(TO_DOCUMENT, ID, ROW)


@pytest.fixture
def little_memory(tmp_path: Path) -> str:
    """An interpreter that has enough memory for small tasks, and counts how often it is started."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho >> {tmp_path}/starts\nulimit -v 250000\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    return str(python)


async def test_task_that_ends_every_process_is_refused_and_may_be_tried_later(
    little_memory: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After two, and for a while without a third: others have their turn. The refusal says that it may be retried."""
    conversions = LargeConversions(little_memory)
    starts = Path(little_memory).with_name("starts")
    huge = task(ID, outputData={"values": []}).replace(b'"values":[]', b'"values":[%s{}]' % (b'{"a":[1]},' * 1_000_000))
    for _ in range(2):
        with pytest.raises(Overloaded, match=f"Task {ID} is large.*killed.*try again later") as refused:
            await conversions.convert(TO_DOCUMENT, ID, huge)
        assert refused.value.status.retryable
        assert len(starts.read_text()) == 2
    assert await conversions.convert(TO_DOCUMENT, OTHER_ID, task(OTHER_ID))
    monkeypatch.setattr(large_conversions, "monotonic", lambda: time.monotonic() + large_conversions.REFUSED_SECONDS)
    with pytest.raises(Overloaded):
        await conversions.convert(TO_DOCUMENT, ID, huge)
    assert len(starts.read_text()) == 4  # the process of the other task had the first try
    await conversions.close()
    assert "Traceback" not in capfd.readouterr().err


async def test_given_up_conversions_cost_others_nothing_once_they_may_be_tried_again(
    conversions: LargeConversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept to be compared with, for which the bytes of every large value would be hashed."""
    for name in (ID, OTHER_ID):
        conversions._refuse_for_now(large_conversions._Job(TO_DOCUMENT, name, ROW))
    with pytest.raises(Overloaded):
        await conversions.convert(TO_DOCUMENT, ID, ROW)
    monkeypatch.setattr(large_conversions, "monotonic", lambda: time.monotonic() + large_conversions.REFUSED_SECONDS)
    conversions._refuse_for_now(large_conversions._Job(TO_DOCUMENT, ID, ROW))  # once more, and now the youngest
    assert await conversions.convert(TO_DOCUMENT, OTHER_ID, ROW)
    assert len(conversions._refused) == 1
    with pytest.raises(Overloaded):
        await conversions.convert(TO_DOCUMENT, ID, ROW)


async def test_fault_in_a_conversion_is_no_shortage_and_ends_no_process(tmp_path: Path) -> None:
    """It would come again, so it is tried once; what it was comes with it, for the log. Others have their turn."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/faulty.py "$3"\n')
    python.chmod(0o700)
    (tmp_path / "faulty.py").write_text(
        "from taskgate.service import conversion_process\n"
        "convert = conversion_process.convert\n"
        "def fail(conversion, task_id, stored, masking):\n"
        "    if stored == b'fault':\n"
        "        raise RecursionError('one \\udcff fault')\n"
        "    return convert(conversion, task_id, stored, masking)\n"
        "conversion_process.convert = fail\n"
        "conversion_process.main()\n"
    )
    conversions = LargeConversions(str(python))
    await conversions.convert(TO_DOCUMENT, ID, ROW)
    process = process_of(conversions)
    with pytest.raises(ConversionFailedError, match=r"(?s)Traceback.*in fail.*RecursionError: one .udcff fault"):
        await conversions.convert(TO_DOCUMENT, ID, b"fault")
    assert await conversions.convert(TO_DOCUMENT, ID, ROW)
    assert process_of(conversions).pid == process.pid
    await conversions.close()


async def test_refusal_names_no_more_of_a_long_id_than_headers_take(tmp_path: Path) -> None:
    """In its message and in its metadata, which gRPC clients read from 8 KB of headers."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o700)
    conversions = LargeConversions(str(python))
    with pytest.raises(Overloaded, match=r"Task x+… is large") as refused:
        await conversions.convert(TO_DOCUMENT, "x" * 8000, ROW)
    assert len(refused.value.message) < 1500
    assert refused.value.metadata["task_id"] == "x" * 1024 + "…"
    await conversions.close()


async def test_process_that_cannot_be_started_now_may_be_tried_later(conversions: LargeConversions) -> None:
    """No file is left, as under a low ``ulimit -n``; once there is one, the conversion is done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))  # noqa: PTH208 - only how many
    try:
        with pytest.raises(Overloaded):
            await conversions.convert(TO_DOCUMENT, ID, ROW)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await conversions.convert(TO_DOCUMENT, ID, ROW)


async def test_process_that_is_being_ended_is_given_nothing(conversions: LargeConversions) -> None:
    """Its last caller left in the moment between its answer and the event loop's turn."""
    await conversions.convert(TO_DOCUMENT, ID, ROW)
    assert conversions._process is not None
    conversions._process.end()
    assert await conversions.convert(TO_DOCUMENT, ID, ROW)


async def test_process_without_work_is_ended() -> None:
    conversions = LargeConversions(sys.executable, idle_seconds=0)
    await conversions.convert(TO_DOCUMENT, ID, ROW)
    process = process_of(conversions)
    await asyncio.to_thread(process.wait, 10)
    assert await conversions.convert(TO_DOCUMENT, ID, ROW)
    await conversions.close()


async def test_closing_ends_the_process_and_cancels_who_waits(conversions: LargeConversions) -> None:
    process, first = await stuck(conversions)
    waiting = asyncio.create_task(conversions.convert(TO_DOCUMENT, OTHER_ID, task(OTHER_ID)))
    await asyncio.sleep(0)
    await conversions.close()
    for caller in (first, waiting):
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert not process.is_running()


def test_process_goes_on_when_all_are_told_to_end_and_ends_with_its_server() -> None:
    """Ctrl-C and a service manager's SIGTERM reach every process, while calls are still to be finished."""
    process = ConversionProcess(sys.executable)
    assert process.convert(TO_DOCUMENT, ID, ROW)
    process._process.send_signal(signal.SIGTERM)
    assert os.getpgid(process._process.pid) != os.getpgid(0)
    assert process.convert(TO_DOCUMENT, ID, ROW)
    process._socket.close()  # as the kernel does for a server that was killed
    assert process._process.wait(10) == 0
    process.wait()
