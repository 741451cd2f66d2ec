"""What a ``cassandra://`` URL says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from taskgate.base.errors import SettingsError
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

DEFAULT_PORT: Final = 9042
DEFAULT_KEYSPACE: Final = "conductor"
"""``conductor.cassandra.keyspace`` where Conductor's configuration has none."""

DEFAULT_CONSISTENCY: Final = "LOCAL_QUORUM"
"""What Conductor reads and writes with, unless it is told otherwise: such a read sees every write that was finished."""

_CHOICES = {
    "consistency": ("ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_ONE", DEFAULT_CONSISTENCY),
    "tls": ("verify-full", "verify-ca"),
}
_FILES = ("ca_file", "cert_file", "key_file")
_KNOWN = ("local_dc", *_CHOICES, *_FILES)

_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::([^:]*))?")
_KEYSPACE = re.compile(r"[A-Za-z0-9_]{1,48}")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM for TLS; an empty name stands for none, and the system's authorities are then trusted."""

    ca_file: str
    cert_file: str
    key_file: str
    check_names: bool
    """Whether a node's certificate must be for the name or address that it is reached by (``verify-full``)."""


@dataclass(frozen=True, slots=True)
class CassandraUrl:
    """Where Conductor's keyspace is and how to get there."""

    hosts: tuple[Endpoint, ...]
    """Name or address, and port, of the nodes to begin with; they know the others."""
    keyspace: str
    user: str | None
    password: str = field(repr=False)
    local_dc: str | None
    """The data centre to ask; None for that of the first node that answers."""
    consistency: str
    tls: Tls | None

    @property
    def name(self) -> str:
        """The URL without user, password and parameters: what messages and logs call the store."""
        return f"cassandra://{','.join(map(str, self.hosts))}/{self.keyspace}"


def parse_cassandra_url(rest: str) -> CassandraUrl:
    """What follows ``cassandra://``; raises SettingsError, never with a word of the user's part."""
    parts = split_url("cassandra", rest)
    refuse_fragment("cassandra", rest)
    parameters = _parameters(parts.query)
    return CassandraUrl(
        hosts=tuple(_host(host) for host in parts.hosts.split(",")),
        keyspace=_keyspace(unquote(parts.path)),
        user=parts.user,
        password=parts.password or "",
        local_dc=parameters.get("local_dc") or None,
        consistency=parameters.get("consistency", DEFAULT_CONSISTENCY),
        tls=_tls(parameters),
    )


def _host(text: str) -> Endpoint:
    match = _HOST.fullmatch(text)
    if match is None:
        raise SettingsError(
            "store: a cassandra URL needs the names of hosts, as in cassandra://host1:9042,host2/conductor"
        )
    host, port = match[1], DEFAULT_PORT if match[2] is None else parse_port("cassandra", match[2])
    return endpoint("cassandra", host[1:-1] if host.startswith("[") else unquote(host), port)


def _keyspace(text: str) -> str:
    """Lower-case, as Cassandra itself takes a name that is not in quotes; Conductor writes it without."""
    if text and not _KEYSPACE.fullmatch(text):
        raise SettingsError("store: the keyspace of a cassandra URL has 1 to 48 letters, digits and underscores")
    return text.lower() or DEFAULT_KEYSPACE


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for key, value in each_parameter("cassandra", query):
        if key not in _KNOWN:
            raise unknown_parameter("cassandra", key, query, _KNOWN)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise SettingsError(f"store: {key} of the cassandra URL is one of {', '.join(_CHOICES[key])}")
        if key in _FILES:
            see_that_file_exists("cassandra", key, value)
        parameters[key] = value
    return parameters


def _tls(parameters: Mapping[str, str]) -> Tls | None:
    ca_file, cert_file, key_file = (parameters.get(key, "") for key in _FILES)
    mode = parameters.get("tls")
    if mode is None:
        if ca_file or cert_file or key_file:
            raise SettingsError(
                "store: the cassandra URL names files for TLS and does not ask for it; add tls=verify-full"
            )
        return None
    see_that_pem_loads("cassandra", ca=ca_file, cert=cert_file, key=key_file)
    return Tls(ca_file, cert_file, key_file, check_names=mode == "verify-full")
