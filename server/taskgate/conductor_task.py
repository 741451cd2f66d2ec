"""Conductor's stored ``TaskModel`` to the REST ``Task`` that Conductor itself would answer with."""


def project_task_model(stored: bytes) -> bytes:
    """The REST document of a stored row."""
    raise NotImplementedError
