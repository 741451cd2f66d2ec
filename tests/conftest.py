"""Settings of all tests: Hypothesis examples, signals, and what tests share.

Hypothesis checks no deadlines, which depend more on the machine than on the code under test.
"""

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from support.scopes import Scopes
from support.tiers import Tiers

if TYPE_CHECKING:
    from support.cassandra import CassandraNode

settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=15)
settings.load_profile("quick")  # unless the command line sets another, as ``make test-all`` does

_MOST_PROCESSES = 8
"""With more, a run starts more servers at once without getting faster."""


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends a run as Ctrl-C does: fixtures stop the servers that they started.

    Common settings replace the caller's, also for processes that tests start: a script that runs the tests in the
    background ignores SIGINT, and a proxy would receive requests for servers on this machine.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost,::1"]))
    config.pluginmanager.register(Tiers(), "tiers")
    config.pluginmanager.register(Scopes(), "scopes")


def pytest_xdist_auto_num_workers() -> int:
    """Two processes of ``-n auto`` for each processor: tests often wait for servers to start, stop or fail."""
    return min(2 * (os.cpu_count() or 1), _MOST_PROCESSES)


@pytest.fixture(scope="session")
def cassandra_node(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[CassandraNode]":
    from support.cassandra import CassandraNode  # noqa: PLC0415 - the driver takes a second to import

    node = CassandraNode(tmp_path_factory.mktemp("cassandra"))
    yield node
    node.stop(signal.SIGKILL)
