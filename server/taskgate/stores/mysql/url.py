"""What a ``mysql://`` or ``mariadb://`` URL says; both are the same.

Parameters for TLS and for the server's key are named as the ``mysql`` program's options; ``pool_size`` is how many
connections one process may have.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from taskgate.base.errors import SettingsError
from taskgate.stores.network.url_parts import (
    MOST_PORT,
    Endpoint,
    endpoint,
    parse_parameters,
    parse_pool_size,
    split_url,
)

DEFAULT_PORT: Final = 3306

_TLS_FILES: Final = ("ssl_ca", "ssl_cert", "ssl_key")
_KEY_FILE: Final = "server_public_key_path"
_FILES: Final = (*_TLS_FILES, _KEY_FILE)
_KNOWN: Final = frozenset((*_FILES, "ssl", "unix_socket", "pool_size"))


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
    parts = split_url("mysql", rest)
    parameters = parse_parameters("mysql", parts.query, _KNOWN, files=_FILES)
    if not parts.path or "/" in parts.path:
        raise SettingsError(
            "store: a mysql URL names a database after the host, as in mysql://user@host:3306/conductor"
        )
    host, port = _host_and_port(parts.hosts)
    return MysqlUrl(
        host=host,
        port=port,
        unix_socket=parameters.get("unix_socket"),
        database=unquote(parts.path),
        user=parts.user or None,
        password=parts.password or "",
        tls=_tls(parameters),
        public_key=_public_key(parameters.get(_KEY_FILE)),
        pool_size=parse_pool_size(parameters),
    )


def _host_and_port(given: str) -> tuple[str, int]:
    if "," in given:
        raise SettingsError("store: a mysql URL has one host")
    try:
        split = urlsplit(f"//{given}")
        host, port = unquote(split.hostname or "localhost"), split.port
    except ValueError:  # which quotes it
        raise SettingsError("store: the host of a mysql URL is written HOST:PORT, the port from 1 to 65535") from None
    if port == 0:
        raise SettingsError(f"store: a port is a number from 1 to {MOST_PORT}")
    return endpoint("mysql", host, port or DEFAULT_PORT)


def _tls(parameters: dict[str, str]) -> ssl.SSLContext | None:
    """What to verify the server by; without ``ssl_ca``, the authorities that this machine trusts."""
    wanted = parameters.get("ssl", "true" if any(name in parameters for name in _TLS_FILES) else "false")
    if wanted not in {"true", "false"}:
        raise SettingsError("store: ssl is true or false")
    if wanted == "false":
        if any(name in parameters for name in _TLS_FILES):
            raise SettingsError("store: with ssl=false there are no ssl_ca, ssl_cert and ssl_key")
        return None
    if "ssl_key" in parameters and "ssl_cert" not in parameters:
        raise SettingsError("store: ssl_key needs ssl_cert")
    if "unix_socket" in parameters:
        raise SettingsError("store: there is no TLS over unix_socket")
    try:
        context = ssl.create_default_context(cafile=parameters.get("ssl_ca"))
        if "ssl_cert" in parameters:
            # An encrypted key would make OpenSSL ask on the terminal.
            context.load_cert_chain(parameters["ssl_cert"], parameters.get("ssl_key"), password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise SettingsError(
            "store: ssl_ca, ssl_cert or ssl_key is not a file of PEM certificates, or of a key without password"
        ) from error
    return context


def _public_key(path: str | None) -> bytes | None:
    """The key in a file, as MySQL's own ``public_key.pem``."""
    if path is None:
        return None
    try:
        text = Path(path).read_bytes()
        key = load_pem_public_key(text)
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise SettingsError(f"store: {_KEY_FILE} is not a PEM file of an RSA public key")
    return text
