"""Convert Conductor's stored ``TaskModel`` rows into the REST ``Task`` that Conductor answers with.

The package follows Conductor, which reads a row with Jackson, copies it into a ``Task`` and writes that with Jackson:
``schema`` is the table of all fields, ``decoder`` and ``coercion`` read, ``projection`` copies, ``encoder`` writes.
"""

from taskgate.documents.conductor.decoder import NullRowError
from taskgate.documents.conductor.projection import project_task_model

__all__ = ["NullRowError", "project_task_model"]
