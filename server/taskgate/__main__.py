"""The ``taskgate`` command, also as ``python -m taskgate``."""

import io
import os
import signal
import sys


def main() -> None:
    """Run the command line. Until a command handles Ctrl-C itself, Ctrl-C ends the process at once and silently.

    By default, Python raises KeyboardInterrupt in the middle of an import or a class definition: the user sees a
    traceback, or, if a callback swallows it, nothing happens.

    If SIGINT is ignored, as scripts do for background jobs, it stays ignored; only servers install a handler anyway.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
    _open_standard_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like standard error, for locales other than UTF-8
    # gRPC's core would log failed handshakes and malformed headers, in lines of its own form.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from taskgate.commands.cli import main as run  # noqa: PLC0415 - its imports take time; Ctrl-C is handled by now

    run()


def _open_standard_files() -> None:
    """Open the null device for each standard file that is closed; else the next socket would get its descriptor."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


if __name__ == "__main__":
    main()
