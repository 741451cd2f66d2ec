"""Run a program with a terminal as its output, and capture what the terminal receives."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping


def shown_on_a_terminal(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """All that ``taskgate`` with these arguments writes to standard output and error, both one terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "taskgate", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**os.environ, **(env or {})},
    ):
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 65536):
                shown += data
        except OSError:  # on Linux: the other side has closed
            pass
        os.close(leader)
    return shown.decode()


def unprintable(shown: str) -> list[str]:
    """Control and invisible characters in ``shown``, except line breaks and carriage returns."""
    return [character for character in shown if not character.isprintable() and character not in "\r\n"]
