"""A private temporary folder that is removed even after its owner was killed.

The owner holds a lock on the folder, which the kernel releases when the owner ends. The next ``PrivateFolder`` removes
folders without a lock, and systemd-tmpfiles, which deletes old temporary files, skips locked ones.
"""

import fcntl
import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from taskgate.base.errors import SettingsError, StartError

_PREFIX: Final = "taskgate-"
_MARK: Final = "taskgate.private"
"""The name of an empty file that marks a folder as ours once it is locked; folders without it are never removed."""

_LONGEST_SOCKET_PATH: Final = 103 if sys.platform == "darwin" else 107
"""Most bytes of a Unix socket's path: the size of its array in ``sockaddr_un``, without the final zero."""

_LONGEST_NAME: Final = len(_PREFIX) + 8 + len("/probe.sock")
"""Characters of a socket's path after the temporary directory and its slash."""

_SHORT: Final = "/tmp"  # noqa: S108 - mkdtemp makes the folder safely


class PrivateFolder:
    """An empty folder with mode 0700 in the temporary directory, with a ``path`` short enough for Unix sockets."""

    def __init__(self) -> None:
        """Create it, and remove those that killed processes of this user have left behind.

        Raises StartError if it cannot be created, and SettingsError if the path of the temporary directory is too long.
        """
        try:
            parent = _parent()
            _remove_left_behind(parent)
            self.path: Final = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self._lock: int | None = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            (self.path / _MARK).touch()
        except OSError as error:
            raise StartError(f"gateway: cannot create a folder in the temporary directory: {error.strerror}") from error

    def remove(self) -> None:
        """Remove it with its contents. Idempotent."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _parent() -> str:
    """Return the temporary directory, or /tmp if the path of a socket in the former would be too long."""
    given = tempfile.gettempdir()
    for directory in (given, _SHORT):
        if len(os.fsencode(directory)) + 1 + _LONGEST_NAME <= _LONGEST_SOCKET_PATH and os.access(directory, os.W_OK):
            return directory
    longest = _LONGEST_SOCKET_PATH - 1 - _LONGEST_NAME
    raise SettingsError(
        f"gateway: the path of the temporary directory {given} is too long for a Unix socket in it;"
        f" set TMPDIR to a directory whose path has at most {longest} bytes"
    )


def _remove_left_behind(parent: str) -> None:
    """Remove folders that are certainly ours (by name, user, mode and mark) and unused (by lock)."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    _remove_if_left_behind(entry.path)


def _remove_if_left_behind(folder: str) -> None:
    found = os.lstat(folder)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        return
    os.lstat(f"{folder}/{_MARK}")
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while the owner lives
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
