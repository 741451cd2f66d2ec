"""Parse ``mysql://`` and ``mariadb://`` URLs; both mean the same.

Parameters for TLS and for the server's key are named like the ``mysql`` program's options; ``pool_size`` limits the
connections of one process.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from taskgate.base.errors import SettingsError
from taskgate.stores.network.tls import Tls, TlsNames
from taskgate.stores.network.url_parts import Endpoint, Grammar, file, one_of, pool_size, text

_TLS_NAMES: Final = TlsNames("ssl_ca", "ssl_cert", "ssl_key")
_KEY_FILE: Final = "server_public_key_path"
_GRAMMAR: Final = Grammar(
    "mysql",
    "mysql://USER:PASSWORD@HOST:3306/DATABASE",
    port=3306,
    host="localhost",
    parameters={
        "ssl": one_of("true", "false"),
        **_TLS_NAMES.parameters(),
        _KEY_FILE: file,
        "unix_socket": text,
        "pool_size": pool_size,
    },
)


@dataclass(frozen=True, slots=True)
class MysqlUrl:
    """The location of the table and how to connect."""

    host: str
    port: int
    unix_socket: str | None
    """A path, used in place of host and port."""
    database: str
    user: str | None
    """None for the user that taskgate runs as."""
    password: str = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)
    """Always verifies the server's certificate and its name."""
    public_key: bytes | None
    """A PEM text: the only key to encrypt a password with, without TLS. None to accept the server's key."""
    pool_size: int

    @property
    def name(self) -> str:
        """The URL without user, password and parameters: the store's name in messages and logs."""
        return f"mysql://{self.unix_socket or Endpoint(self.host, self.port)}/{self.database}"


def parse_mysql_url(rest: str) -> MysqlUrl:
    """Parse the rest after ``mysql://``; raises SettingsError, which never quotes the user's part or a value."""
    url = _GRAMMAR.parse(rest)
    if not url.path or "/" in url.path:
        raise SettingsError(f"store: a mysql URL names a database after the host, as in {_GRAMMAR.example}")
    if len(url.hosts) > 1:
        raise SettingsError("store: a mysql URL has one host")
    host, port = url.hosts[0] if url.hosts else (_GRAMMAR.host, _GRAMMAR.port)
    return MysqlUrl(
        host=host,
        port=port,
        unix_socket=url.parameters.get("unix_socket"),
        database=unquote(url.path),
        user=url.user or None,
        password=url.password or "",
        tls=_tls(url.parameters),
        public_key=_public_key(url.parameters.get(_KEY_FILE)),
        pool_size=url.pool_size,
    )


def _tls(parameters: Mapping[str, str]) -> ssl.SSLContext | None:
    """Return the TLS context or None; without ``ssl_ca``, it trusts the authorities of this machine."""
    files = any(name in parameters for name in _TLS_NAMES)
    wanted = parameters.get("ssl", "true" if files else "false") == "true"
    if files and not wanted:
        raise SettingsError("store: ssl=false cannot be combined with ssl_ca, ssl_cert and ssl_key")
    if wanted and "unix_socket" in parameters:
        raise SettingsError("store: TLS cannot be combined with unix_socket")
    return Tls.of(parameters, _TLS_NAMES).context() if wanted else None


def _public_key(path: str | None) -> bytes | None:
    """Read the key from a file such as MySQL's ``public_key.pem``."""
    if path is None:
        return None
    try:
        pem = Path(path).read_bytes()
        key = load_pem_public_key(pem)
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise SettingsError(f"store: {_KEY_FILE} is not a PEM file of an RSA public key")
    return pem
