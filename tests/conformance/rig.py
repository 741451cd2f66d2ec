"""Define what the conformance suite needs from a database: how to make one, and direct access that bypasses taskgate.

Read tests must not depend on our writer, nor write tests on our reader: ``put`` and ``stored`` use neither.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from taskgate.stores import open_store, open_writer
from taskgate.stores.base import TaskStore, TaskWriter


class Rig(ABC):
    """One new, empty database."""

    name: str
    """The name of the store in messages."""

    similar_ids: Sequence[str] = (
        *("abc", "ABC", "abc ", " abc", "\u00e9", "e\u0301", "a%c", "a_c", "'; DROP TABLE task; --", "\u0130", "i"),
    )
    """IDs of different tasks that a database might confuse."""

    similar_ids_of_no_task: Sequence[str] = ("Abc", "ABC ")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def task_id(self, number: int) -> str:
        """One of many IDs that the database can hold."""
        return f"id-{number}"

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL that opens the database."""

    @abstractmethod
    def put(self, task_id: str, value: object) -> None:
        """Store any value under an ID, without taskgate."""

    @abstractmethod
    def stored(self) -> dict[str, bytes]:
        """Every document by ID, as another program reads it."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """Make the database unreachable while the block runs."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Let another program keep the database from answering while the block runs."""

    def silent(self) -> AbstractContextManager[None]:
        """Let a database on a network accept connections, but not answer, while the block runs."""
        return self.locked()

    @abstractmethod
    def damaged(self) -> AbstractContextManager[None]:
        """Make the database unreadable, but not missing, while the block runs."""

    @abstractmethod
    def foreign(self) -> None:
        """Make a database as Conductor itself does, instead of ours."""

    def open_store(self) -> TaskStore:
        """The store under test."""
        return open_store(self.url)

    def open_writer(self) -> TaskWriter:
        """The writer under test."""
        return open_writer(self.url)

    def create(self) -> None:
        """Make the layout, so that ``put`` has a place for its documents."""
        self.open_writer().close()
