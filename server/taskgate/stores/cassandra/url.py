"""Parse ``cassandra://`` URLs."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from taskgate.base.errors import SettingsError
from taskgate.stores.network.tls import Tls, TlsNames
from taskgate.stores.network.url_parts import Endpoint, Grammar, StoreUrl, one_of, text

DEFAULT_KEYSPACE: Final = "conductor"
"""Conductor's default of ``conductor.cassandra.keyspace``."""

DEFAULT_CONSISTENCY: Final = "LOCAL_QUORUM"
"""Conductor's default for reads and writes: such a read sees every finished write."""

_TLS_NAMES: Final = TlsNames("ca_file", "cert_file", "key_file")
_GRAMMAR: Final = Grammar(
    "cassandra",
    "cassandra://host1:9042,host2/conductor",
    port=9042,
    parameters={
        "local_dc": text,
        "consistency": one_of("ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_ONE", DEFAULT_CONSISTENCY),
        "tls": one_of("verify-full", "verify-ca"),
        **_TLS_NAMES.parameters(),
    },
)
_KEYSPACE: Final = re.compile(r"[A-Za-z0-9_]{1,48}")


@dataclass(frozen=True, slots=True)
class CassandraUrl:
    """The location of Conductor's keyspace and how to connect."""

    hosts: tuple[Endpoint, ...]
    """Name or address, and port, of the contact points; they know the other nodes."""
    keyspace: str
    user: str | None
    password: str = field(repr=False)
    local_dc: str | None
    """The data centre to read from; None for that of the first node that answers."""
    consistency: str
    tls: Tls | None

    @property
    def name(self) -> str:
        """The URL without user, password and parameters: the store's name in messages and logs."""
        return f"cassandra://{','.join(map(str, self.hosts))}/{self.keyspace}"


def parse_cassandra_url(rest: str) -> CassandraUrl:
    """Parse the rest after ``cassandra://``; raises SettingsError, which never quotes the user's part."""
    url = _GRAMMAR.parse(rest)
    return CassandraUrl(
        hosts=url.hosts,
        keyspace=_keyspace(unquote(url.path)),
        user=url.user,
        password=url.password or "",
        local_dc=url.parameters.get("local_dc") or None,
        consistency=url.parameters.get("consistency", DEFAULT_CONSISTENCY),
        tls=_tls(url),
    )


def _keyspace(name: str) -> str:
    """Convert to lower case, as Cassandra does with unquoted names, which Conductor uses."""
    if name and not _KEYSPACE.fullmatch(name):
        raise SettingsError("store: the keyspace of a cassandra URL has 1 to 48 letters, digits and underscores")
    return name.lower() or DEFAULT_KEYSPACE


def _tls(url: StoreUrl) -> Tls | None:
    mode = url.parameters.get("tls")
    if mode is None:
        if any(name in url.parameters for name in _TLS_NAMES):
            raise SettingsError(
                "store: the cassandra URL names files for TLS and does not ask for it; add tls=verify-full"
            )
        return None
    return Tls.of(url.parameters, _TLS_NAMES, check_names=mode == "verify-full")
