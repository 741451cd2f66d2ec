"""How tasks are kept in a store: as the REST documents themselves, or as Conductor's own rows."""

from enum import StrEnum


class Layout(StrEnum):
    """What a stored value is, and where it is found."""

    TASKGATE = "taskgate"
    """The REST document, served byte for byte; written by ``taskgate import``."""

    CONDUCTOR = "conductor"
    """What a running Conductor writes, its ``TaskModel``; only read, projected to its Task."""
