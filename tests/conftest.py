"""For all tests: Hypothesis measures no time, which says more about the machine than about what is tested.

And what takes so long to start that all tests share one.
"""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support import slow_disk
from support.cassandra import CassandraNode
from tools import mysql_server

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does: fixtures stop the servers that they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a machine may lack must not be missed."""
    if reason := mysql_server.why_missing():
        terminalreporter.write_line(f"LEFT OUT: MySQL (MariaDB was there), because {reason}", red=True, bold=True)
    if reason := slow_disk.why_missing():
        terminalreporter.write_line(f"LEFT OUT: all that needs a slow disk, because {reason}", red=True, bold=True)


@pytest.fixture(scope="session")
def cassandra_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraNode]:
    node = CassandraNode(tmp_path_factory.mktemp("cassandra"))
    yield node
    node.stop(signal.SIGKILL)
