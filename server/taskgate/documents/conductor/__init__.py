"""Conductor's stored ``TaskModel`` rows as the REST ``Task`` that Conductor itself answers with.

Conductor reads a row with Jackson, copies it into a ``Task`` and writes that with Jackson again; so does this package:
``schema`` is the table of all fields, ``decoder`` and ``coercion`` read, ``projection`` copies, ``encoder`` writes.
"""

from taskgate.documents.conductor.decoder import NoTaskError
from taskgate.documents.conductor.projection import project_task_model

__all__ = ["NoTaskError", "project_task_model"]
