"""Log lines of calls: one shape, written in batches, a fault at once."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from support.lateness import in_time
from taskgate.base import logs
from taskgate.base.log_writer import ATOMIC_BYTES, MAX_WAITING_BYTES, LogWriter
from taskgate.service.audit import read_denied


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        logs.configure_logs("info", "json", stream=stream)
        yield path
    structlog.reset_defaults()
    logs._state.call_lines = None


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_denied_read_is_logged_at_every_level(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        logs.configure_logs("error", "json", stream=stream)
        read_denied(request_id="r", caller="c", task_id="t", reason="why", peer=("192.0.2.1", 1))
        logs.flush_logs()
    structlog.reset_defaults()
    (line,) = lines(path)
    assert (line["event"], line["level"], line["address"]) == ("read denied", "warning", "192.0.2.1")


async def test_line_of_a_call_has_the_shape_of_all_lines(log_file: Path) -> None:
    logs.log_of_calls()("/method", "OK", 0.25, "request", 'id "quoted"\\', False)
    logs.flush_logs()
    (line,) = lines(log_file)
    stamp = str(line.pop("timestamp"))
    assert line == {
        "method": "/method",
        "code": "OK",
        "duration_ms": 0.25,
        "request_id": "request",
        "task_id": 'id "quoted"\\',
        "event": "call",
        "level": "info",
    }
    structlog.get_logger().info("other")
    logs.flush_logs()
    other = str(lines(log_file)[1]["timestamp"])
    assert (len(stamp), stamp[:14]) == (len(other), other[:14])


async def test_lines_wait_for_each_other_but_not_long(log_file: Path) -> None:
    write = logs.log_of_calls()
    for number in range(3):
        write("/method", "OK", 0.1, str(number), "id", False)
    assert lines(log_file) == []
    async with asyncio.timeout(5):
        while len(lines(log_file)) < 3:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.02)
    assert [line["request_id"] for line in lines(log_file)] == ["0", "1", "2"]


async def test_fault_is_written_at_once_and_in_order(log_file: Path) -> None:
    write = logs.log_of_calls()
    write("/method", "OK", 0.1, "first", "id", False)
    write("/method", "INTERNAL", 0.1, "second", "id", True)
    assert logs._state.writer is not None
    logs._state.writer.flush()  # not what waits for others: nothing does
    assert [(line["request_id"], line["level"]) for line in lines(log_file)] == [
        ("first", "info"),
        ("second", "warning"),
    ]


async def test_log_line_of_a_call_is_dropped_without_a_reader_and_the_call_continues() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing, nothing_lost)
    logs._CallLines(writer, info=True).write("/method", "INTERNAL", 0.1, "id", "id", True)
    writer.flush()
    os.close(writing)


async def test_level_above_info_leaves_only_faults(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        writer = LogWriter(stream.fileno(), nothing_lost)
        quiet = logs._CallLines(writer, info=False)
        quiet.write("/method", "OK", 0.1, "id", "id", False)
        quiet.write("/method", "INTERNAL", 0.1, "id", "id", True)
        writer.flush()
    assert [line["code"] for line in lines(path)] == ["INTERNAL"]


def test_writer_to_a_reader_that_is_gone_raises_nothing() -> None:
    """A collector that crashed costs lines, never calls or the supervision of workers."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as stream:
        logs.configure_logs("info", "json", stream=stream)
        structlog.get_logger("taskgate.test").error("anybody there?")
        logs.flush_logs()
        structlog.reset_defaults()
        logs._state.call_lines = None


def nothing_lost(lines: int) -> bytes:
    raise AssertionError(f"{lines} lines were lost")


def test_writing_does_not_wait_for_a_reader_that_stops() -> None:
    """Lines beyond what is kept for it are lost, and counted once it reads again."""
    reading, writing = os.pipe()
    writer = LogWriter(writing, lambda lines: b"lost %d\n" % lines)
    line = b"x" * 999 + b"\n"
    written = 3 * MAX_WAITING_BYTES // len(line)
    with in_time(5):  # and not for ever
        for _ in range(written):
            writer.write(line)
    writer.flush(0.1)
    read = lost = 0
    with os.fdopen(reading, "rb") as stream:
        while read + lost < written:
            found = stream.readline()
            if found.startswith(b"lost"):
                lost += int(found[5:])
            else:
                assert found == line
                read += 1
            if read == 10:
                writer.write(line)  # whatever was lost is told with the next line
                written += 1
    assert lost
    os.close(writing)


def test_lines_of_two_processes_do_not_get_into_each_other(tmp_path: Path) -> None:
    """Also where the reader reads odd amounts, and where another process made the pipe non-blocking."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writers = [LogWriter(writing, nothing_lost) for _ in range(2)]
    lines = [letter * length + b"\n" for letter in (b"a", b"b") for length in range(1, 400)]
    for number, writer in enumerate(writers):
        for _ in range(10):
            writer.write(b"".join(lines[number::2]))
    read = b""
    while len(read) < 10 * len(b"".join(lines)):
        read += os.read(reading, 777)
    assert sorted(read.splitlines(keepends=True)) == sorted(lines * 10)
    os.close(reading)
    os.close(writing)


def test_line_that_is_longer_than_a_pipe_takes_at_once_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [b"short\n", b"x" * (3 * ATOMIC_BYTES) + b"\n", b"y" * ATOMIC_BYTES + b"\n", b"short\n"]
    with path.open("wb") as stream:
        writer = LogWriter(stream.fileno(), nothing_lost)
        writer.write(b"".join(lines))
        writer.flush()
    assert path.read_bytes() == b"".join(lines)
