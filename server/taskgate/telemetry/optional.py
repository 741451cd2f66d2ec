"""Load the optional part of telemetry, if the settings ask for it."""

import importlib.util
from typing import TYPE_CHECKING

from taskgate.base.errors import SettingsError
from taskgate.base.settings import Settings

if TYPE_CHECKING:
    from taskgate.telemetry.tracing import Tracing


def check_tracing(settings: Settings) -> None:
    """Raise SettingsError if the settings ask for traces and the libraries are not installed; load nothing."""
    if settings.otlp_endpoint and not all(map(_found, ("opentelemetry", "opentelemetry.exporter.otlp.proto.http"))):
        raise SettingsError(
            "otlp_endpoint: the libraries for traces are not installed; get them with: pip install 'taskgate[tracing]'"
        )


def open_tracing(settings: Settings) -> "Tracing | None":
    """Return the traces of this process; None if the settings do not ask for them. Raises as ``check_tracing``."""
    if not settings.otlp_endpoint:
        return None
    check_tracing(settings)
    from taskgate.telemetry.tracing import Tracing  # noqa: PLC0415 - an optional extra, and slow to import

    return Tracing(settings.otlp_endpoint, settings.trace_ratio, store=settings.store.partition("://")[0].lower())


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False
