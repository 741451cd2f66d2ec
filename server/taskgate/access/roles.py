"""Define the roles, and the caller that a verified token stands for."""

from dataclasses import dataclass, field
from enum import Enum

from taskgate.service.view import NOTHING, View


class Role(Enum):
    """What a caller may do."""

    READER = "reader"
    """Reads tasks; keys that ``--mask`` names are hidden."""

    UNMASKED_READER = "unmasked-reader"
    """Reads tasks as they are."""

    @property
    def unmasked(self) -> bool:
        """Whether the role sees the values that ``--mask`` hides."""
        return self is Role.UNMASKED_READER


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller that a token stands for.

    - ``name``: for the log: the name of the key, or the subject of the identity provider's token.
    - ``role``: None for a caller that may read nothing.
    - ``workflow_types``: the workflow types whose tasks it may read; None for all.
    """

    name: str
    role: Role | None
    workflow_types: frozenset[str] | None = None
    view: View = field(init=False)
    """What it may see; nothing without a role."""

    def __post_init__(self) -> None:
        """Make the view once, not for every call."""
        view = NOTHING if self.role is None else View(self.workflow_types, masked=not self.role.unmasked)
        object.__setattr__(self, "view", view)
