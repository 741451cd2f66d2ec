"""What a ``mysql://`` or ``mariadb://`` URL says; both are the same.

Parameters for TLS and for the server's key are named as the ``mysql`` program's options; ``pool_size`` is how many
connections one process may have.
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
    """Where the table is and how to get there."""

    host: str
    port: int
    unix_socket: str | None
    """A path, which is used in place of host and port."""
    database: str
    user: str | None
    """None for the user that taskgate runs as."""
    password: str = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)
    """The server's certificate is always verified, and so is its name."""
    public_key: bytes | None
    """A PEM text: the only key that a password is encrypted with where there is no TLS. None for the server's word."""
    pool_size: int

    @property
    def name(self) -> str:
        """The URL without user, password and parameters: what messages and logs call the store."""
        return f"mysql://{self.unix_socket or Endpoint(self.host, self.port)}/{self.database}"


def parse_mysql_url(rest: str) -> MysqlUrl:
    """What follows ``mysql://``; raises SettingsError, never with a word of the user's part or of a value."""
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
    """What to verify the server by; without ``ssl_ca``, the authorities that this machine trusts."""
    files = any(name in parameters for name in _TLS_NAMES)
    wanted = parameters.get("ssl", "true" if files else "false") == "true"
    if files and not wanted:
        raise SettingsError("store: with ssl=false there are no ssl_ca, ssl_cert and ssl_key")
    if wanted and "unix_socket" in parameters:
        raise SettingsError("store: there is no TLS over unix_socket")
    return Tls.of(parameters, _TLS_NAMES).context() if wanted else None


def _public_key(path: str | None) -> bytes | None:
    """The key in a file, as MySQL's own ``public_key.pem``."""
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
