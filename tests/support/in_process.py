"""Run the command inside the test process: for help, refusals, and other calls that only print."""

import os
import signal

import pytest
from click.testing import CliRunner, Result

from taskgate.commands import cli, options


def asked(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run ``taskgate``, and return its ``stdout``, ``stderr`` and ``exit_code``. Writes no log.

    Raises an exception that would end in a traceback. Ignores the TASKGATE_ settings of the environment.
    """
    own = dict.fromkeys(name for name in os.environ if name.startswith("TASKGATE_"))
    # Commands that serve set these, also where they then refuse to start; uvloop does not take its handlers back.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "configure_logs", lambda *_: None)  # logging is set up for the whole process
        try:
            return CliRunner().invoke(
                cli.main, arguments, env=own | (env or {}), prog_name="taskgate", catch_exceptions=False
            )
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
