"""A folder that only this user can enter, for as long as it is needed, and not for ever after ``kill -9``.

It is locked for as long as its owner lives, by the kernel: the next ``PrivateFolder`` removes those whose owners are
dead, and what clears temporary directories of old files (systemd-tmpfiles) passes it over.
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

from taskgate.base.errors import SettingsError

_PREFIX: Final = "taskgate-"
_MARK: Final = "taskgate.private"
"""The name of an empty file. A folder gets it once it is locked; one without it is not ours to remove."""

_LONGEST_SOCKET_PATH: Final = 103 if sys.platform == "darwin" else 107
"""Bytes of a Unix socket's path, which is an array in ``sockaddr_un``, but for the zero at its end."""

_LONGEST_NAME: Final = len(_PREFIX) + 8 + len("/probe.sock")
"""Characters that stand after the temporary directory in the path of a socket, its slash left out."""

_SHORT: Final = "/tmp"  # noqa: S108 - what is made there is made by mkdtemp


class PrivateFolder:
    """An empty folder in the temporary directory, with mode 0700, in whose ``path`` a Unix socket can be named."""

    def __init__(self) -> None:
        """Make it, and remove those that killed processes of this user have left behind.

        Raises SettingsError if there is no temporary directory for it, or none whose name leaves room for a socket's.
        """
        try:
            parent = _parent()
            _remove_left_behind(parent)
            self.path: Final = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self._lock: int | None = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            (self.path / _MARK).touch()
        except OSError as error:
            raise SettingsError(
                f"gateway: no folder could be made in a temporary directory: {error.strerror}"
            ) from error

    def remove(self) -> None:
        """Remove it with all that is in it. Safe to call twice."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _parent() -> str:
    """The temporary directory, or a shorter one if the path of a socket could not be told to the kernel."""
    given = tempfile.gettempdir()
    for directory in (given, _SHORT):
        if len(os.fsencode(directory)) + 1 + _LONGEST_NAME <= _LONGEST_SOCKET_PATH and os.access(directory, os.W_OK):
            return directory
    longest = _LONGEST_SOCKET_PATH - 1 - _LONGEST_NAME
    raise SettingsError(
        f"gateway: the temporary directory {given} has too long a name for a Unix socket in it;"
        f" set TMPDIR to one of at most {longest} bytes"
    )


def _remove_left_behind(parent: str) -> None:
    """Remove what is certainly ours and nobody's any more: by name, owner, mode and lock."""
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
