"""Systems that outlive a test, for faults that leave them whole: each such test finds what those before it left."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from support.running import System, running_system


@pytest.fixture(scope="session")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., System]]:
    """Starts ``taskgate up`` with the documented task, once for the same arguments; all are stopped at the end."""
    with ExitStack() as running:

        @cache
        def start(transport: str, *arguments: str, workers: int) -> System:
            database = tmp_path_factory.mktemp("lasting") / "tasks.db"
            return running.enter_context(
                running_system(database, "--demo", *arguments, transport=transport, workers=workers)
            )

        yield start
