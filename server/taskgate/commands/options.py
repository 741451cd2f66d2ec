"""Make command-line options of settings: name, help, default and variable are written once, in ``base/settings.py``."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import structlog

from taskgate.base.logs import configure_logs
from taskgate.base.settings import Settings, load_settings, metavar, unknown_variables

_F = TypeVar("_F", bound=Callable[..., Any])

LISTENER_TLS = ("tls_cert", "tls_key", "tls_client_ca")

SERVER_SETTINGS = (
    "store",
    "layout",
    "task_id_format",
    "auth",
    "auth_store",
    "token_lifetime",
    "jwks",
    "jwt_issuer",
    "jwt_audience",
    "jwt_role_claim",
    "jwt_roles",
    "reflection",
    "grpc",
    *LISTENER_TLS,
    "insecure",
    "workers",
    "request_timeout",
    "in_flight_mib",
    "mask",
    "drain_delay",
    "shutdown_grace",
    "metrics",
    "insecure_metrics",
    "otlp_endpoint",
    "trace_ratio",
    "log_level",
    "log_format",
)
"""What both ``up`` and ``serve`` take."""

ENVOY_SETTINGS = ("rate_limit", "trusted_hops", "docs", "cors_origins", "instance", "access_log")
"""What Envoy alone needs."""

_NOT_GIVEN = (None, ())
"""What click passes for an option, or a repeatable option, that the command line does not have."""


def with_settings(*names: str) -> Callable[[_F], _F]:
    """Decorate a command: add ``--config`` and an option for each named setting, and pass it ``settings``."""
    if "mode" in names:
        names = (*names, "transport")

    def decorate(command: _F) -> _F:
        @functools.wraps(command)
        def run(config: Path | None, **arguments: Any) -> Any:
            flags = {name: arguments.pop(name) for name in names}
            settings = load_settings(config, {name: value for name, value in flags.items() if value not in _NOT_GIVEN})
            configure_logs(settings.log_level, settings.log_format)
            if settings.transport is not None:
                structlog.get_logger("taskgate").warning("transport is now called mode", use=f"--mode {settings.mode}")
            if unknown := unknown_variables(os.environ):
                structlog.get_logger("taskgate").warning("unknown TASKGATE_ variables", ignored=", ".join(unknown))
            return command(settings=settings, **arguments)

        wrapped: Any = run
        for name in reversed(names):
            wrapped = _option(name)(wrapped)
        return click.option(  # type: ignore[no-any-return]
            "--config", type=click.Path(path_type=Path), help="TOML file of settings; flags and TASKGATE_* win over it."
        )(wrapped)

    return decorate


def _option(name: str) -> Callable[[Any], Any]:
    """Return the click option of one setting: flag, placeholder, help, variable and default."""
    field = Settings.model_fields[name]
    if field.annotation is bool:
        kind: dict[str, Any] = {"is_flag": True, "default": None}  # None unless given: the environment may have it
    else:
        kind = {"metavar": metavar(name), "multiple": name in {"mask", "cors_origins"}}
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        **kind,
        hidden=name == "transport",  # a former name
        help=f"{field.description} [TASKGATE_{name.upper()}; default: {_default(name)}]",
    )


def _default(name: str) -> str:
    """Return the default of a setting as help shows it."""
    field = Settings.model_fields[name]
    if field.default_factory:
        return "this host's name"
    if isinstance(field.default, bool):
        return "off"
    if isinstance(field.default, dict):
        return ",".join(f"{key}={value}" for key, value in field.default.items())
    return "none" if field.default is None or field.default in ("", ()) else str(field.default)
