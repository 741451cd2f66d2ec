"""Write the audit log: one line for each read that was refused to its caller."""

import structlog

from taskgate.service.in_flight import Peer


def read_denied(*, request_id: str, caller: str, task_id: str, reason: str, peer: Peer | None) -> None:
    """Log that ``caller`` may not read a task, and why. All texts are made printable before."""
    structlog.get_logger("taskgate.audit").warning(
        "read denied",
        request_id=request_id,
        caller=caller,
        task_id=task_id,
        reason=reason,
        address=None if peer is None else peer[0],
    )
