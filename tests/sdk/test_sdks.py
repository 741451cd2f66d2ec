"""The released Conductor SDKs, unmodified, against ``taskgate up --auth off``: only the base URL is ours."""

import json
from collections.abc import Iterator

import pytest

from sdk.clients import SDKS, Keys, PythonClient, Sdks
from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID, put_row, task
from support.running import System, running_system
from taskgate.v1.task_pb2 import Task


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system: System
    with running_system(tmp_path_factory.mktemp("sdk") / "tasks.db", "--demo", workers=1) as system:
        yield system


@pytest.fixture(scope="module")
def base_url(system: System) -> str:
    return f"http://{system.http}/api"


@pytest.fixture(scope="module")
def status_ids(system: System) -> dict[str, str]:
    """The ID of a task in each status."""
    ids = {status: f"65fc73fe-0586-11f1-8b8d-{number:012}" for number, status in enumerate(Task.Status.keys())}
    for status, task_id in ids.items():
        put_row(system.database, task_id, task(task_id, status=status).decode())
    return ids


WITH_AND_WITHOUT_KEYS = pytest.mark.parametrize("keys", [None, ("key", "secret")], ids=["without keys", "with keys"])
"""Keys make no difference, since /api/token is 404."""


@WITH_AND_WITHOUT_KEYS
def test_python_sdk_gets_every_field(base_url: str, keys: Keys | None) -> None:
    """Each field of the document is in the SDK's Task."""
    task = PythonClient(base_url, keys).sdk.get_task(DOCUMENTED_ID)
    document = json.loads(DOCUMENTED)
    names = {attribute: name for attribute, name in task.attribute_map.items() if name in document}
    assert len(names) > 30
    for attribute, name in names.items():
        if name not in {"workflowTask", "taskDefinition"}:
            assert document[name] == getattr(task, attribute), name
    assert document["workflowTask"]["taskReferenceName"] == task.workflow_task.task_reference_name
    assert document["workflowTask"]["inputParameters"] == task.workflow_task.input_parameters
    assert task.task_definition is None


@pytest.mark.parametrize(("task_id", "status"), [(UNKNOWN_ID, 404), ("not-a-uuid", 400), ("a/b c", 400)])
def test_python_sdk_reads_our_errors(base_url: str, task_id: str, status: int) -> None:
    """The SDK's exception has our status and message."""
    from conductor.client.http.rest import ApiException  # noqa: PLC0415 - a second, for every process of a run

    with pytest.raises(ApiException) as refused:
        PythonClient(base_url, None).sdk.get_task(task_id)
    assert refused.value.status == status
    body = json.loads(refused.value.body)
    assert status == body["status"]
    assert body["message"]
    if status == 404:
        assert refused.value.message == f"Task not found for taskId: {UNKNOWN_ID}"


@pytest.mark.parametrize("sdk", SDKS)
@WITH_AND_WITHOUT_KEYS
def test_sdk_gets_the_task(sdks: Sdks, base_url: str, sdk: str, keys: Keys | None) -> None:
    """The SDK's task has the values of the document, as far as it has their fields. JavaScript's is the parsed JSON."""
    task, document = sdks.client(sdk, base_url, keys).ask(DOCUMENTED_ID)["task"], json.loads(DOCUMENTED)
    common = task.keys() & document.keys() - {"workflowTask"}
    assert len(common) > 15  # Go's leaves out what is 0, false or empty
    assert {name: task[name] for name in common} == {name: document[name] for name in common}
    if sdk == "rust":
        assert "workflowTask" not in task
    else:
        assert task["workflowTask"]["inputParameters"] == document["workflowTask"]["inputParameters"]
    assert sdk != "javascript" or task == document


@pytest.mark.parametrize("sdk", SDKS)
def test_sdk_reads_each_status(sdks: Sdks, base_url: str, status_ids: dict[str, str], sdk: str) -> None:
    client = sdks.client(sdk, base_url)
    read = {status: client.ask(task_id).get("task", {}).get("status") for status, task_id in status_ids.items()}
    unknown = {"COMPLETED_WITH_ERRORS"} if sdk == "rust" else set()
    assert read == {status: None if status in unknown else status for status in status_ids}


@pytest.mark.parametrize("sdk", SDKS)
def test_sdk_reads_our_errors(sdks: Sdks, base_url: str, sdk: str) -> None:
    """The SDK's error has our status and message, JavaScript's the message only."""
    client = sdks.client(sdk, base_url)
    not_found, invalid = (client.ask(task_id)["error"] for task_id in (UNKNOWN_ID, "not-a-uuid"))
    assert f"Task not found for taskId: {UNKNOWN_ID}" in not_found
    assert "Invalid task ID 'not-a-uuid'" in invalid
    if sdk != "javascript":
        assert "404" in not_found
        assert "400" in invalid
