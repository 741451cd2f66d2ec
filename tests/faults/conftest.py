"""Systems that outlive a test, for faults that leave them intact: each such test reuses what earlier ones left."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from support.running import System, eventually, running_system


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., System]]:
    """Start ``taskgate up`` with the documented task, once for the same arguments; stop all systems at the end."""
    with ExitStack() as running:

        @cache
        def start(mode: str, *arguments: str, workers: int) -> System:
            database = tmp_path_factory.mktemp("lasting") / "tasks.db"
            return running.enter_context(running_system(database, "--demo", *arguments, mode=mode, workers=workers))

        def settled(mode: str, *arguments: str, workers: int) -> System:
            system = start(mode, *arguments, workers=workers)
            # A process may answer before it is watched: its start's time limit then detects a hang.
            eventually(lambda: len(gone(system)) == len(replaced(system)), "what is gone is replaced")
            return system

        yield settled


def gone(system: System) -> list[str]:
    return [line for line in system.log if "gone; replacing it" in line]


def replaced(system: System) -> list[str]:
    return [line for line in system.log if re.search('"event":"[A-Za-z]+ replaced"', line)]
