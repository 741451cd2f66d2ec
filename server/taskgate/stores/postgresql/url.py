"""What a ``postgresql://`` URL says: libpq's own parameters (PostgreSQL manual, "Connection Strings"), and two more.

``schema`` is the schema of the table ``task``, as Conductor's ``conductor.postgres.schema``;
``pool_size`` is how many connections one process may have.
"""

import os
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from taskgate.base.errors import SettingsError
from taskgate.stores.network.url_parts import (
    MOST_PORT,
    Endpoint,
    endpoint,
    parse_number,
    parse_parameters,
    parse_pool_size,
    see_that_pem_loads,
    split_url,
)

DEFAULT_PORT = 5432

_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_TLS = ("sslmode", "sslnegotiation", *_FILES, "sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version")
_PLACE = ("host", "port", "user", "password", "dbname")
_OTHERS = ("passfile", "application_name", "target_session_attrs", "schema", "pool_size")
_KNOWN = frozenset((*_TLS, *_PLACE, *_OTHERS))

# Our sessions are read-only by default, which is what these two look at in libpq; what they are meant to find is this.
_SAME_TARGET = {"read-write": "primary", "read-only": "standby"}

_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]*)(?::([^:]*))?")


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """Where the table is and how to get there; what the URL leaves out comes from PG* variables and ``~/.pgpass``."""

    hosts: tuple[Endpoint, ...]
    """Name, address or directory of a socket, and port; tried in this order. None given: a local server."""
    database: str | None
    user: str | None
    password: str | None = field(repr=False)
    tls: dict[str, str] = field(repr=False)
    """libpq's parameters for it, among them perhaps a password."""
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
    parts = split_url("postgresql", rest)
    parameters = parse_parameters("postgresql", parts.query, _KNOWN, files=_FILES, choices=_CHOICES)
    _see_that_versions_are_a_range(parameters)
    _see_that_files_load(parameters)
    database = unquote(parts.path) or parameters.get("dbname", "")
    return PostgresqlUrl(
        hosts=_hosts(parameters.get("host") or unquote(parts.hosts), parameters.get("port")),
        database=database or None,
        user=(parameters.get("user") if parts.user is None else parts.user) or None,
        password=parameters.get("password") if parts.password is None else parts.password,
        tls={key: value for key, value in parameters.items() if key in _TLS},
        target=_target(parameters),
        passfile=parameters.get("passfile"),
        application_name=parameters.get("application_name", "taskgate"),
        schema=parameters.get("schema") or "public",
        pool_size=parse_pool_size(parameters),
    )


def _hosts(given: str, ports: str | None) -> tuple[Endpoint, ...]:
    if not given:
        return ()
    hosts = []
    for part in given.split(","):
        match = None if part.startswith("/") else _HOST.fullmatch(part)
        if match is None and not part.startswith("/"):
            raise SettingsError(
                "store: the hosts of a postgresql URL are written HOST:PORT, with commas between several"
            )
        host, port = (match[1].strip("[]"), match[2]) if match else (part, None)
        hosts.append((host or "localhost", port or ""))
    common = (ports or "").split(",")
    if len(common) not in {1, len(hosts)}:
        raise SettingsError("store: a postgresql URL has one port for all hosts, or one for each")
    common = common * len(hosts) if len(common) == 1 else common
    placed = zip(hosts, common, strict=True)
    return tuple(endpoint("postgresql", host, _port(port or other)) for (host, port), other in placed)


def _port(digits: str) -> int:
    if not digits:
        return DEFAULT_PORT
    port = parse_number(digits, MOST_PORT)
    if port is None:
        raise SettingsError(f"store: a port is a number from 1 to {MOST_PORT}")
    return port


def _see_that_versions_are_a_range(parameters: dict[str, str]) -> None:
    least = parameters.get("ssl_min_protocol_version", _TLS_VERSIONS[0])
    most = parameters.get("ssl_max_protocol_version", _TLS_VERSIONS[-1])
    if _TLS_VERSIONS.index(least) > _TLS_VERSIONS.index(most):
        raise SettingsError("store: ssl_min_protocol_version is above ssl_max_protocol_version")


def _see_that_files_load(parameters: dict[str, str]) -> None:
    """As the driver loads them: of certificate and key, the other one may come from a variable or from libpq's folder.

    A certificate without any key has it in its own file.
    """
    ca, cert, key, crl = (parameters.get(name) for name in _FILES)
    if key and not cert and not (cert := _elsewhere("PGSSLCERT", "postgresql.crt")):
        raise SettingsError("store: sslkey needs sslcert")
    if cert and not key:
        key = _elsewhere("PGSSLKEY", "postgresql.key")
    see_that_pem_loads("postgresql", ca=ca, cert=cert, key=key, password=parameters.get("sslpassword", ""), crl=crl)


def _elsewhere(variable: str, name: str) -> str | None:
    """The file that ``variable`` names, or ``name`` in libpq's folder; None if there is neither."""
    own = os.path.expanduser(f"~/.postgresql/{name}")  # noqa: PTH111 - Path raises where there is no home
    return os.environ.get(variable) or (own if os.path.exists(own) else None)  # noqa: PTH110 - as above


def _target(parameters: dict[str, str]) -> str:
    target = parameters.get("target_session_attrs", "any")
    return _SAME_TARGET.get(target, target)
