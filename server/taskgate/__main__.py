"""The ``taskgate`` command, also as ``python -m taskgate``."""

import os
import signal


def main() -> None:
    """Run the command line. Until a command handles Ctrl-C itself, it ends the process at once, without a word.

    As Python does it by default, Ctrl-C during the imports below is an exception out of the middle of one of them: a
    traceback for the person, or, out of a callback, nothing at all.
    """
    before = signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
    from taskgate.cli import main as run  # noqa: PLC0415 - after the line above

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
