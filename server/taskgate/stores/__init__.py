"""Databases that hold tasks, chosen by URL. ``base`` says what each of them must do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any
from urllib.parse import unquote

from taskgate.errors import SettingsError
from taskgate.layout import Layout
from taskgate.stores import redis
from taskgate.stores.base import TaskStore, TaskWriter
from taskgate.stores.sqlite import SqliteStore, SqliteWriter


@dataclass(frozen=True, slots=True)
class _Backend:
    """How one scheme's URLs are understood: ``locate`` turns what follows ``scheme://`` into the others' argument.

    ``name`` is the URL without what is secret; without it, nothing is. Without ``example``, the scheme is not offered.
    """

    example: str | None
    locate: Callable[[str], Any]
    open_store: Callable[[Any, Layout], TaskStore]
    open_writer: Callable[[Any], TaskWriter]
    embedded: bool = False
    name: Callable[[Any], str] | None = None


def open_store(url: str, layout: Layout = Layout.TASKGATE) -> TaskStore:
    """The store that ``url`` names, for reading. The database itself is first touched by the first read.

    ``sqlite:///tasks.db`` is a path relative to the working directory, ``sqlite:////var/lib/tasks.db`` an absolute one;
    ``%3F`` and the like stand for single bytes. ``redis.location`` has the URLs of Redis. Raises SettingsError if the
    URL is not one that taskgate knows.
    """
    backend, location = _resolve(url)
    return backend.open_store(location, layout)


def public_name(url: str) -> str:
    """What to call the store that ``url`` names: the URL, without user, password and parameters of any kind.

    Raises SettingsError as ``open_store`` does.
    """
    backend, location = _resolve(url)
    return url if backend.name is None else backend.name(location)


def is_embedded(url: str) -> bool:
    """Whether the store is a file of this machine, which taskgate makes where it is missing. Raises SettingsError."""
    backend, _ = _resolve(url)
    return backend.embedded


def open_writer(url: str, layout: Layout = Layout.TASKGATE) -> TaskWriter:
    """The store that ``url`` names, for writing; creates the database and its table if they are missing.

    Raises SettingsError as ``open_store`` does, and StoreUnavailable if the database cannot be made or is not ours.
    """
    backend, location = _resolve(url)
    if layout is Layout.CONDUCTOR:
        raise SettingsError("layout: Conductor's own database is only read; import into a store of layout taskgate")
    return backend.open_writer(location)


def _resolve(url: str) -> tuple[_Backend, Any]:
    scheme, separator, rest = url.partition("://")
    backend = _BACKENDS.get(scheme.lower()) if separator else None
    if backend is None:
        known = " or ".join(
            f"{scheme}:// (as in {backend.example})" for scheme, backend in _BACKENDS.items() if backend.example
        )
        raise SettingsError(f"store: expected a URL that begins with {known}")
    return backend, backend.locate(rest)


def _file_path(rest: str) -> str:
    if not rest.startswith("/"):
        raise SettingsError(
            "store: a sqlite URL has three slashes before a relative path (sqlite:///tasks.db)"
            " and four before an absolute one (sqlite:////var/lib/tasks.db)"
        )
    if "?" in rest or "#" in rest:
        raise SettingsError("store: a sqlite URL takes no parameters; in a path, ? is written %3F and # is written %23")
    path = unquote(rest[1:], errors="surrogateescape")
    if not path or path == ":memory:" or "\0" in path:
        raise SettingsError(
            "store: a sqlite URL needs the path of a file, as in sqlite:///tasks.db;"
            " a database in memory could not be shared by an import and the servers"
        )
    return path


def _redis(kind: redis.Kind, example: str | None, *, tls: bool) -> _Backend:
    return _Backend(
        example, partial(redis.locate, kind, tls=tls), redis.RedisStore, redis.RedisWriter, name=attrgetter("name")
    )


_BACKENDS = {
    "sqlite": _Backend("sqlite:///tasks.db", _file_path, SqliteStore, SqliteWriter, embedded=True),
    "redis": _redis(redis.Kind.STANDALONE, "redis://localhost:6379/0", tls=False),
    "redis+sentinel": _redis(redis.Kind.SENTINEL, "redis+sentinel://localhost:26379/mymaster/0", tls=False),
    "redis+cluster": _redis(redis.Kind.CLUSTER, "redis+cluster://localhost:7000,localhost:7001", tls=False),
    "rediss": _redis(redis.Kind.STANDALONE, None, tls=True),
    "rediss+sentinel": _redis(redis.Kind.SENTINEL, None, tls=True),
    "rediss+cluster": _redis(redis.Kind.CLUSTER, None, tls=True),
}
