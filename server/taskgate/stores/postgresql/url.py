"""Parse ``postgresql://`` URLs: libpq's parameters (PostgreSQL manual, "Connection Strings"), and two more.

``schema`` is the schema of the table ``task``, as Conductor's ``conductor.postgres.schema``;
``pool_size`` limits the connections of one process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from taskgate.base.addresses import MAX_PORT
from taskgate.base.errors import SettingsError
from taskgate.stores.network.tls import Tls, TlsNames
from taskgate.stores.network.url_parts import Check, Endpoint, Grammar, number, one_of, pool_size, text

_TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_TLS_NAMES: Final = TlsNames("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword")
_TLS: Final[Mapping[str, Check]] = {
    "sslmode": one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": one_of("postgres", "direct"),
    **_TLS_NAMES.parameters(),
    "ssl_min_protocol_version": one_of(*_TLS_VERSIONS),
    "ssl_max_protocol_version": one_of(*_TLS_VERSIONS),
}


def _ports(value: str) -> str | None:
    """Accept one port for all hosts, or one for each; an empty one means the default port."""
    return next((fault for port in value.split(",") if port and (fault := number(MAX_PORT)(port))), None)


_GRAMMAR: Final = Grammar(
    "postgresql",
    "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    port=0,  # may be in a parameter
    host="localhost",
    parameters={
        "application_name": text,
        "target_session_attrs": one_of("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
        "schema": text,
        "pool_size": pool_size,
        "host": text,
        "port": _ports,
        "dbname": text,
        "user": text,
        "password": text,
        "passfile": text,
        **_TLS,
    },
)
_USUAL_PORT: Final = 5432

_SAME_TARGET: Final = {"read-write": "primary", "read-only": "standby"}
"""What two values mean here: libpq tests whether sessions are read-only by default, which taskgate's always are."""


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """The table's location and how to connect; PG* variables and ``~/.pgpass`` supply what the URL omits."""

    hosts: tuple[Endpoint, ...]
    """Name, address or socket directory, and port; tried in this order. Empty for a local server."""
    database: str | None
    user: str | None
    password: str | None = field(repr=False)
    tls: dict[str, str] = field(repr=False)
    """libpq's TLS parameters, perhaps with a password. Not a context: the driver has modes that a context lacks, and
    takes omitted values from libpq's variables and files."""
    target: str
    passfile: str | None
    application_name: str
    schema: str
    pool_size: int

    @property
    def name(self) -> str:
        """The URL without user, password and parameters: the store's name in messages and logs."""
        return f"postgresql://{','.join(map(str, self.hosts))}/{self.database or ''}"


def parse_postgresql_url(rest: str) -> PostgresqlUrl:
    """Parse the rest after ``postgresql://``; raises SettingsError, which never quotes the user's part or a value."""
    url = _GRAMMAR.parse(rest)
    parameters = url.parameters
    _see_that_versions_are_a_range(parameters)
    _see_that_files_load(parameters)
    target = parameters.get("target_session_attrs", "any")
    return PostgresqlUrl(
        hosts=_hosts(_GRAMMAR.hosts(parameters["host"]) if parameters.get("host") else url.hosts, parameters),
        database=unquote(url.path) or parameters.get("dbname") or None,
        user=(parameters.get("user") if url.user is None else url.user) or None,
        password=parameters.get("password") if url.password is None else url.password,
        tls={name: value for name, value in parameters.items() if name in _TLS},
        target=_SAME_TARGET.get(target, target),
        passfile=parameters.get("passfile"),
        application_name=parameters.get("application_name", "taskgate"),
        schema=parameters.get("schema") or "public",
        pool_size=url.pool_size,
    )


def _hosts(given: tuple[Endpoint, ...], parameters: Mapping[str, str]) -> tuple[Endpoint, ...]:
    ports = parameters.get("port", "").split(",")
    if any(ports) and not given:
        given = (Endpoint("", 0),)  # a local server
    if given and len(ports) not in {1, len(given)}:
        raise SettingsError("store: a postgresql URL has one port for all hosts, or one for each")
    common = (int(port or _USUAL_PORT) for port in ports * len(given))
    return tuple(Endpoint(host, port or other) for (host, port), other in zip(given, common, strict=False))


def _see_that_versions_are_a_range(parameters: Mapping[str, str]) -> None:
    least = parameters.get("ssl_min_protocol_version", _TLS_VERSIONS[0])
    most = parameters.get("ssl_max_protocol_version", _TLS_VERSIONS[-1])
    if _TLS_VERSIONS.index(least) > _TLS_VERSIONS.index(most):
        raise SettingsError("store: ssl_min_protocol_version is above ssl_max_protocol_version")


def _see_that_files_load(parameters: Mapping[str, str]) -> None:
    """Load the files as the driver does: certificate or key may come from a variable or libpq's folder.

    Without any key file, the certificate's file contains the key.
    """
    found = dict(parameters)
    if "sslkey" in found:
        found.setdefault("sslcert", _elsewhere("PGSSLCERT", "postgresql.crt"))
    elif "sslcert" in found:
        found["sslkey"] = _elsewhere("PGSSLKEY", "postgresql.key")
    Tls.of(found, _TLS_NAMES)


def _elsewhere(variable: str, name: str) -> str:
    """Return the file that ``variable`` names, or ``name`` in libpq's folder, or an empty text."""
    own = os.path.expanduser(f"~/.postgresql/{name}")  # noqa: PTH111 - Path raises without a home
    return os.environ.get(variable) or (own if os.path.exists(own) else "")  # noqa: PTH110 - as above
