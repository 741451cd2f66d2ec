"""Choose the store of the keyring by its URL."""

from urllib.parse import unquote

from taskgate.access.keyrings.base import KeyringStore, StoredKeyring
from taskgate.access.keyrings.sqlite import SqliteKeyring
from taskgate.base.errors import SettingsError
from taskgate.stores import sqlite_path
from taskgate.stores.postgresql.url import parse_postgresql_url
from taskgate.stores.redis import Kind, locate

__all__ = ["KeyringStore", "StoredKeyring", "open_keyring"]

_SCHEMES = {
    "redis": (Kind.STANDALONE, False),
    "rediss": (Kind.STANDALONE, True),
    "redis+sentinel": (Kind.SENTINEL, False),
    "rediss+sentinel": (Kind.SENTINEL, True),
    "redis+cluster": (Kind.CLUSTER, False),
    "rediss+cluster": (Kind.CLUSTER, True),
}


def open_keyring(url: str) -> KeyringStore:
    """Open the store that ``url`` names, without connecting to it. Raises SettingsError if it is of no known kind."""
    if "\0" in unquote(url):  # it would truncate names and passwords, or keep them from being sent
        raise SettingsError("auth_store: the URL has a zero byte in it (%00), which no part of one can hold")
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    try:
        if scheme == "sqlite":
            return SqliteKeyring(sqlite_path(rest))
        if scheme in {"postgresql", "postgres"}:
            from taskgate.access.keyrings.postgresql import PostgresqlKeyring  # noqa: PLC0415 - only the driver in use

            return PostgresqlKeyring(parse_postgresql_url(rest))
        if scheme in _SCHEMES:
            from taskgate.access.keyrings.redis import RedisKeyring  # noqa: PLC0415 - as above

            kind, tls = _SCHEMES[scheme]
            return RedisKeyring(locate(kind, rest, tls=tls))
    except SettingsError as error:
        raise SettingsError(f"auth_store{str(error).removeprefix('store')}") from error
    raise SettingsError(
        "auth_store: expected a URL that begins with sqlite://, postgresql://, redis://, redis+sentinel:// or"
        " redis+cluster://, as in"
        " sqlite:///taskgate-keys.db, postgresql://user@host:5432/taskgate, redis://host:6379/0"
    )
