"""How a store keeps tasks: as finished REST documents, or as Conductor's own rows."""

from enum import StrEnum


class Layout(StrEnum):
    """The format of the stored values, and the tables or keys that hold them."""

    TASKGATE = "taskgate"
    """REST documents, written by ``taskgate import`` and served byte for byte."""

    CONDUCTOR = "conductor"
    """The ``TaskModel`` rows that a running Conductor writes. They are only read, and converted to REST documents."""
