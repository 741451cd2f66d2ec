"""What the conformance suite needs to know about a database: how to make one, and a side door into it.

A read test must not depend on our writing, nor a write test on our reading: ``put`` and ``stored`` go past both.
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
    """What messages must call the store."""

    similar_ids: Sequence[str] = (
        *("abc", "ABC", "abc ", " abc", "\u00e9", "e\u0301", "a%c", "a_c", "'; DROP TABLE task; --", "\u0130", "i"),
    )
    """IDs of different tasks that somebody might take for the same."""

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
        """Every document that another program finds, by ID."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """The database cannot be reached while the block runs, and is back after it."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Another program keeps the database from answering while the block runs."""

    def silent(self) -> AbstractContextManager[None]:
        """The database, one on a network, takes connections and says nothing while the block runs."""
        return self.locked()

    @abstractmethod
    def damaged(self) -> AbstractContextManager[None]:
        """The database is there and cannot be understood while the block runs."""

    @abstractmethod
    def foreign(self) -> None:
        """Instead of ours, make a database as Conductor itself does."""

    def open_store(self) -> TaskStore:
        """The store under test."""
        return open_store(self.url)

    def open_writer(self) -> TaskWriter:
        """The writer under test."""
        return open_writer(self.url)

    def create(self) -> None:
        """Make the layout, so that the side door has somewhere to put things."""
        self.open_writer().close()
