"""Large documents as typed tasks, each in a process of its own.

Converting 10 MB of small values takes two seconds, and a fifth of that is done in calls that keep the interpreter lock:
every other call of the server would wait. A process has a lock of its own, gives its memory back when it ends, and can
be ended when nobody waits for it any more. Starting one takes a fifth of a second, so small documents are converted
where they are.
"""

import asyncio
import os
import subprocess
import sys

import msgspec

from taskgate.document import DocumentError
from taskgate.errors import TaskNotRepresentable
from taskgate.task_message import task_from_document

_CONVERTED, _NOT_REPRESENTABLE, _NOT_A_DOCUMENT = b"T", b"R", b"D"
"""The first byte of what the process writes; then the message, the refusal, or the reason."""


class _Refusal(msgspec.Struct):
    message: str
    metadata: dict[str, str]


class LargeConversions:
    """Converts documents in processes, one at a time; others wait, for as long as their callers do."""

    def __init__(self, python: str) -> None:
        """``python`` is the interpreter to run; inside Envoy, ``sys.executable`` does not name one."""
        self._python = python
        self._free = asyncio.Lock()

    async def convert(self, document: bytes) -> bytes:
        """The serialised Task.

        Raises:
            DocumentError, TaskNotRepresentable: as ``task_from_document``.
        """
        async with self._free:
            answer = await self._run(document)
        kind, rest = answer[:1], answer[1:]
        if kind == _CONVERTED:
            return rest
        if kind == _NOT_REPRESENTABLE:
            refusal = msgspec.json.decode(rest, type=_Refusal)
            raise TaskNotRepresentable(refusal.message, **refusal.metadata)
        raise DocumentError(rest.decode())

    async def _run(self, document: bytes) -> bytes:
        # Not asyncio's own: it needs a child watcher, which a loop inside Envoy, not in the main thread, lacks.
        process = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond; the waiting is done in a thread
            [self._python, "-m", "taskgate.conversion"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        waiting = asyncio.get_running_loop().run_in_executor(None, process.communicate, document)
        try:
            answer, _ = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            process.kill()
            await waiting
            raise
        if process.returncode != 0:
            raise RuntimeError(f"the conversion ended with code {process.returncode}")
        return answer


def _environment() -> dict[str, str]:
    """This environment without what makes a process load Python into Envoy; the modules are found as here."""
    left_out = {"LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "PYTHONHOME"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONSAFEPATH": "1"}


def main() -> None:
    """Convert the document on standard input."""
    document = sys.stdin.buffer.read()
    try:
        answer = _CONVERTED + task_from_document(document).SerializeToString()
    except TaskNotRepresentable as error:
        answer = _NOT_REPRESENTABLE + msgspec.json.encode(_Refusal(error.message, error.metadata))
    except DocumentError as error:
        answer = _NOT_A_DOCUMENT + str(error).encode()
    try:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the server was ended meanwhile; nobody waits for it any more
        os._exit(1)  # Python would try to write it once more, and say so


if __name__ == "__main__":
    main()
