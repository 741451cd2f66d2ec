"""One running system for all API tests, and a client for each protocol."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from support.clients import CLIENTS, Client, GrpcClient, Http2Client, RestClient, open_client
from support.documents import DOCUMENTED
from support.running import System, running_system, taskgate

MODES = ("embedded", "proxied")


@pytest.fixture(scope="package", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Each mode in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., System]]:
    """Start ``taskgate up`` with the documented task, once for the same arguments; stop all systems at the end."""
    with ExitStack() as running:

        @cache
        def start(mode: str, *arguments: str, workers: int) -> System:
            database = tmp_path_factory.mktemp("api") / "tasks.db"
            done = taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=DOCUMENTED)
            assert done.returncode == 0, done.stderr
            return running.enter_context(running_system(database, *arguments, mode=mode, workers=workers))

        yield start


@pytest.fixture(scope="package")
def system(mode: str, started: Callable[..., System]) -> System:
    """``taskgate up`` with two workers."""
    return started(mode, workers=2)


@pytest.fixture(scope="package")
def any_id_system(mode: str, started: Callable[..., System]) -> System:
    """The same for installations with their own task IDs."""
    return started(mode, "--task-id-format", "any", workers=1)


@pytest.fixture(scope="package", params=CLIENTS)
def client(request: pytest.FixtureRequest, system: System) -> Iterator[Client]:
    """Each client in turn."""
    opened = open_client(request.param, system.http, system.grpc)
    yield opened
    opened.close()


@pytest.fixture(scope="package", params=CLIENTS)
def any_id_client(request: pytest.FixtureRequest, any_id_system: System) -> Iterator[Client]:
    """Each client of the system that accepts any ID."""
    opened = open_client(request.param, any_id_system.http, any_id_system.grpc)
    yield opened
    opened.close()


@pytest.fixture(scope="package", params=["grpc", "grpc-envoy"])
def grpc_client(request: pytest.FixtureRequest, system: System) -> Iterator[GrpcClient]:
    """Each client that speaks gRPC."""
    opened = open_client(request.param, system.http, system.grpc)
    assert isinstance(opened, GrpcClient)
    yield opened
    opened.close()


@pytest.fixture(scope="package", params=["rest", "rest-h2"])
def rest_client(request: pytest.FixtureRequest, system: System) -> Iterator[RestClient | Http2Client]:
    """Each client that speaks REST."""
    opened = open_client(request.param, system.http, system.grpc)
    assert isinstance(opened, RestClient | Http2Client)
    yield opened
    opened.close()
