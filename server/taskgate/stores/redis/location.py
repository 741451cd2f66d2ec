"""Parse the URL of a Redis store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import unquote

from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.stores.network.tls import Tls, TlsNames
from taskgate.stores.network.url_parts import Check, Endpoint, Grammar, text

__all__ = ["Credentials", "Kind", "Location", "Tls", "locate"]


class Kind(Enum):
    """One server, a primary that Sentinel names, or a cluster; the value is the suffix of the URL's scheme."""

    STANDALONE = ""
    SENTINEL = "+sentinel"
    CLUSTER = "+cluster"


class Credentials(NamedTuple):
    """Arguments of AUTH; ``user`` is empty for the default user, ``password`` if none is sent."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(...)"  # a repr may end up in a log


@dataclass(frozen=True, slots=True)
class Location:
    """One store: its address, its credentials, and the keys of its tasks."""

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
        """Return the prefix of all keys: the non-blank parts of Conductor's keys (``BaseDynoDAO``)."""
        stack = _DEFAULT_STACK[layout] if self.stack is None else self.stack
        return "".join(f"{part}." for part in (self.namespace, stack, self.domain) if part.strip())


_DEFAULT_STACK = {Layout.CONDUCTOR: "test", Layout.TASKGATE: "taskgate"}
"""Conductor's default for ``conductor.app.stack``, and a name of our own beside it."""

_KEY_PARAMETERS: Final[Mapping[str, Check]] = dict.fromkeys(("namespace", "stack", "domain"), text)
_SENTINEL_PARAMETERS: Final[Mapping[str, Check]] = dict.fromkeys(("sentinel_user", "sentinel_password"), text)
_TLS_NAMES: Final = TlsNames("ca_file", "cert_file", "key_file")

_MOST_DIGITS = 9


def locate(kind: Kind, rest: str, *, tls: bool) -> Location:
    """Parse the part after ``scheme://``. Raises SettingsError, which quotes nothing that may be a password."""
    url = _grammar(kind, tls=tls).parse(rest)
    if kind is Kind.STANDALONE and len(url.hosts) > 1:
        raise SettingsError(
            "store: a redis:// URL names one server; several belong to redis+sentinel:// or redis+cluster://"
        )
    primary_name, database = _path(kind, unquote(url.path))
    name = f"redis{'s' if tls else ''}{kind.value}://{','.join(map(str, url.hosts))}"
    return Location(
        name=name + {Kind.STANDALONE: f"/{database}", Kind.SENTINEL: f"/{primary_name}/{database}"}.get(kind, ""),
        kind=kind,
        endpoints=url.hosts,
        database=database,
        primary_name=primary_name,
        credentials=Credentials(url.user or "", url.password or ""),
        sentinel_credentials=Credentials(*(url.parameters.get(key, "") for key in _SENTINEL_PARAMETERS)),
        tls=Tls.of(url.parameters, _TLS_NAMES) if tls else None,
        namespace=url.parameters.get("namespace", ""),
        stack=url.parameters.get("stack"),
        domain=url.parameters.get("domain", ""),
    )


def _grammar(kind: Kind, *, tls: bool) -> Grammar:
    return Grammar(
        "redis",
        "redis://localhost:6379/0",
        port=26379 if kind is Kind.SENTINEL else 6379,
        parameters={
            **_KEY_PARAMETERS,
            **(_TLS_NAMES.parameters() if tls else {}),
            **(_SENTINEL_PARAMETERS if kind is Kind.SENTINEL else {}),
        },
    )


def _path(kind: Kind, path: str) -> tuple[str, int]:
    """Return the primary's name (Sentinel only) and the number of the database."""
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
