"""Connect to MySQL and MariaDB, and translate their errors into public messages."""

import asyncio
from typing import Any, Final

import asyncmy
from asyncmy import errors

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.mysql.url import MysqlUrl
from taskgate.stores.network.connecting import HappyEyeballsLoop
from taskgate.stores.network.faults import LOST, network_reason

_NO_TABLE = "it has no table 'task' as taskgate or Conductor makes it"
_NO_ENTRY = "it does not take this user and password"
_TOO_SLOW = "it did not answer in time; is the table locked?"
_NO_PLUGIN = "it asks for a kind of authentication that taskgate does not have, or only has with TLS"

_NO_SUCH_PLUGIN: Final = 2059
_UNINTELLIGIBLE: Final = 2027
"""The client's own numbers (MySQL manual, "Client Error Message Reference")."""

_REASONS: Final = {
    1040: "it has no connection left",
    1203: "the user has no connection left",
    1226: "the user has no connection left",
    1042: "its host is not known",
    1043: "what answers there does not speak MySQL's protocol",
    1044: "the user may not use this database",
    1045: _NO_ENTRY,
    1698: _NO_ENTRY,
    1130: "it does not let this host in",
    1129: "it does not let this host in",
    3159: "it takes only connections with TLS; the URL asks for it with ssl=true or ssl_ca",
    1820: "the user's password has expired",
    1862: "the user's password has expired",
    4151: "it does not let this user in",
    3118: "it does not let this user in",
    1049: "there is no such database",
    1146: _NO_TABLE,
    1054: _NO_TABLE,
    1142: "the user may not do this; look at the grants on the table",
    1143: "the user may not do this; look at the grants on the table",
    1227: "the user may not do this; look at the grants on the table",
    1153: "a document is larger than its max_allowed_packet",
    2020: "a document is larger than its max_allowed_packet",
    1290: "it is read-only",
    1792: "it is read-only",
    1836: "it is read-only",
    1021: "the disk is full",
    1114: "the disk is full",
    1037: "it has no memory left",
    1041: "it has no memory left",
    1053: "it is starting or stopping",
    1205: "it is locked by another program",
    1213: "it is locked by another program",
    1969: _TOO_SLOW,
    3024: _TOO_SLOW,
    1317: LOST,  # an administrator killed the statement, and usually the connection too
    1927: LOST,
    2006: LOST,
    2013: LOST,
    2014: LOST,
    2055: LOST,
    4031: LOST,
    _NO_SUCH_PLUGIN: _NO_PLUGIN,
    _UNINTELLIGIBLE: "what answers there does not speak MySQL's protocol",
}
"""Public messages for error numbers (MySQL and MariaDB manuals, "Error Reference")."""

TOO_SLOW: Final = {1205, 1969, 3024}
"""Numbers for a statement that took too long, or waited too long for a lock: the connection stays usable."""


class _RefusedPlugin:
    """Replaces authentication that would send the password in clear text over an unencrypted connection."""

    def __init__(self, connection: Any) -> None:
        del connection

    def authenticate(self, packet: Any) -> None:
        """Refuse."""
        del packet
        raise errors.OperationalError(_NO_SUCH_PLUGIN, "refused without TLS")


_IN_CLEAR: Final = {"mysql_clear_password": _RefusedPlugin, "dialog": _RefusedPlugin}


class _Connection(asyncmy.connection.Connection):
    """The driver's connection, except that a configured public key is never replaced by one from the server.

    Without a key and without TLS, it requests the server's key, as MySQL's protocol specifies (MySQL manual,
    "Caching SHA-2 Pluggable Authentication").
    """

    @property
    def _server_public_key(self) -> bytes | None:
        return self._key

    @_server_public_key.setter
    def _server_public_key(self, key: bytes | None) -> None:
        self._key: bytes | None = getattr(self, "_key", None) or key


async def connect(url: MysqlUrl, timeout: float, settings: str) -> Any:  # noqa: ASYNC109 - of all that it takes
    """Connect in autocommit mode; text is sent as UTF-8 and returned as bytes.

    ``settings`` are assignments for the session, as in a SET statement. Raises errors that ``explain`` translates.
    """
    connection: Any = _Connection(  # type: ignore[no-untyped-call] # its wheel's
        host=url.host,
        port=url.port,
        unix_socket=url.unix_socket,
        user=url.user,
        password=url.password.encode(),  # the driver would use Latin-1
        database=url.database,
        charset="utf8mb4",
        use_unicode=False,
        autocommit=None,
        ssl=url.tls,
        server_public_key=url.public_key,
        program_name="taskgate",
        auth_plugin_map={} if url.tls or url.unix_socket else _IN_CLEAR,
    )
    try:
        async with asyncio.timeout(timeout):
            await _connect(connection)
            # SET NAMES, since servers can be configured to ignore the client's initial choice.
            await connection.query(f"SET NAMES utf8mb4, autocommit = 1, {settings}")
    except BaseException:
        terminate(connection)
        raise
    return connection


async def _connect(connection: Any) -> None:
    loop = HappyEyeballsLoop()
    connection._loop = loop  # noqa: SLF001 - not a parameter
    try:
        await connection.connect()
    except (errors.MySQLError, OSError):
        raise
    except RuntimeError as error:  # a package is missing
        raise errors.OperationalError(_NO_SUCH_PLUGIN, "cannot authenticate") from error
    except Exception as error:
        # The driver parses any reply as if it were MySQL's.
        raise errors.OperationalError(_UNINTELLIGIBLE, "no greeting of a MySQL server") from error
    finally:
        connection._loop = loop.real  # noqa: SLF001 - as above


def terminate(connection: Any) -> None:
    """End the connection without waiting; the driver's ``close`` waits for TLS, and for unsent data."""
    transport = connection._transport  # noqa: SLF001 - the only access to it
    connection.close()
    if transport is not None:
        transport.abort()


def is_mariadb(connection: Any) -> bool:
    """Whether the server is MariaDB, which has other names for settings."""
    return "mariadb" in str(connection.get_server_info()).lower()


def explain(store: str, error: Exception) -> StoreUnavailable | None:
    """Return the public form of an ``error`` of the driver or network; None if it says nothing about the database."""
    reason = _reason(error)
    return None if reason is None else StoreUnavailable(reason, store=store)


def number_of(error: Exception) -> int:
    """Return the error's number, or 0."""
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0


def _reason(error: Exception) -> str | None:
    if isinstance(error, errors.MySQLError):
        if isinstance(error.__cause__, OSError):  # the driver wraps connection errors
            return network_reason(error.__cause__)
        number = number_of(error)
        return _REASONS.get(number, f"it reported an error, number {number}" if number else LOST)
    return network_reason(error) if isinstance(error, OSError) else None
