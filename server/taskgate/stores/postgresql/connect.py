"""Connect to PostgreSQL, and translate its errors into public messages."""

import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.network.connecting import HappyEyeballsLoop
from taskgate.stores.network.faults import LOST, network_reason
from taskgate.stores.postgresql.url import PostgresqlUrl

_NO_TABLE = "it has no table 'task' as taskgate or Conductor makes it"

_REASONS: Final = {
    "28000": "it does not let this user in",
    "28P01": "it does not take this user and password",
    "3D000": "there is no such database",
    "3F000": _NO_TABLE,
    "42P01": _NO_TABLE,
    "42703": _NO_TABLE,
    "42501": "the user may not do this; look at the grants on schema and table",
    "25006": "it is read-only",
    "53100": "the disk is full",
    "53200": "it has no memory left",
    "53300": "it has no connection left",
    "57P03": "it is starting or stopping",
    "57014": "it did not answer in time; is the table locked?",
    "55P03": "it is locked by another program",
    "08003": LOST,
    "08006": LOST,
    "57P01": LOST,
    "57P02": LOST,
}
"""Public messages for SQLSTATEs (PostgreSQL manual, appendix A); the server's stay in the exception chain."""


class _UnusableVariable(Exception):
    """The driver raised ValueError for an environment variable such as PGPORT; the URL was checked before."""


# The first match counts.
_REASONS_OF_THE_DRIVER: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.TargetServerAttributeNotMatched, "no host is what target_session_attrs asks for"),
    (asyncpg.ClientConfigurationError, "the TLS parameters of its URL, or PGSSL* variables, cannot be used"),
    (_UnusableVariable, "a PG* variable has a value that cannot be used"),
    (asyncpg.InterfaceError, LOST),
    (asyncpg.InternalClientError, LOST),
)


def table_of(url: PostgresqlUrl) -> str:
    """Return the quoted table name for a statement."""
    schema = url.schema.replace('"', '""')
    return f'"{schema}".task'


async def connect(url: PostgresqlUrl, settings: dict[str, str], timeout: float) -> asyncpg.Connection:  # noqa: ASYNC109 - shared out
    """Connect to the first host that matches ``url``, within ``timeout`` seconds for all hosts together.

    ``settings`` are for the session. Raises the driver's errors; see ``explain``.
    """
    attempts = list(_attempts(url))
    deadline = time.monotonic() + timeout
    errors: list[Exception] = []
    for number, (place, target) in enumerate(attempts):
        # A silent host must leave time for the others.
        seconds = (deadline - time.monotonic()) / (len(attempts) - number)
        loop = HappyEyeballsLoop()
        try:
            connection = await asyncpg.connect(
                **place,
                loop=loop,
                dsn=f"postgresql:///?{urlencode(url.tls)}" if url.tls else None,
                database=url.database,
                user=url.user,
                password=url.password,
                passfile=url.passfile,
                target_session_attrs=target,
                server_settings={"application_name": url.application_name, **settings},
                statement_cache_size=0,  # store.py names its prepared statement itself
                timeout=max(seconds, 0.01),
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            errors.append(error)
        except ValueError as error:
            errors.append(_UnusableVariable())
            errors[-1].__cause__ = error
        else:
            connection._loop = loop.real  # noqa: SLF001 - once connected, no more addresses to try
            return connection
    # A server's error tells more than the silence of another.
    raise next((error for error in errors if not isinstance(error, OSError)), errors[-1])


def _attempts(url: PostgresqlUrl) -> Iterator[tuple[dict[str, Any], str]]:
    targets = ("standby", "any") if url.target == "prefer-standby" else (url.target,)
    for target in targets:
        for host, port in url.hosts:
            yield {"host": host or None, "port": port}, target
        if not url.hosts:
            yield {}, target


def explain(store: str, error: Exception) -> StoreUnavailable | None:
    """Return the public form of an ``error`` of the driver or network; None if it says nothing about the database."""
    reason = _reason(error)
    return None if reason is None else StoreUnavailable(reason, store=store)


def _reason(error: Exception) -> str | None:
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return _REASONS.get(code, f"it reported an error, SQLSTATE {code}")
    for kind, reason in _REASONS_OF_THE_DRIVER:
        if isinstance(error, kind):
            return reason
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):  # asyncpg has no class for it
        return "it does not offer TLS"
    return network_reason(error) if isinstance(error, OSError) else None
