"""Refuse to show tasks to a network without TLS and authentication, and warn where callers are not authenticated."""

import ipaddress
import socket

import structlog

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.logs import flush_logs
from taskgate.base.settings import Settings


def check_exposure(settings: Settings, **listeners: Address) -> None:
    """Raise SettingsError if one of ``listeners``, by setting, is open to a network; the sentence says how to close it.

    Beyond loopback, a listener needs TLS and authenticated callers, or ``insecure``. The listener of metrics, which can
    have neither, needs ``insecure_metrics``: ``insecure`` would take away what protects the others.
    """
    if settings.insecure:
        return
    if settings.metrics is not None and not settings.insecure_metrics and not is_loopback(settings.metrics.host):
        raise SettingsError(
            f"metrics: {settings.metrics} is reachable from other machines, and figures have neither TLS nor"
            " authentication. Listen on loopback, or give --insecure-metrics (TASKGATE_INSECURE_METRICS=true) if"
            " every machine that reaches the port may read them"
        )
    missing = [need for need, has in _needs(settings) if not has]
    for key, address in listeners.items():
        if missing and not is_loopback(address.host):
            raise SettingsError(
                f"{key}: {address} is reachable from other machines, which needs {' and '.join(missing)}."
                " Or listen on loopback, or give --insecure (TASKGATE_INSECURE=true) if every machine that reaches the"
                " port may read every task"
            )


def warn_unauthenticated(settings: Settings, **listeners: Address) -> None:
    """Warn at start-up of what protects no caller."""
    texts = []
    if not is_authenticated(settings):
        texts.append("no authentication is configured: anyone who reaches the port can read every task")
    if not settings.tls_cert and not all(is_loopback(address.host) for address in listeners.values()):
        texts.append("nothing is encrypted: anyone on the way can read along")
    if texts:
        structlog.get_logger("taskgate").warning("; ".join(texts))
    flush_logs()  # so that the warning appears above what is printed next


def is_authenticated(settings: Settings) -> bool:
    """Whether every caller must show who it is."""
    return settings.auth != "off" or settings.tls_client_ca != ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on ``host``, an address or a name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True  # the bind, which fails, says why
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def _needs(settings: Settings) -> tuple[tuple[str, bool], ...]:
    return (
        ("TLS (--tls-cert FILE --tls-key FILE)", settings.tls_cert != ""),
        ("authentication (--auth keys or jwt, or --tls-client-ca FILE)", is_authenticated(settings)),
    )
