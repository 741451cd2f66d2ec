"""The command in the process of the tests: for help, refusals, and whatever else it only says."""

import os
import signal

import pytest
from click.testing import CliRunner, Result

from taskgate.commands import cli


def asked(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """What ``taskgate`` with these arguments says: ``stdout``, ``stderr`` and ``exit_code``. No log is written.

    Raises what would be a traceback. Settings of the person who runs the tests do not count.
    """
    own = dict.fromkeys(name for name in os.environ if name.startswith("TASKGATE_"))
    at_hangup = signal.getsignal(signal.SIGHUP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "configure_logs", lambda *_: None)  # they are those of the process
        try:
            return CliRunner().invoke(
                cli.main, arguments, env=own | (env or {}), prog_name="taskgate", catch_exceptions=False
            )
        finally:
            signal.signal(signal.SIGHUP, at_hangup)
