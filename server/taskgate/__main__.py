"""The ``taskgate`` command, also as ``python -m taskgate``."""

import os
import signal


def main() -> None:
    """Run the command line. Until a command handles Ctrl-C itself, it ends the process at once, without a word.

    As Python does it by default, Ctrl-C during an import, or while a class is being made, is an exception out of the
    middle of it: a traceback for the person, or, out of a callback, nothing at all.
    """
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
    from taskgate.cli import main as run  # noqa: PLC0415 - after the line above

    run()


if __name__ == "__main__":
    main()
