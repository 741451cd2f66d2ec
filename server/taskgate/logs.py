"""Structured logs on standard error: JSON lines for machines, coloured text on a terminal."""

import logging
import sys
from typing import Any, Literal

import msgspec
import structlog


def configure_logs(level: str, log_format: Literal["auto", "json", "console"]) -> None:
    """Set up structlog for this process.

    ``level`` is debug, info, warning or error. Lines go to standard error, so that standard output stays free for
    what a command prints.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    wrapper = structlog.make_filtering_bound_logger(getattr(logging, level.upper()))
    if console:
        structlog.configure(
            processors=[*shared, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())],
            wrapper_class=wrapper,
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=True,
        )
    else:
        encode = msgspec.json.Encoder(enc_hook=str).encode
        structlog.configure(
            processors=[
                *shared,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=lambda event, **_: encode(event)),
            ],
            wrapper_class=wrapper,
            logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
            cache_logger_on_first_use=True,
        )


def warn_open() -> None:
    """Say at start that nothing keeps anyone out."""
    structlog.get_logger("taskgate").warning(
        "no authentication is configured: anyone who reaches the port can read every task"
    )
