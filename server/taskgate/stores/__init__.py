"""Databases that hold tasks, chosen by URL. ``base`` says what each must do."""

from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from taskgate.errors import SettingsError
from taskgate.stores.base import TaskStore, TaskWriter
from taskgate.stores.sqlite import SqliteStore, SqliteWriter

_READERS: dict[str, Callable[[str], TaskStore]] = {"sqlite": SqliteStore}
_WRITERS: dict[str, Callable[[str], TaskWriter]] = {"sqlite": SqliteWriter}


def open_store(url: str) -> TaskStore:
    """The store that ``url`` names, for reading. The database itself is first touched by the first read.

    ``sqlite:///tasks.db`` is a path relative to the working directory, ``sqlite:////var/lib/tasks.db`` an absolute one.
    Raises SettingsError if the URL is not one that taskgate knows.
    """
    scheme, path = _split(url)
    return _READERS[scheme](path)


def open_writer(url: str) -> TaskWriter:
    """The store that ``url`` names, for writing; creates the database and its table if they are missing.

    Raises SettingsError as ``open_store`` does, and StoreUnavailable if the database cannot be made or is not ours.
    """
    scheme, path = _split(url)
    return _WRITERS[scheme](path)


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme not in _READERS:
        known = ", ".join(f"{scheme}://" for scheme in _READERS)
        raise SettingsError(f"store: the URL must begin with {known} (the default is sqlite:///tasks.db)")
    path = unquote(url.removeprefix(f"{parts.scheme}://"))
    if parts.netloc or not path.startswith("/"):
        raise SettingsError("store: a SQLite URL has three slashes before a relative path, four before an absolute one")
    path = path.removeprefix("/")
    if not path or ":memory:" in path:
        raise SettingsError("store: a SQLite URL needs a file, such as sqlite:///tasks.db; processes share the store")
    return parts.scheme, path
