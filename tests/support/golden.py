"""Golden bytes: what GetTask answers for tasks that stretch the schema, and what every language must read from it.

``tests/golden`` has, for each task, the bytes of a ``GetTaskResponse`` and protobuf's JSON of its task.
``PYTHONPATH=tests:server python -m support.golden`` writes them anew, as a live server answers.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
from google.protobuf import json_format, wrappers_pb2

from support.documents import compact, put_row
from support.full_task import FULL_TASK, PAYLOAD
from support.running import System, running_system
from taskgate.v1.task_pb2 import Task
from taskgate.v1.task_service_pb2 import GetTaskRequest, GetTaskResponse

FOLDER = Path(__file__).parents[1] / "golden"

_ = wrappers_pb2  # a StringValue is in an Any, which shows as JSON only where its type is known

_INT32 = ("retryCount", "seq", "pollCount", "startDelayInSeconds", "rateLimitPerFrequency", "workflowPriority")
_INT64 = ("scheduledTime", "startTime", "endTime", "updateTime", "callbackAfterSeconds", "firstStartTime")
_EMPTY: dict[str, Any] = {
    "taskType": "",
    "correlationId": "",
    "workerId": "",
    "domain": "",
    "reasonForIncompletion": "",
}
_POLICIES = ("RETRY", "TIME_OUT_WF", "ALERT_ONLY")
_LOGICS = ("FIXED", "EXPONENTIAL_BACKOFF", "LINEAR_BACKOFF")

DEEPEST_LIST, DEEPEST_OBJECT = 48, 32
"""How many lists, or objects, can be inside one another in a value of ``outputData``: 100 levels of messages."""


def documents() -> dict[str, dict[str, Any]]:
    """The tasks by the names of their files, without their IDs."""
    payload = {"lists": nest_lists(DEEPEST_LIST), "objects": nest(DEEPEST_OBJECT)}
    return {
        "every-field": FULL_TASK,
        "no-field": {"status": "SCHEDULED"},
        "empty-fields": {"status": "SCHEDULED", **_EMPTY, "workflowTask": {}, "taskDefinition": {}, "retryCount": 0},
        "smallest-integers": _integers(-(2**31), -(2**63)),
        "largest-integers": _integers(2**31 - 1, 2**63 - 1),
        "numbers": {
            "status": "COMPLETED",
            "outputData": {"numbers": [0, 0.1, -1.5, 5e-324, 1.7976931348623157e308, 2**53]},
        },
        "texts": {
            "status": "COMPLETED",
            "taskType": '\u0000\t"\\/\u2028\ufeff\U0010ffff',
            "outputData": {
                "": "empty key",
                "a.b": "dot",
                "constructor": "word",
                "ключ 🔑": "é e\u0301",
                "long": "ä" * 5000,
            },
        },
        "deepest": {"status": "COMPLETED", "outputData": payload},
        **dict(_statuses()),
    }


def nest_lists(depth: int) -> Any:
    """``depth`` lists inside one another."""
    return [nest_lists(depth - 1)] if depth else "bottom"


def nest(depth: int) -> Any:
    """``depth`` objects inside one another."""
    return {"in": nest(depth - 1)} if depth else "bottom"


def _integers(int32: int, int64: int) -> dict[str, Any]:
    return {"status": "FAILED", **dict.fromkeys(_INT32, int32), **dict.fromkeys(_INT64, int64)}


def _statuses() -> Iterator[tuple[str, dict[str, Any]]]:
    for number, name in enumerate(Task.Status.keys()):
        definition = {"name": "a", "timeoutPolicy": _POLICIES[number % 3], "retryLogic": _LOGICS[number % 3]}
        yield (
            f"status-{name.lower()}",
            {"status": name, "taskDefinition": definition, "outputData": {"values": PAYLOAD}},
        )


def answers(system: System, address: str) -> dict[str, bytes]:
    """Put the tasks into the store of a system; return what GetTask answers at one of its addresses.

    Maps have no order on the wire. Theirs is made one: all other bytes are as they came.
    """
    wanted = {name: str(UUID(int=number)) for number, name in enumerate(documents(), 1)}
    for name, document in documents().items():
        put_row(system.database, wanted[name], compact(document | {"taskId": wanted[name]}).decode())
    with grpc.insecure_channel(address) as channel:
        method: Any = channel.unary_unary("/taskgate.v1.TaskService/GetTask")
        asked = {name: GetTaskRequest(task_id=task_id).SerializeToString() for name, task_id in wanted.items()}
        return {name: _ordered(method(request, timeout=30)) for name, request in asked.items()}


def _ordered(answer: bytes) -> bytes:
    ordered = GetTaskResponse.FromString(answer).SerializeToString(deterministic=True)
    assert len(ordered) == len(answer)
    return ordered


def read(answer: bytes) -> dict[str, Any]:
    """Protobuf's JSON of the task in an answer."""
    return json_format.MessageToDict(GetTaskResponse.FromString(answer).task)


def saved() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """The bytes and the JSON of each golden file."""
    return {
        path.stem: (path.read_bytes(), json.loads(path.with_suffix(".json").read_text()))
        for path in FOLDER.glob("*.binpb")
    }


def main() -> None:
    """Write all files anew."""
    with tempfile.TemporaryDirectory() as folder, running_system(Path(folder, "tasks.db"), "--demo") as system:
        found = answers(system, system.grpc)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for name, answer in found.items():
        (FOLDER / f"{name}.binpb").write_bytes(answer)
        text = json.dumps(read(answer), ensure_ascii=False, indent=1, sort_keys=True)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
