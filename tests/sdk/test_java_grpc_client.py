"""Conductor's released Java client for gRPC, unmodified, against ``taskgate up --auth keys``: the target is ours."""

import json
from collections.abc import Iterator

import httpx
import pytest

from sdk.clients import Sdks
from support.access import Credentials, create_keys
from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID, compact, put_row
from support.full_task import FULL_TASK, SUB_WORKFLOW_PARAM, WORKFLOW_TASK
from support.running import System, running_system
from taskgate.access.roles import Role

FULL_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"

INLINE_DEFINITION = {"workflowDefinition": None}
"""The client refuses any that is not a WorkflowDef of Java, which it never makes of a message."""

FULL = FULL_TASK | {
    "taskId": FULL_ID,
    "workflowTask": WORKFLOW_TASK | {"subWorkflowParam": SUB_WORKFLOW_PARAM | INLINE_DEFINITION},
}
"""A task with every field."""

COMPUTED = {"queueWaitTime", "taskDefinition", "loopOverTask", "workflowTask"}
"""What the client's class makes of other fields, and the step, which is compared by its input."""

pytestmark = pytest.mark.needs("java grpc client")


@pytest.fixture(scope="module")
def auth_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('access') / 'keys.db'}"


@pytest.fixture(scope="module")
def key(auth_store: str) -> Credentials:
    return create_keys(auth_store, java=(Role.READER, None))["java"]


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, auth_store: str, key: Credentials
) -> Iterator[System]:
    flags = ("--demo", "--auth", "keys", "--auth-store", auth_store)
    with running_system(tmp_path_factory.mktemp("sdk") / "tasks.db", *flags, mode=request.param, workers=1) as system:
        put_row(system.database, FULL_ID, compact(FULL).decode())
        yield system


@pytest.fixture(scope="module", params=["through Envoy", "direct"])
def target(request: pytest.FixtureRequest, system: System) -> str:
    return system.grpc if request.param == "direct" else system.http


@pytest.fixture(scope="module")
def token(system: System, key: Credentials) -> str:
    """A token, as an application gets it."""
    answer = httpx.post(f"http://{system.http}/api/token", json=key.request, trust_env=False)
    token: str = answer.raise_for_status().json()["token"]
    return token


@pytest.mark.parametrize("task_id", [DOCUMENTED_ID, FULL_ID], ids=["documented", "full"])
def test_gets_the_task(sdks: Sdks, target: str, token: str, task_id: str) -> None:
    """The client's task has the values of the document, as far as it has their fields."""
    document = json.loads(DOCUMENTED) if task_id == DOCUMENTED_ID else FULL
    task = sdks.grpc_client(target, token).ask(task_id)["task"]
    common = document.keys() & task.keys() - COMPUTED
    assert len(common) > (25 if task_id == DOCUMENTED_ID else 38)
    assert {name: task[name] for name in common} == {name: document[name] for name in common}
    assert task["workflowTask"]["inputParameters"] == document["workflowTask"]["inputParameters"]


def test_reads_our_errors(sdks: Sdks, target: str, token: str) -> None:
    client = sdks.grpc_client(target, token)
    assert client.ask(UNKNOWN_ID) == {"error": f"NOT_FOUND: Task not found for taskId: {UNKNOWN_ID}"}
    assert client.ask("not-a-uuid")["error"].startswith("INVALID_ARGUMENT: Invalid task ID 'not-a-uuid'")


@pytest.mark.parametrize("wrong", ["", "no.valid.token"], ids=["no token", "wrong token"])
def test_is_refused_without_a_valid_token(sdks: Sdks, target: str, wrong: str) -> None:
    refusal = "The token is not valid" if wrong else "The call needs a token"
    assert sdks.grpc_client(target, wrong).ask(DOCUMENTED_ID)["error"].startswith(f"UNAUTHENTICATED: {refusal}")
