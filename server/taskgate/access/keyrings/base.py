"""Define what the store of a keyring must do; ``tests/conformance/test_keyrings.py`` tests every "must"."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredKeyring:
    """A stored keyring. ``revision`` counts the replacements. With 0, none is stored; ``document`` is empty."""

    revision: int
    document: bytes


class KeyringStore(Protocol):
    """One document with a revision. It holds private keys, so only taskgate and its operator should be able to read it.

    All methods raise StoreUnavailable within five seconds if the store is away, locked, damaged, full or read-only.
    """

    name: str
    """The URL without user and password, for the log."""

    async def read(self, known: int | None = None) -> StoredKeyring | None:
        """Return what is stored; None if its revision is ``known``. Must not create anything."""
        ...

    async def replace(self, document: bytes, *, revision: int) -> bool:
        """Store ``document`` with the next revision if the stored one is ``revision``, in one step; else return False.

        - Must create the store if it is missing.
        - Must have replaced all or nothing, whatever interrupts it.
        """
        ...

    async def close(self) -> None:
        """Release every connection. Must be safe to call twice."""
        ...
