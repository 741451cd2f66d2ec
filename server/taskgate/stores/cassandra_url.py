"""What a ``cassandra://`` URL says."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from taskgate.errors import SettingsError

DEFAULT_PORT: Final = 9042
DEFAULT_KEYSPACE: Final = "conductor"
"""``conductor.cassandra.keyspace`` where Conductor's configuration has none."""

DEFAULT_CONSISTENCY: Final = "LOCAL_QUORUM"
"""What Conductor reads and writes with, unless it is told otherwise: such a read sees every write that was finished."""

_MOST_PORT = 65535

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

    hosts: tuple[tuple[str, int], ...]
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
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"cassandra://{hosts}/{self.keyspace}"


def parse_cassandra_url(rest: str) -> CassandraUrl:
    """What follows ``cassandra://``; raises SettingsError, never with a word of the user's part."""
    place, _, query = rest.partition("?")
    if "#" in rest:
        raise SettingsError("store: in a cassandra URL, # is written %23")
    authority, _, keyspace = place.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    parameters = _parameters(query)
    return CassandraUrl(
        hosts=tuple(_host(host) for host in hosts.split(",")),
        keyspace=_keyspace(unquote(keyspace)),
        user=unquote(user) if at else None,
        password=unquote(password),
        local_dc=parameters.get("local_dc") or None,
        consistency=parameters.get("consistency", DEFAULT_CONSISTENCY),
        tls=_tls(parameters),
    )


def _host(text: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise SettingsError(
            "store: a cassandra URL needs the names of hosts, as in cassandra://host1:9042,host2/conductor"
        )
    host, port = match[1], str(DEFAULT_PORT) if match[2] is None else match[2]
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= _MOST_PORT):
        raise SettingsError(f"store: the port of a cassandra URL is a number from 1 to {_MOST_PORT}")
    return (host[1:-1] if host.startswith("[") else unquote(host)), int(port)


def _keyspace(text: str) -> str:
    """Lower-case, as Cassandra itself takes a name that is not in quotes; Conductor writes it without."""
    if text and not _KEYSPACE.fullmatch(text):
        raise SettingsError("store: the keyspace of a cassandra URL has 1 to 48 letters, digits and underscores")
    return text.lower() or DEFAULT_KEYSPACE


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _KNOWN:
            raise SettingsError(f"store: a cassandra URL takes no parameter {key!r}, only {', '.join(_KNOWN)}")
        if key in parameters:
            raise SettingsError(f"store: the cassandra URL has parameter {key!r} twice")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise SettingsError(f"store: {key} of the cassandra URL is one of {', '.join(_CHOICES[key])}")
        if key in _FILES and not os.path.isfile(value):  # noqa: PTH113 - a name, passed on as it is
            raise SettingsError(f"store: {key} of the cassandra URL: there is no file {value}")
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
    return Tls(ca_file, cert_file, key_file, check_names=mode == "verify-full")
