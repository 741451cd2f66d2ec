"""What a ``postgresql://`` URL says: libpq's own parameters (PostgreSQL manual, "Connection Strings"), and two more.

``schema`` is the schema of the table ``task``, as Conductor's ``conductor.postgres.schema``;
``pool_size`` is how many connections one process may have.
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
    """Take one port for all hosts, or one for each; an empty one stands for the usual one."""
    return next((fault for port in value.split(",") if port and (fault := number(MAX_PORT)(port))), None)


_GRAMMAR: Final = Grammar(
    "postgresql",
    "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    port=0,  # a parameter may have it
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
"""Our sessions are read-only by default, which is what these two look at in libpq; what they are meant to find is this.
"""


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """Where the table is and how to get there; what the URL leaves out comes from PG* variables and ``~/.pgpass``."""

    hosts: tuple[Endpoint, ...]
    """Name, address or directory of a socket, and port; tried in this order. None given: a local server."""
    database: str | None
    user: str | None
    password: str | None = field(repr=False)
    tls: dict[str, str] = field(repr=False)
    """libpq's parameters for it, among them perhaps a password. The driver has modes that are none of a context's, and
    variables and files of libpq's for what is left out."""
    target: str
    passfile: str | None
    application_name: str
    schema: str
    pool_size: int

    @property
    def name(self) -> str:
        """The URL without user, password and parameters: what messages and logs call the store."""
        return f"postgresql://{','.join(map(str, self.hosts))}/{self.database or ''}"


def parse_postgresql_url(rest: str) -> PostgresqlUrl:
    """What follows ``postgresql://``; raises SettingsError, never with a word of the user's part or of a value."""
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
    """As the driver loads them: of certificate and key, the other one may come from a variable or from libpq's folder.

    A certificate without any key has it in its own file.
    """
    found = dict(parameters)
    if "sslkey" in found:
        found.setdefault("sslcert", _elsewhere("PGSSLCERT", "postgresql.crt"))
    elif "sslcert" in found:
        found["sslkey"] = _elsewhere("PGSSLKEY", "postgresql.key")
    Tls.of(found, _TLS_NAMES)


def _elsewhere(variable: str, name: str) -> str:
    """The file that ``variable`` names, or ``name`` in libpq's folder; empty if there is neither."""
    own = os.path.expanduser(f"~/.postgresql/{name}")  # noqa: PTH111 - Path raises where there is no home
    return os.environ.get(variable) or (own if os.path.exists(own) else "")  # noqa: PTH110 - as above
