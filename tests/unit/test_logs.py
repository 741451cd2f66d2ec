"""Log lines of calls: one shape, written in batches, a fault at once."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from taskgate import logs


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        logs.configure_logs("info", "json", stream=stream)
        yield path
    structlog.reset_defaults()
    logs._state.lines = None


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    assert [(line["request_id"], line["level"]) for line in lines(log_file)] == [
        ("first", "info"),
        ("second", "warning"),
    ]


async def test_log_that_nobody_reads_breaks_no_call() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    unread = logs._Lines(writing, info=True)
    unread.write("/method", "INTERNAL", 0.1, "id", "id", True)
    os.close(writing)


async def test_level_above_info_leaves_only_faults(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        quiet = logs._Lines(stream.fileno(), info=False)
        quiet.write("/method", "OK", 0.1, "id", "id", False)
        quiet.write("/method", "INTERNAL", 0.1, "id", "id", True)
    assert [line["code"] for line in lines(path)] == ["INTERNAL"]


def test_log_that_nobody_reads_fails_nobody() -> None:
    """A collector that crashed costs lines, never calls or the supervision of workers."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as stream:
        logs.configure_logs("info", "json", stream=stream)
        structlog.get_logger("taskgate.test").error("anybody there?")
        structlog.reset_defaults()
        logs._state.lines = None
