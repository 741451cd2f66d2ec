"""What the URL of a Redis store says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple
from urllib.parse import unquote

from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.stores.network.url_parts import (
    Endpoint,
    each_parameter,
    endpoint,
    parse_port,
    refuse_fragment,
    see_that_file_exists,
    see_that_pem_loads,
    split_url,
    unknown_parameter,
)


class Kind(Enum):
    """How many servers there are, and who says which of them to ask; the value is what stands in a URL's scheme."""

    STANDALONE = ""
    SENTINEL = "+sentinel"
    CLUSTER = "+cluster"


class Credentials(NamedTuple):
    """What AUTH sends; ``user`` is empty for the default user, ``password`` where there is none to send."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(...)"  # they may come into a log through somebody's repr


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM for TLS; an empty name stands for none, and the system's authorities are then trusted."""

    ca_file: str
    cert_file: str
    key_file: str


@dataclass(frozen=True, slots=True)
class Location:
    """One store: where it is, how to get in, and the keys that tasks have there."""

    name: str
    """The URL without user, password and parameters: what messages call the store."""

    kind: Kind
    endpoints: tuple[Endpoint, ...]
    database: int
    primary_name: str
    credentials: Credentials = field(repr=False)
    sentinel_credentials: Credentials = field(repr=False)
    tls: Tls | None
    namespace: str
    stack: str | None
    domain: str

    def keyspace(self, layout: Layout) -> str:
        """What all keys begin with: the parts of Conductor's keys that are not blank (``BaseDynoDAO``)."""
        stack = _DEFAULT_STACK[layout] if self.stack is None else self.stack
        return "".join(f"{part}." for part in (self.namespace, stack, self.domain) if part.strip())


_DEFAULT_STACK = {Layout.CONDUCTOR: "test", Layout.TASKGATE: "taskgate"}
"""``conductor.app.stack`` where Conductor's configuration does not name one, and a name of our own beside it."""

_KEY_PARAMETERS = ("namespace", "stack", "domain")
_TLS_PARAMETERS = ("ca_file", "cert_file", "key_file")
_SENTINEL_PARAMETERS = ("sentinel_user", "sentinel_password")

_MOST_DIGITS = 9

_DEFAULT_PORT = {Kind.STANDALONE: 6379, Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}


def locate(kind: Kind, rest: str, *, tls: bool) -> Location:
    """What follows ``scheme://``; raises SettingsError, which quotes nothing that may be a password."""
    parts = split_url("redis", rest)
    refuse_fragment("redis", rest)
    endpoints = tuple(_endpoint(host, _DEFAULT_PORT[kind]) for host in parts.hosts.split(","))
    if kind is Kind.STANDALONE and len(endpoints) > 1:
        raise SettingsError(
            "store: a redis:// URL names one server; several belong to redis+sentinel:// or redis+cluster://"
        )
    primary_name, database = _path(kind, unquote(parts.path))
    parameters = _parameters(kind, parts.query, tls=tls)
    name = f"redis{'s' if tls else ''}{kind.value}://{','.join(map(str, endpoints))}"
    return Location(
        name=name + {Kind.STANDALONE: f"/{database}", Kind.SENTINEL: f"/{primary_name}/{database}"}.get(kind, ""),
        kind=kind,
        endpoints=endpoints,
        database=database,
        primary_name=primary_name,
        credentials=Credentials(parts.user or "", parts.password or ""),
        sentinel_credentials=Credentials(*(parameters.get(key, "") for key in _SENTINEL_PARAMETERS)),
        tls=_tls(parameters) if tls else None,
        namespace=parameters.get("namespace", ""),
        stack=parameters.get("stack"),
        domain=parameters.get("domain", ""),
    )


def _endpoint(text: str, default_port: int) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else unquote(host)
    if not host:
        raise SettingsError("store: a redis URL needs the name of a host, as in redis://localhost:6379/0")
    return endpoint("redis", host, parse_port("redis", port))


def _path(kind: Kind, path: str) -> tuple[str, int]:
    """The primary's name (Sentinel only) and the number of the database."""
    if kind is Kind.CLUSTER:
        if path not in {"", "0"}:
            raise SettingsError("store: a Redis Cluster has no databases to choose from; its URL ends after the hosts")
        return "", 0
    primary_name = ""
    if kind is Kind.SENTINEL:
        primary_name, _, path = path.partition("/")
        if not primary_name:
            raise SettingsError(
                "store: a redis+sentinel URL needs the name that Sentinel has for the primary,"
                " as in redis+sentinel://localhost:26379/mymaster/0"
            )
    if path and not (path.isascii() and path.isdigit() and len(path) <= _MOST_DIGITS):
        raise SettingsError("store: the database of a redis URL is a number, as in redis://localhost:6379/0")
    return primary_name, int(path or 0)


def _parameters(kind: Kind, query: str, *, tls: bool) -> Mapping[str, str]:
    known = (
        *_KEY_PARAMETERS,
        *(_TLS_PARAMETERS if tls else ()),
        *(_SENTINEL_PARAMETERS if kind is Kind.SENTINEL else ()),
    )
    parameters: dict[str, str] = {}
    for key, value in each_parameter("redis", query):
        if key not in known:
            if key in _TLS_PARAMETERS:
                raise SettingsError(f"store: parameter {key!r} is for TLS; TLS has URLs that begin with rediss")
            raise unknown_parameter("redis", key, query, known)
        parameters[key] = value
    return parameters


def _tls(parameters: Mapping[str, str]) -> Tls:
    tls = Tls(*(_file(key, parameters) for key in _TLS_PARAMETERS))
    see_that_pem_loads("redis", ca=tls.ca_file, cert=tls.cert_file, key=tls.key_file)
    return tls


def _file(key: str, parameters: Mapping[str, str]) -> str:
    path = parameters.get(key, "")
    if path:
        see_that_file_exists("redis", key, path)
    return path
