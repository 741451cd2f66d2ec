"""Serve the metrics of a node for as long as a command runs, if its settings ask for them."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from taskgate.base.settings import Settings

if TYPE_CHECKING:
    from taskgate.processes.metrics import NodeMetrics


def node_metrics(settings: Settings, stack: AsyncExitStack, *, mode: str) -> "NodeMetrics | None":
    """Serve metrics until ``stack`` is closed; None without the setting. Raises SettingsError if the port is taken."""
    if settings.metrics is None:
        return None
    from taskgate.processes.metrics import NodeMetrics  # noqa: PLC0415 - without metrics, the library costs nothing

    node = NodeMetrics(settings.metrics, settings, mode=mode)
    stack.callback(node.close)
    return node
