"""gRPC clients of other authors, on each route, and a server log that stays free of tracebacks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from support.documents import put_row, task
from support.running import System, running_system

ROUTES = ("embedded", "proxied direct", "proxied via Envoy")
"""The service inside Envoy; the proxied grpcio server itself; the same through Envoy."""

LARGE_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
LARGE_TEXT = 10_000_000
"""Characters in the one text that makes the large task large."""

ALARMS = ("Traceback", "Exception in", "never retrieved", "InvalidStateError")


@pytest.fixture(scope="package", params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    """Each way in, in turn; the last two have a system in common."""
    name: str = request.param
    return name


@pytest.fixture(scope="package")
def mode(route: str) -> str:
    """The ``--mode`` of the route."""
    return route.partition(" ")[0]


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], System]]:
    """Starts ``taskgate up`` with one large task, once for a mode; all are stopped at the end, without alarms.

    One worker, so that what one caller does to it meets every other.
    """
    systems: list[System] = []
    with ExitStack() as running:

        @cache
        def start(mode: str) -> System:
            database = tmp_path_factory.mktemp("interop") / "tasks.db"
            systems.append(running.enter_context(running_system(database, "--demo", mode=mode, workers=1)))
            put_row(database, LARGE_ID, large_task().decode())
            return systems[-1]

        yield start
        for system in systems:
            assert system.stop() == 0
            assert not (found := alarms(system, 0)), "\n".join(found)


@pytest.fixture(scope="package")
def system(mode: str, started: Callable[[str], System]) -> System:
    """The system of the route."""
    return started(mode)


@pytest.fixture(scope="package")
def target(system: System, route: str) -> str:
    """The address to call."""
    return system.http if route == "proxied via Envoy" else system.grpc


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
