"""A file on a disk that a test can slow down or stall.

This is a file system in user space (FUSE) with one read-only file: ``python slow_disk.py FOLDER FILE`` mounts it on
``FOLDER`` in its own mount namespace, and obeys lines on standard input. As with any disk, data read once is in the
kernel's page cache, only other data is slow, and a process that waits for it is in the state D.
"""

import ctypes
import errno
import os
import queue
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

_NAME = "tasks.db"
_FOLDER_NODE, _FILE_NODE = 1, 2
_CACHED_SECONDS = 3600  # the kernel caches names, and missing ones, this long
_LARGEST_REQUEST = 1 << 20

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _INIT, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 14, 15, 26, 36, 42
_WITHOUT_ANSWER = {_FORGET, _INTERRUPT, _BATCH_FORGET}
_SUCCEED = {18, 25, 34}  # RELEASE, FLUSH, ACCESS
_KEEP_CACHE = 2
_ASYNC_READ = 1  # readers then wait for a page, as with any disk, and not for an answer


def why_missing() -> str | None:
    """Why this machine cannot have such a disk, as a phrase for the summary of a run; None if it can."""
    if sys.platform != "linux":
        return "FUSE is reached by Linux's own interface"
    for program in ("unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"there is no program '{program}'"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not there, or not for this user"
    if subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode:
        return "this user may not have a mount namespace"
    return None


def _unshare() -> list[str]:
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own_user, "--mount"]


class SlowDisk:
    """A copy of ``database`` on such a disk, which is fast at first; ``folder`` must be empty."""

    def __init__(self, folder: Path, database: Path) -> None:
        folder.mkdir()
        self._process = subprocess.Popen(
            [*_unshare(), sys.executable, __file__, str(folder), str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tell_and_wait("")
        self.file = folder / _NAME
        """The path for processes that are started ``inside``."""
        namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--mount", "--preserve-credentials"]
        self.inside = ["nsenter", "--target", str(self._process.pid), *namespaces, "--"]
        """The prefix for the command of a process that is to see the disk."""

    def slow_down(self, seconds: float) -> None:
        """From now on each read of up to 4 KB takes ``seconds``, one after the other."""
        self._tell_and_wait(f"{seconds}")

    def stand_still(self) -> None:
        """Stop answering reads."""
        self._tell_and_wait("inf")

    def recover(self) -> None:
        """Make all reads fast again, including waiting ones."""
        self._tell_and_wait("0")

    def _tell_and_wait(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "ok\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount it: waiting reads fail."""
        self._process.kill()
        self._process.communicate()


class _Disk:
    """Answers the kernel's requests on ``device`` from ``file``."""

    def __init__(self, device: int, file: Path) -> None:
        self._device = device
        self._file = os.open(file, os.O_RDONLY)
        self._size = file.stat().st_size
        self._reads: queue.SimpleQueue[tuple[int, int, int]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._seconds = 0.0

    def serve(self) -> None:
        """Answer requests until the end; reads in their own thread, so that other requests do not wait for them."""
        threading.Thread(target=self._serve_reads, daemon=True).start()
        while True:
            request = os.read(self._device, _LARGEST_REQUEST + 4096)
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation == _READ:
                _, offset, size = struct.unpack_from("<QQI", request, 40)
                self._reads.put((unique, offset, size))
            elif operation not in _WITHOUT_ANSWER:
                answer = self._answer(operation, node, request[40:])
                self._write(unique, answer if isinstance(answer, bytes) else b"", answer)

    def set_delay(self, seconds: float) -> None:
        with self._changed:
            self._seconds = seconds
            self._changed.notify_all()

    def _answer(self, operation: int, node: int, body: bytes) -> bytes | int:
        """The answer, or an error number."""
        if operation == _INIT:
            major, minor, _, _ = struct.unpack_from("<IIII", body)
            return struct.pack(
                "<IIIIHHIIHHI28x", major, min(minor, 31), 0, _ASYNC_READ, 16, 12, _LARGEST_REQUEST, 1, 1, 0, 0
            )
        if operation == _LOOKUP:
            found = body.rstrip(b"\0") == _NAME.encode()
            entry = struct.pack("<QQQQII", _FILE_NODE if found else 0, 0, _CACHED_SECONDS, _CACHED_SECONDS, 0, 0)
            return entry + (self._attributes(_FILE_NODE) if found else bytes(88))
        if operation == _GETATTR:
            return struct.pack("<QII", _CACHED_SECONDS, 0, 0) + self._attributes(node)
        if operation == _OPEN:
            return struct.pack("<QII", 0, _KEEP_CACHE, 0)
        return b"" if operation in _SUCCEED else errno.ENOSYS

    def _attributes(self, node: int) -> bytes:
        folder = node == _FOLDER_NODE
        mode = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644
        size = 0 if folder else self._size
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _serve_reads(self) -> None:
        while True:
            unique, offset, size = self._reads.get()
            ready = time.monotonic()
            with self._changed:
                while time.monotonic() < ready + self._seconds * max(1, size // 4096):
                    self._changed.wait(0.05)
            self._write(unique, os.pread(self._file, size, offset), 0)

    def _write(self, unique: int, answer: bytes, error: bytes | int) -> None:
        number = -error if isinstance(error, int) else 0
        try:
            os.write(self._device, struct.pack("<IiQ", 16 + len(answer), number, unique) + answer)
        except FileNotFoundError:
            return  # the process that asked was killed meanwhile


def _main(folder: str, file: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"slow", os.fsencode(folder), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    disk = _Disk(device, Path(file))
    threading.Thread(target=disk.serve, daemon=True).start()
    for line in sys.stdin:
        if line.strip():
            disk.set_delay(float(line))
        sys.stdout.write("ok\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
