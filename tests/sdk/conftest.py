"""Clients of the released SDKs, for all tests here."""

from collections.abc import Iterator

import pytest

from sdk.clients import Sdks


@pytest.fixture(scope="module")
def sdks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdks]:
    """Makes clients, and ends them after the last test."""
    made = Sdks(tmp_path_factory.mktemp("sdks"))
    yield made
    made.close()
