"""Write the audit log: one line for each read that was refused to its caller."""

import logging

import structlog

from taskgate.service.in_flight import Peer

_LEVELS = structlog.make_filtering_bound_logger(logging.WARNING)
"""Whatever ``--log-level`` is: who was denied what must not depend on how much else is logged."""


def read_denied(*, request_id: str, caller: str, task_id: str, reason: str, peer: Peer | None) -> None:
    """Log that ``caller`` may not read a task, and why. All texts are made printable before."""
    structlog.wrap_logger(None, wrapper_class=_LEVELS).warning(
        "read denied",
        request_id=request_id,
        caller=caller,
        task_id=task_id,
        reason=reason,
        address=None if peer is None else peer[0],
    )
