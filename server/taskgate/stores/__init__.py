"""Choose the database that holds the tasks by its URL. ``base`` says what each store must do."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.stores import redis
from taskgate.stores.base import TaskStore, TaskWriter
from taskgate.stores.cassandra.url import CassandraUrl, parse_cassandra_url
from taskgate.stores.mysql.url import MysqlUrl, parse_mysql_url
from taskgate.stores.network.url_parts import without_credentials
from taskgate.stores.postgresql.url import PostgresqlUrl, parse_postgresql_url
from taskgate.stores.single_flight import SingleFlight
from taskgate.stores.sqlite.store import SqliteStore
from taskgate.stores.sqlite.writer import SqliteWriter
from taskgate.stores.url_hints import refused_url, unknown_url

_FILES_OF_A_STORE = 24
"""Covers three files for each thread that reads SQLite, connections without a pool_size, and replaced connections."""


@dataclass(frozen=True, slots=True)
class _Backend:
    """How to handle the URLs of one scheme: ``locate`` parses the part after ``scheme://`` for the other functions.

    For a database on a network, its result has a ``name``, which messages call the store. A scheme without ``example``
    is accepted but not suggested.
    """

    example: str | None
    locate: Callable[[str], Any]
    open_store: Callable[[Any, Layout], TaskStore]
    open_writer: Callable[[Any], TaskWriter]
    embedded: bool = False
    check: Callable[[Layout], None] = lambda _: None
    """Raises SettingsError if the database does not support the layout, or its driver is not installed."""


def check_store(url: str, layout: Layout) -> None:
    """Check the settings of a store without connecting to it and without loading its driver.

    Raises SettingsError as ``open_store`` does. Call it before starting anything for the store.
    """
    backend, _ = _resolve(url)
    backend.check(layout)


def open_store(url: str, layout: Layout = Layout.TASKGATE) -> TaskStore:
    """Open the store that ``url`` names, for reading. The first read connects to the database.

    ``sqlite:///tasks.db`` is a path relative to the working directory, ``sqlite:////var/lib/tasks.db`` an absolute one;
    ``%3F`` and the like stand for single bytes. ``postgresql://user@host:5432/conductor`` is as libpq takes it; see
    ``postgresql_url``, ``mysql_url``, ``cassandra_url``, and ``redis.location`` for the URLs of Redis. Raises
    SettingsError if taskgate does not know the URL, or the driver is not installed.
    """
    backend, location = _resolve(url)
    backend.check(layout)
    return backend.open_store(location, layout)


def store_name(url: str) -> str:
    """Return ``url`` without user and password, for messages and logs. Raises SettingsError as ``open_store`` does."""
    backend, location = _resolve(url)
    return url if backend.embedded else str(location.name)


def masked_url(url: str) -> str:
    """Return ``url`` with *** for users and passwords, also those that are parameters. Raises SettingsError."""
    backend, _ = _resolve(url)
    scheme, separator, rest = url.partition("://")
    return url if backend.embedded else f"{scheme}{separator}{without_credentials(rest)}"


def is_embedded(url: str) -> bool:
    """Whether the store is a local file, which taskgate creates if it is missing. Raises SettingsError."""
    backend, _ = _resolve(url)
    return backend.embedded


def files_of(url: str) -> int:
    """Return the most files and connections that one process opens to read from the store. Raises SettingsError."""
    _, location = _resolve(url)
    return _FILES_OF_A_STORE + int(getattr(location, "pool_size", 0))


def open_writer(url: str, layout: Layout = Layout.TASKGATE) -> TaskWriter:
    """Open the store that ``url`` names, for writing. Create the database and its table if they are missing.

    Raises SettingsError as ``open_store`` does, and StoreUnavailable if the database cannot be created or is not ours.
    """
    backend, location = _resolve(url)
    if layout is Layout.CONDUCTOR:
        raise SettingsError("layout: Conductor's own database is only read; import into a store of layout taskgate")
    return backend.open_writer(location)


def _resolve(url: str) -> tuple[_Backend, Any]:
    if "\0" in unquote(url):  # it would truncate names and passwords, or keep them from being sent
        raise SettingsError("store: the URL has a zero byte in it (%00), which no part of one can hold")
    scheme, separator, rest = url.partition("://")
    backend = _BACKENDS.get(scheme.lower()) if separator else None
    if backend is None:
        raise _not_a_url(url)
    try:
        return backend, backend.locate(rest)
    except SettingsError as error:
        if hint := refused_url(scheme.lower(), rest):
            raise SettingsError(f"store: {hint}") from error
        raise


def _not_a_url(url: str) -> SettingsError:
    if hint := unknown_url(url, _BACKENDS):
        return SettingsError(f"store: {hint}")
    known = " or ".join(f"{scheme}://" for scheme, backend in _BACKENDS.items() if backend.example)
    examples = ", ".join(dict.fromkeys(backend.example for backend in _BACKENDS.values() if backend.example))
    return SettingsError(f"store: expected a URL that begins with {known}, as in {examples}")


def sqlite_path(rest: str) -> str:
    """Return the path in a URL, given the part after ``sqlite://``. Raises SettingsError."""
    if not rest.startswith("/"):
        raise SettingsError(
            "store: a sqlite URL has three slashes before a relative path (sqlite:///tasks.db)"
            " and four before an absolute one (sqlite:////var/lib/tasks.db)"
        )
    if "?" in rest or "#" in rest:
        raise SettingsError("store: a sqlite URL takes no parameters; in a path, ? is written %3F and # is written %23")
    path = unquote(rest[1:], errors="surrogateescape")
    if not path or path == ":memory:":
        raise SettingsError(
            "store: a sqlite URL needs the path of a file, as in sqlite:///tasks.db;"
            " a database in memory could not be shared by an import and the servers"
        )
    return path


