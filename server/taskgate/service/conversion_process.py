"""Convert large values in a process of its own, one at a time, until the server closes its socket.

Converting 10 MB of small values takes half a second for a document and two seconds for a typed task, and as much again
for the garbage collector. Most of that holds the interpreter lock: in the server's process it would delay every other
call, and the supervisor would take the server for hung. A separate process delays no other call, and can be killed when
its callers have left.

The wire format on the socket is a header of fixed size and its payload: ``_REQUEST`` with the task ID and the stored
value; ``_ANSWER`` with the result or, as JSON, a refusal. A refusal of kind ``InternalError`` holds a traceback.
"""

import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
from contextlib import suppress

import msgspec

from taskgate.base.errors import (
    DocumentTooLarge,
    DocumentUnreadable,
    InternalError,
    TaskgateError,
    TaskNotFound,
    TaskNotRepresentable,
)
from taskgate.base.gc_freeze import freeze_startup_objects
from taskgate.documents.conversion import Conversion, Converted, convert
from taskgate.documents.masking import Masking

_REQUEST = struct.Struct("!cHQ")
"""The conversion, the length of the task ID and of the stored value in bytes."""
_ANSWER = struct.Struct("!??Q")
"""Whether it is a result, whether that is cacheable, and its length in bytes."""

_REFUSALS = {kind.__name__: kind for kind in (DocumentTooLarge, TaskNotRepresentable)}
_REFUSALS_BY_ID = {kind.__name__: kind for kind in (DocumentUnreadable, TaskNotFound)}
"""Refusals that are made from the task ID alone."""


class ConversionEndedError(Exception):
    """The process ended before it answered."""


class ConversionFailedError(Exception):
    """The conversion raised an unexpected error, and would again. The text is its traceback, for the log only."""


class _Refusal(msgspec.Struct):
    kind: str
    message: str
    metadata: dict[str, str]


class ConversionProcess:
    """A running conversion process. Call ``end`` and then ``wait`` to stop it."""

    def __init__(self, python: str, masking: Masking | None = None) -> None:
        """Start the process with the interpreter ``python``. Raises OSError if it cannot be started."""
        patterns = () if masking is None else masking.patterns
        self._ended = False
        self._socket, child_end = socket.socketpair()
        with child_end:
            try:
                # Not asyncio's subprocess: its child watcher is missing inside Envoy, where the loop is not in the main
                # thread.
                self._process = subprocess.Popen(
                    # JSON, which is ASCII here, whatever the locale. Patterns are no secret: they are flags.
                    [python, "-m", "taskgate.service.conversion_process", json.dumps(patterns)],
                    stdin=child_end.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    process_group=0,  # keeps Ctrl-C away from it, so that calls can finish first
                )
            except OSError:
                self._socket.close()
                raise

    def convert(self, conversion: Conversion, task_id: str, stored: bytes) -> Converted:
        """Run ``conversion.convert`` in the process; block, mostly without the interpreter lock.

        Raises:
            ConversionEndedError: the process ended, perhaps by ``end`` in another thread.
            ConversionFailedError: the conversion has a bug; the process keeps running.
            TaskgateError: what ``conversion.convert`` raised.
        """
        name = task_id.encode()
        try:
            self._socket.sendall(_REQUEST.pack(conversion.value, len(name), len(stored)) + name)
            self._socket.sendall(stored)
            done, cacheable, length = _ANSWER.unpack(_receive_exactly(self._socket, _ANSWER.size))
            answer = _receive_exactly(self._socket, length)
        except (OSError, EOFError) as error:
            raise ConversionEndedError from error
        if done:
            return Converted(answer, cacheable)
        refusal = msgspec.json.decode(answer, type=_Refusal)
        if refusal.kind == InternalError.__name__:
            raise ConversionFailedError(refusal.message)
        if refusal.kind in _REFUSALS_BY_ID:
            raise _REFUSALS_BY_ID[refusal.kind](task_id)
        raise _REFUSALS[refusal.kind](refusal.message, **refusal.metadata)

    @property
    def alive(self) -> bool:
        """Whether it runs and has not been ended."""
        return not self._ended and self._process.poll() is None

    def end(self) -> None:
        """Kill the process at once; a running ``convert`` raises ConversionEndedError."""
        self._ended = True
        self._process.kill()
        with suppress(OSError):  # the process may have closed its end first
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Wait until the process has exited. Call it once, after ``end``."""
        self._socket.close()
        self._process.wait()


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    """Receive ``length`` bytes, in one piece where the kernel can: joining megabytes holds the interpreter lock.

    Raises:
        EOFError: the other end closed first.
    """
    parts = []
    while length:
        part = connection.recv(length, socket.MSG_WAITALL)
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _environment() -> dict[str, str]:
    """Copy the environment with the same module path, without the variables that load Python into Envoy."""
    left_out = {"LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "PYTHONHOME"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONSAFEPATH": "1"}


def main() -> None:
    """Convert values from standard input, which is a socket, until it is closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # service managers send it to all processes; let calls finish first
    patterns = json.loads(sys.argv[1])
    masking = Masking(patterns) if patterns else None
    gc.disable()  # only errors leave cycles; they are collected after each answer
    freeze_startup_objects()
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        try:
            while True:
                _convert_one(connection, masking)
                gc.collect()
        except MemoryError:
            os._exit(1)  # the server sees the socket close, and answers the waiting calls
        except (EOFError, OSError):  # the server has ended
            os._exit(0)  # a normal exit would free all memory first, and close standard input a second time


def _convert_one(connection: socket.socket, masking: Masking | None) -> None:
    conversion, name_length, length = _REQUEST.unpack(_receive_exactly(connection, _REQUEST.size))
    task_id = _receive_exactly(connection, name_length).decode()
    stored = _receive_exactly(connection, length)
    done = cacheable = False
    try:
        answer, cacheable = convert(Conversion(conversion), task_id, stored, masking)
        done = True
    except TaskgateError as error:
        answer = msgspec.json.encode(_Refusal(type(error).__name__, error.message, error.metadata))
    except MemoryError:  # this process cannot be trusted any more
        raise
    except Exception:  # noqa: BLE001 - another process would fail alike; the server logs the traceback
        text = traceback.format_exc().encode(errors="backslashreplace").decode()
        answer = msgspec.json.encode(_Refusal(InternalError.__name__, text, {}))
    del stored  # free megabytes before sending
    connection.sendall(_ANSWER.pack(done, cacheable, len(answer)))
    connection.sendall(answer)


if __name__ == "__main__":
    main()
