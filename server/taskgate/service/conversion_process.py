"""A process that converts what it is sent, one after the other, until nobody can send any more.

Converting 10 MB of small values takes half a second for a document and two for a typed task, most of it in calls that
keep the interpreter lock, and as much again for the garbage collector where it runs: in the server's own process every
other call would wait, and its supervisor would take it for hung. Here it disturbs nobody, and can be ended when nobody
waits for it any more.

On the wire, a socket, are a header of fixed size and what it announces: ``_REQUEST`` with the task ID and the stored
value, ``_ANSWER`` with the result or, as JSON, a refusal. A refusal of kind ``InternalError`` has a traceback.
"""

import gc
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

_REQUEST = struct.Struct("!cHQ")
"""The conversion, the bytes of the task ID and of the stored value."""
_ANSWER = struct.Struct("!??Q")
"""Whether it is a result, whether that lasts, and its bytes."""

_REFUSALS = {kind.__name__: kind for kind in (DocumentTooLarge, TaskNotRepresentable)}
_REFUSALS_BY_ID = {kind.__name__: kind for kind in (DocumentUnreadable, TaskNotFound)}
"""Those that say nothing but which task it is."""


class ConversionEndedError(Exception):
    """The process has ended before it answered."""


class ConversionFailedError(Exception):
    """The conversion raised what it should not, and would again; the text is the traceback, for the log alone."""


class _Refusal(msgspec.Struct):
    kind: str
    message: str
    metadata: dict[str, str]


class ConversionProcess:
    """One such process, which runs from the start; ``end`` it."""

    def __init__(self, python: str) -> None:
        """``python`` is the interpreter to run. Raises OSError if it cannot be run."""
        self._ended = False
        self._socket, its_own = socket.socketpair()
        with its_own:
            try:
                # Not asyncio's own: it needs a child watcher, which a loop inside Envoy, not in the main thread, lacks.
                self._process = subprocess.Popen(
                    [python, "-m", "taskgate.service.conversion_process"],
                    stdin=its_own.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    process_group=0,  # Ctrl-C goes to the whole group; calls may finish first
                )
            except OSError:
                self._socket.close()
                raise

    def convert(self, conversion: Conversion, task_id: str, stored: bytes) -> Converted:
        """As ``conversion.convert``; blocks, for the most part without the interpreter lock.

        Raises:
            ConversionEndedError: the process is gone, perhaps by ``end`` in another thread.
            ConversionFailedError: a fault of ours; the process goes on.
        """
        name = task_id.encode()
        try:
            self._socket.sendall(_REQUEST.pack(conversion.value, len(name), len(stored)) + name)
            self._socket.sendall(stored)
            done, lasts, length = _ANSWER.unpack(_received(self._socket, _ANSWER.size))
            answer = _received(self._socket, length)
        except (OSError, EOFError) as error:
            raise ConversionEndedError from error
        if done:
            return Converted(answer, lasts)
        refusal = msgspec.json.decode(answer, type=_Refusal)
        if refusal.kind == InternalError.__name__:
            raise ConversionFailedError(refusal.message)
        if refusal.kind in _REFUSALS_BY_ID:
            raise _REFUSALS_BY_ID[refusal.kind](task_id)
        raise _REFUSALS[refusal.kind](refusal.message, **refusal.metadata)

    @property
    def alive(self) -> bool:
        """Whether it still runs, and goes on."""
        return not self._ended and self._process.poll() is None

    def end(self) -> None:
        """Kill it, whatever it does; who waits in ``convert`` is told."""
        self._ended = True
        self._process.kill()
        with suppress(OSError):  # its side was closed first
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Wait for its end. To be called once, last."""
        self._socket.close()
        self._process.wait()


def _received(connection: socket.socket, length: int) -> bytes:
    """``length`` bytes: in one piece where the kernel can, for joining megabytes keeps the interpreter lock.

    Raises:
        EOFError: the other side ended first.
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
    """This environment without what makes a process load Python into Envoy; the modules are found as here."""
    left_out = {"LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "PYTHONHOME"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONSAFEPATH": "1"}


def main() -> None:
    """Convert what comes on standard input, a socket, until it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager tells all processes; calls may finish first
    gc.disable()  # nothing here leaves cycles but errors
    freeze_startup_objects()
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        try:
            while True:
                _answer_one(connection)
                gc.collect()
        except MemoryError:
            os._exit(1)  # the server is told by that, and says it to who waits
        except (EOFError, OSError):  # the server has gone
            os._exit(0)  # Python would take the memory apart first, and try to close standard input once more


def _answer_one(connection: socket.socket) -> None:
    conversion, name_length, length = _REQUEST.unpack(_received(connection, _REQUEST.size))
    task_id = _received(connection, name_length).decode()
    stored = _received(connection, length)
    done = lasts = False
    try:
        answer, lasts = convert(Conversion(conversion), task_id, stored)
        done = True
    except TaskgateError as error:
        answer = msgspec.json.encode(_Refusal(type(error).__name__, error.message, error.metadata))
    except MemoryError:  # nothing more is certain to work here
        raise
    except Exception:  # noqa: BLE001 - another process would come to the same; the log of the server gets all of it
        told = traceback.format_exc().encode(errors="backslashreplace").decode()
        answer = msgspec.json.encode(_Refusal(InternalError.__name__, told, {}))
    del stored  # it may have megabytes
    connection.sendall(_ANSWER.pack(done, lasts, len(answer)))
    connection.sendall(answer)


if __name__ == "__main__":
    main()
