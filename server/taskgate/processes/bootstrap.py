"""What a supervisor tells the service inside Envoy, over the standard input of that process, and what it hears back.

First one line of JSON: ``Orders``. Later perhaps ``DRAIN``. The settings may hold a password, which has no place in a
process list or an environment. A service that cannot start says why on standard error, in one line after ``REFUSAL``.
"""

import msgspec

DRAIN = b"drain\n"
"""The line that makes health checks fail, so that balancers stop sending; calls are still answered."""


REFUSAL = "taskgate: "
"""What the line of a service that cannot start begins with, inside Envoy or in a worker."""


class Orders(msgspec.Struct, frozen=True):
    """How to serve."""

    settings: str
    """``Settings`` as JSON."""

    directory: str
    """The working directory, which relative paths in the settings start from."""

    python: str
    """The interpreter that runs programs; the one inside Envoy has no program of its own."""

    heartbeat: int
    """The file descriptor that takes beats (module ``heartbeat``)."""

    log: int
    """The file descriptor that takes log lines; standard error is Envoy's."""
