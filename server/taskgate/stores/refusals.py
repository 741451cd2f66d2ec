"""Define the refusals that stores have in common, in public words."""

from typing import Final

from taskgate.base.errors import Overloaded

CLOSED: Final = "it is closed"
"""The reason of a StoreUnavailable once the store has been closed."""


def overloaded(waiting: int) -> Overloaded:
    """Return the refusal of a read that finds the queue full, at ``waiting`` reads. The database is not at fault."""
    return Overloaded(f"Overloaded: {waiting} reads wait for the store; try again", limit="store_reads_waiting")
