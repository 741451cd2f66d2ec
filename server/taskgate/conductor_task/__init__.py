"""Conductor's stored ``TaskModel`` rows as the REST ``Task`` that Conductor itself answers with.

Conductor reads a row with Jackson, copies it into a ``Task`` and writes that with Jackson again; so does this package:
``beans`` is the table of all fields, ``reading`` and ``jackson`` read, ``projection`` copies, ``text`` writes.
"""

from taskgate.conductor_task.projection import project_task_model
from taskgate.conductor_task.reading import NoTaskError

__all__ = ["NoTaskError", "project_task_model"]
