"""One running system for all API tests, and each of its front doors."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from support.documents import DOCUMENTED
from support.doors import DOORS, Door, GrpcDoor, Http2Door, RestDoor, open_door
from support.running import System, running_system, taskgate

TRANSPORTS = ("envoy", "grpcio")


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., System]]:
    """Start ``taskgate up`` with the documented task, once for the same arguments; stop all systems at the end."""
    with ExitStack() as running:

        @cache
        def start(transport: str, *arguments: str, workers: int) -> System:
            database = tmp_path_factory.mktemp("api") / "tasks.db"
            done = taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=DOCUMENTED)
            assert done.returncode == 0, done.stderr
            return running.enter_context(running_system(database, *arguments, transport=transport, workers=workers))

        yield start


@pytest.fixture(scope="session")
def system(transport: str, started: Callable[..., System]) -> System:
    """``taskgate up`` with two workers."""
    return started(transport, workers=2)


@pytest.fixture(scope="session")
def any_id_system(transport: str, started: Callable[..., System]) -> System:
    """The same for installations with their own task IDs."""
    return started(transport, "--task-id-format", "any", workers=1)


@pytest.fixture(scope="session", params=DOORS)
def door(request: pytest.FixtureRequest, system: System) -> Iterator[Door]:
    """Each front door in turn."""
    opened = open_door(request.param, system.http, system.grpc)
    yield opened
    opened.close()


@pytest.fixture(scope="session", params=DOORS)
def any_id_door(request: pytest.FixtureRequest, any_id_system: System) -> Iterator[Door]:
    """Each front door of the system that accepts any ID."""
    opened = open_door(request.param, any_id_system.http, any_id_system.grpc)
    yield opened
    opened.close()


@pytest.fixture(scope="session", params=["grpc", "grpc-envoy"])
def grpc_door(request: pytest.FixtureRequest, system: System) -> Iterator[GrpcDoor]:
    """Each front door that speaks gRPC."""
    opened = open_door(request.param, system.http, system.grpc)
    assert isinstance(opened, GrpcDoor)
    yield opened
    opened.close()


@pytest.fixture(scope="session", params=["rest", "rest-h2"])
def rest_door(request: pytest.FixtureRequest, system: System) -> Iterator[RestDoor | Http2Door]:
    """Each front door that speaks REST."""
    opened = open_door(request.param, system.http, system.grpc)
    assert isinstance(opened, RestDoor | Http2Door)
    yield opened
    opened.close()