def _postgresql_store(url: PostgresqlUrl, layout: Layout) -> TaskStore:
    from taskgate.stores.postgresql.store import PostgresqlStore  # noqa: PLC0415 - load only the driver in use

    return SingleFlight(PostgresqlStore(url, layout))


def _postgresql_writer(url: PostgresqlUrl) -> TaskWriter:
    from taskgate.stores.postgresql.writer import PostgresqlWriter  # noqa: PLC0415 - as above

    return PostgresqlWriter(url)


def _postgresql(example: str | None) -> _Backend:
    return _Backend(example, parse_postgresql_url, _postgresql_store, _postgresql_writer)


_NO_CASSANDRA_DRIVER = (
    "store: the driver for cassandra:// is not installed; get it with: pip install 'taskgate[cassandra]'"
)


def _check_cassandra(layout: Layout) -> None:
    if layout is not Layout.CONDUCTOR:
        raise SettingsError("layout: in Cassandra, taskgate reads what Conductor writes; set layout to conductor")
    if importlib.util.find_spec("cassandra") is None:
        raise SettingsError(_NO_CASSANDRA_DRIVER)


def _cassandra_store(url: CassandraUrl, layout: Layout) -> TaskStore:
    del layout  # it has been checked
    try:
        from taskgate.stores.cassandra.store import CassandraStore  # noqa: PLC0415 - as above
    except ImportError as error:
        raise SettingsError(_NO_CASSANDRA_DRIVER) from error
    return SingleFlight(CassandraStore(url))


def _cassandra_writer(url: CassandraUrl) -> TaskWriter:
    del url
    raise SettingsError("store: in Cassandra, taskgate only reads what Conductor writes; import into another store")


def _mysql_store(url: MysqlUrl, layout: Layout) -> TaskStore:
    from taskgate.stores.mysql.store import MysqlStore  # noqa: PLC0415 - as above

    return SingleFlight(MysqlStore(url, layout))


def _mysql_writer(url: MysqlUrl) -> TaskWriter:
    from taskgate.stores.mysql.writer import MysqlWriter  # noqa: PLC0415 - as above

    return MysqlWriter(url)


def _mysql(example: str | None) -> _Backend:
    return _Backend(example, parse_mysql_url, _mysql_store, _mysql_writer)


def _redis_store(location: redis.Location, layout: Layout) -> TaskStore:
    return SingleFlight(redis.RedisStore(location, layout), cancellable=True)


def _redis(kind: redis.Kind, example: str | None, *, tls: bool) -> _Backend:
    return _Backend(example, partial(redis.locate, kind, tls=tls), _redis_store, redis.RedisWriter)


_BACKENDS = {
    "sqlite": _Backend("sqlite:///tasks.db", sqlite_path, SqliteStore, SqliteWriter, embedded=True),
    "postgresql": _postgresql("postgresql://user@host:5432/conductor"),
    "postgres": _postgresql(None),
    "cassandra": _Backend(
        "cassandra://host1,host2/conductor",
        parse_cassandra_url,
        _cassandra_store,
        _cassandra_writer,
        check=_check_cassandra,
    ),
    "mysql": _mysql("mysql://user@host:3306/conductor"),
    "mariadb": _mysql(None),
    "redis": _redis(redis.Kind.STANDALONE, "redis://localhost:6379/0", tls=False),
    "redis+sentinel": _redis(redis.Kind.SENTINEL, "redis+sentinel://localhost:26379/mymaster/0", tls=False),
    "redis+cluster": _redis(redis.Kind.CLUSTER, "redis+cluster://localhost:7000,localhost:7001", tls=False),
    "rediss": _redis(redis.Kind.STANDALONE, None, tls=True),
    "rediss+sentinel": _redis(redis.Kind.SENTINEL, None, tls=True),
    "rediss+cluster": _redis(redis.Kind.CLUSTER, None, tls=True),
}
