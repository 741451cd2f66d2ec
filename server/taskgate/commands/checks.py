"""Refuse settings that cannot work, before anything starts."""

from taskgate.access.gate import check_access
from taskgate.base.addresses import Address
from taskgate.base.certificates import TlsFiles, load
from taskgate.base.settings import Settings
from taskgate.commands.exposure import check_exposure
from taskgate.stores import check_store
from taskgate.telemetry.optional import check_tracing


def check_settings(settings: Settings, **listeners: Address) -> None:
    """Check what can be checked without connecting to anything; ``listeners`` as in ``check_exposure``.

    Raises SettingsError.
    """
    check_store(settings.store, settings.layout)
    check_access(settings)
    check_exposure(settings, **listeners)
    check_certificates(settings)
    check_tracing(settings)


def check_certificates(settings: Settings) -> None:
    """Raise SettingsError if the files for TLS cannot be used."""
    if files := TlsFiles.of(settings):
        load(files)
