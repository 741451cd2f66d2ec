"""Run Envoy with a configuration that taskgate never makes, for example with a limit that a test can reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from taskgate.processes.envoy import GatewaySettings, process, render


@contextmanager
def edited_configuration(*changes: tuple[str, str]) -> Iterator[None]:
    """Replace each first text by the second in configurations of Envoys that start meanwhile. Fails without a match."""

    def edited(settings: GatewaySettings) -> str:
        text = render(settings)
        for before, after in changes:
            assert before in text, f"the configuration has no {before!r}"
            text = text.replace(before, after)
        return text

    with patch.object(process, "render", edited):
        yield
