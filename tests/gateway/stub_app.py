"""The service inside Envoy with a store that obeys the task ID, for the gateway's own tests; see stub_server.py.

Any ID is well formed here: the gateway does not decide which IDs name a task.
"""

import asyncio
import json

import taskgate.service.tasks
from gateway.stub_server import DOCUMENT, MESSAGE
from taskgate.base.errors import TaskNotFound
from taskgate.processes.embedded_app import Application


class StubStore:
    """Returns a description of the call for any ID that does not start with "stub."."""

    async def get_document(self, task_id: str) -> bytes | None:
        if task_id == "stub.document":
            return DOCUMENT
        if task_id == "stub.error.5":
            error = TaskNotFound(task_id)
            error.message = MESSAGE
            raise error
        if task_id.startswith("stub.sleep."):
            await asyncio.sleep(float(task_id.removeprefix("stub.sleep.")))
        return json.dumps({"task_id": task_id}).encode()

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


def any_id(_task_id: str, _task_id_format: object) -> None:
    """Replaces ``check_task_id``."""


taskgate.service.tasks.check_task_id = any_id
app = Application(lambda _url, _layout: StubStore())
