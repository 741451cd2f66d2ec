"""Envoys with a configuration that taskgate never makes, as with a limit that a test can reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from taskgate.processes.envoy import GatewaySettings, process, render


@contextmanager
def edited_configuration(*changes: tuple[str, str]) -> Iterator[None]:
    """Envoys that start meanwhile get the configuration with each first text, which must be there, as the second."""

    def edited(settings: GatewaySettings) -> str:
        text = render(settings)
        for before, after in changes:
            assert before in text, f"the configuration has no {before!r}"
            text = text.replace(before, after)
        return text

    with patch.object(process, "render", edited):
        yield
