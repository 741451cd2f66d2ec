"""The ``taskgate`` command, also as ``python -m taskgate``."""

import io
import os
import signal
import sys


def main() -> None:
    """Run the command line. Until a command handles Ctrl-C itself, it ends the process at once, without a word.

    As Python does it by default, Ctrl-C during an import, or while a class is being made, is an exception out of the
    middle of it: a traceback for the person, or, out of a callback, nothing at all.

    Where it is ignored, as by scripts for what they run in the background, it stays so; servers take it all the same.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
    _open_standard_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the locale has no bytes for, as for standard error
    from taskgate.commands.cli import main as run  # noqa: PLC0415 - after the lines above

    run()


def _open_standard_files() -> None:
    """Put the null device where a standard file is closed, or the next socket would take its number, and its output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


if __name__ == "__main__":
    main()
