"""For all tests: Hypothesis measures no time, which says more about the machine than about what is tested.

And what takes so long to start that all tests share one.
"""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support.cassandra import CassandraNode

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def cassandra_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraNode]:
    node = CassandraNode(tmp_path_factory.mktemp("cassandra"))
    yield node
    node.stop(signal.SIGKILL)
