"""A program with a terminal for its output, and what that terminal is sent."""

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
        except OSError:  # how Linux says that the other side has closed
            pass
        os.close(leader)
    return shown.decode()


def unprintable(shown: str) -> list[str]:
    """Characters of ``shown`` that a terminal acts on or hides, but for line breaks and returns to a line's start."""
    return [character for character in shown if not character.isprintable() and character not in "\r\n"]
