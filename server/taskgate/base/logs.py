"""Structured logs on standard error: JSON lines for machines, coloured text on a terminal."""

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal, TextIO

import msgspec
import structlog

from taskgate.base.log_writer import LogWriter
from taskgate.base.printable import printable, printable_lines

CallLog = Callable[[str, str, float, str, str, bool, str], None]
"""Write the line of one call: method, status, milliseconds, request ID, task ID, whether the server is at fault, and
the private text of an error, or "".

The task ID must be printable ASCII, the request ID characters that JSON needs no escapes for.
"""

_FLUSH_AFTER = 0.1
"""Seconds that a call's line may wait for others; a killed process loses at most the lines of this time."""

_FLUSH_LINES = 256

_LoggedCall = tuple[str, str, float, str, str, bool, str, float]
"""The arguments of ``CallLog``, and the time."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure_logs(
    level: str, log_format: Literal["auto", "json", "console"], *, stream: BinaryIO | None = None
) -> None:
    """Set up structlog for this process.

    ``level`` is debug, info, warning or error. Lines go to ``stream``, by default standard error: standard output is
    for the results of commands.
    """
    output = stream or sys.stderr.buffer
    console = log_format == "console" or (log_format == "auto" and output.isatty())
    number = getattr(logging, level.upper())
    writer = LogWriter(output.fileno(), _lost_line_on_console if console else _lost_line)
    _state.writer = writer
    _state.output = output  # keeps the stream open: it closes with its last reference
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    _state.call_lines = None if console else _CallLines(writer, info=number <= logging.INFO)
    structlog.configure(
        processors=[
            *shared,
            _printable_values,
            structlog.dev.ConsoleRenderer(colors=output.isatty(), exception_formatter=_write_exception),
            _to_bytes,
        ]
        if console
        else [
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: _encode(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(_Stream(writer)),  # type: ignore[arg-type] # see _Stream
        cache_logger_on_first_use=True,
    )


def log_of_calls() -> CallLog:
    """Return the function that logs a call. For JSON it bypasses structlog, at a tenth of the time."""
    if _state.call_lines is not None:
        return _state.call_lines.write
    log = structlog.get_logger("taskgate.calls").bind()  # resolved once, not for every call

    def write(  # noqa: PLR0917 - see CallLog
        method: str, code: str, milliseconds: float, request_id: str, task_id: str, fault: bool, error: str = ""
    ) -> None:
        (log.warning if fault else log.info)(
            "call",
            method=method,
            code=code,
            duration_ms=milliseconds,
            request_id=request_id,
            task_id=task_id,
            **({"error": error} if error else {}),
        )

    return write


def flush_logs() -> None:
    """Write all waiting lines before the process ends; wait at most a second for a slow reader."""
    if _state.call_lines is not None:
        _state.call_lines.flush()
    if _state.writer is not None:
        _state.writer.flush()


class _Stream:
    """The part of a binary stream's interface that structlog uses."""

    def __init__(self, writer: LogWriter) -> None:
        self.write = writer.write

    def flush(self) -> None:
        """Do nothing: the writer's thread flushes."""


class _CallLines:
    """Format calls as JSON lines like structlog's, and write many of them at a time."""

    def __init__(self, writer: LogWriter, *, info: bool) -> None:
        self._writer = writer
        self._info = info
        self._waiting: list[_LoggedCall] = []
        self._flush: asyncio.TimerHandle | None = None
        self._second = 0
        self._second_text = ""

    def write(  # noqa: PLR0917 - see CallLog
        self, method: str, code: str, milliseconds: float, request_id: str, task_id: str, fault: bool, error: str = ""
    ) -> None:
        """Log a call (see ``CallLog``): a server fault at once, any other within ``_FLUSH_AFTER`` seconds."""
        if not fault and not self._info:
            return
        self._waiting.append((method, code, milliseconds, request_id, task_id, fault, error, time.time()))
        if fault or len(self._waiting) >= _FLUSH_LINES:
            self.flush()
        elif self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(_FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Pass all waiting lines to the writer."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._waiting:
            self._writer.write("".join(map(self._line, self._waiting)).encode())
            self._waiting.clear()

    def _line(self, call: _LoggedCall) -> str:
        method, code, milliseconds, request_id, task_id, fault, error, at = call
        member = f'"error":{_encode(error).decode()},' if error else ""
        return (
            f'{{"method":"{method}","code":"{code}","duration_ms":{milliseconds},"request_id":"{request_id}",'
            f'"task_id":{_encode(task_id).decode()},{member}"event":"call","level":"{"warning" if fault else "info"}",'
            f'"timestamp":"{self._timestamp(at)}"}}\n'
        )

    def _timestamp(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((now - second) * 1_000_000):06d}Z"


def _lost_line(lines: int) -> bytes:
    event = {"lines": lines, "event": _LOST, "level": "warning", "timestamp": _timestamp()}
    return bytes(_encode(event)) + b"\n"


def _lost_line_on_console(lines: int) -> bytes:
    return f"{_timestamp()} [warning  ] {_LOST} lines={lines}\n".encode()


def _timestamp() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


_LOST = "log lines were lost: the reader of the log was too slow"


class _State:
    call_lines: _CallLines | None = None
    writer: LogWriter | None = None
    output: BinaryIO | None = None


_state = _State()


def _printable_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _write_exception(stream: TextIO, exc_info: Any) -> None:
    """Write a traceback without local variables, which may be secrets; control characters are escaped."""
    stream.write(printable_lines("".join(traceback.format_exception(*exc_info)).rstrip("\n")))


def _to_bytes(_logger: Any, _name: str, line: Any) -> bytes:
    return str(line).encode(errors="backslashreplace")
