"""A worker for the SIMPLE tasks: polls over REST, and answers by task type and number of the try."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from against_conductor.conductor import Conductor

WORKER_ID = "worker-1 \N{PARTY POPPER}"
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """What the worker reports; ``output`` is a JSON text, sent as it is."""

    status: str = "COMPLETED"
    output: bytes = b"{}"
    members: Mapping[str, Any] = field(default_factory=dict)
    """Others of the update: reasonForIncompletion, callbackAfterSeconds, subWorkflowId, ..."""

    def update(self, task: Mapping[str, Any]) -> bytes:
        """The body of the update of ``task``."""
        known = {
            "workflowInstanceId": task["workflowInstanceId"],
            "taskId": task["taskId"],
            "workerId": WORKER_ID,
            "status": self.status,
        }
        return json.dumps(known | dict(self.members)).encode()[:-1] + b',"outputData":' + self.output + b"}"


Behaviour = Callable[[Mapping[str, Any]], Result | None]
"""From a polled task to what is reported; None leaves it polled."""


@contextmanager
def running_worker(conductor: Conductor, behaviours: Mapping[tuple[str, str], Behaviour]) -> Iterator[list[Exception]]:
    """Polls for every task type and domain of ``behaviours`` in a thread; what failed in it is in the list."""
    stopped = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        while not stopped.wait(_POLL_SECONDS):
            try:
                for (task_type, domain), behave in behaviours.items():
                    _poll_once(conductor, task_type, domain, behave)
            except Exception as error:  # noqa: BLE001 - the wait for the tasks shows it
                failures.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failures
    finally:
        stopped.set()
        thread.join()


def _poll_once(conductor: Conductor, task_type: str, domain: str, behave: Behaviour) -> None:
    path = f"/api/tasks/poll/{task_type}?workerid=worker-1" + (f"&domain={domain}" if domain else "")
    answer = conductor.must("GET", path)
    if not answer:
        return
    task = json.loads(answer)
    result = behave(task)
    if result is not None:
        conductor.must("POST", "/api/tasks", result.update(task))
