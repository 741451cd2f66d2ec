"""Refusals that stores have in common, in public words."""

from typing import Final

from taskgate.base.errors import Overloaded

CLOSED: Final = "it is closed"
"""The reason of a StoreUnavailable once the store has been closed."""


def overloaded(waiting: int) -> Overloaded:
    """For a read that finds ``waiting`` others before it, as many as may be: the database itself is not the fault."""
    return Overloaded(f"Overloaded: {waiting} reads wait for the store; try again", limit="store_reads_waiting")
