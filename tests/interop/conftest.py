"""gRPC clients that nobody here wrote, on each way in, and a server log that stays free of tracebacks."""

from collections.abc import Iterator

import pytest

from support.documents import put_row, task
from support.running import System, running_system

ROUTES = ("envoy", "grpcio", "grpcio behind Envoy")
"""The service inside Envoy; grpcio's server itself; grpcio's server through the Envoy before it."""

LARGE_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
LARGE_TEXT = 10_000_000
"""Characters in the one text that makes the large task large."""

ALARMS = ("Traceback", "Exception in", "never retrieved", "InvalidStateError")


@pytest.fixture(scope="session", params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    """Each way in, in turn; each has a system of its own."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def transport(route: str) -> str:
    """The ``--transport`` of the route."""
    return route.partition(" ")[0]


@pytest.fixture(scope="session")
def system(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """``taskgate up`` with one worker, so that what one caller does to it meets every other; with one large task."""
    database = tmp_path_factory.mktemp("interop") / "tasks.db"
    with running_system(database, "--demo", transport=transport, workers=1) as running:
        put_row(database, LARGE_ID, large_task().decode())
        yield running
        assert running.stop() == 0
        assert not (found := alarms(running, 0)), "\n".join(found)


@pytest.fixture(scope="session")
def target(system: System, route: str) -> str:
    """The address to call."""
    return system.http if route == "grpcio behind Envoy" else system.grpc


@pytest.fixture(autouse=True)
def _quiet_log(system: System) -> Iterator[None]:
    """No traceback in the server's log, whatever a test does. One that comes late shows in the next, or at the end."""
    before = len(system.log)
    yield
    assert not (found := alarms(system, before)), "\n".join(found)


def alarms(system: System, start: int) -> list[str]:
    """Lines of the log, from number ``start``, that tell of a fault in the server; with some lines after each."""
    lines = system.log[start:]
    found = [number for number, line in enumerate(lines) if any(word in line for word in ALARMS)]
    return ["\n".join(lines[number : number + 20]) for number in found[:3]]


def large_task() -> bytes:
    """The document of the large task."""
    return task(LARGE_ID, outputData={"text": "x" * LARGE_TEXT})
