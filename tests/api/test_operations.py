"""The interface for operators: health, reflection, request IDs, log lines."""

import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.clients import Client, GrpcClient, RestClient
from support.documents import DOCUMENTED_ID, UNKNOWN_ID
from support.running import System, eventually
from taskgate.service.calls import usable_request_id

SERVING = health_pb2.HealthCheckResponse.SERVING


def test_health_is_serving_overall_and_per_service(grpc_client: GrpcClient) -> None:
    """``Check`` and the first message of ``Watch`` say SERVING."""
    stub = health_pb2_grpc.HealthStub(grpc_client.channel)
    for name in ("", "taskgate.v1.TaskService", "conductor.grpc.tasks.TaskService"):
        request = health_pb2.HealthCheckRequest(service=name)
        watch = stub.Watch(request, timeout=20)
        told = (stub.Check(request, timeout=20).status, next(watch).status)
        watch.cancel()
        assert (name, *told) == (name, SERVING, SERVING)


def test_health_of_an_unknown_service_is_not_found(grpc_client: GrpcClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        health_pb2_grpc.HealthStub(grpc_client.channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=5)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_healthz_is_200(system: System) -> None:
    client = RestClient("rest", system.http)
    assert client.get("/healthz").status == 200
    client.close()


def test_request_id_is_kept_or_made_and_returned(client: Client) -> None:
    """Every answer returns the caller's ID, or a new one if the caller sent none."""
    for task_id in (DOCUMENTED_ID, UNKNOWN_ID):
        assert client.get_task_json(task_id, x_request_id="my-id-1").headers["x-request-id"] == "my-id-1"
        made = [client.get_task_json(task_id).headers["x-request-id"] for _ in range(2)]
        assert made[0] != made[1]
        assert len(made[0]) >= 16


def test_unusable_request_id_is_replaced_and_the_new_one_is_returned_and_logged(client: Client, system: System) -> None:
    """Over-long or with odd characters: the answer has only an ID that the log has."""
    for offered in ("x" * 129, "x" * 6000, "a b", 'a"b', "a,b", "%0a"):
        for task_id in (DOCUMENTED_ID, UNKNOWN_ID):
            returned = client.get_task_json(task_id, x_request_id=offered).headers["x-request-id"]
            assert returned != offered
            assert usable_request_id(returned) == returned
            eventually(
                lambda wanted=returned: any(event["request_id"] == wanted for event in system.events("call")),
                f"the log line of {returned}",
            )


def test_each_call_is_one_log_line_without_payload(client: Client, system: System) -> None:
    """Method, code, duration, request ID and task ID; nothing of the document."""
    for task_id, code in ((DOCUMENTED_ID, "OK"), (UNKNOWN_ID, "NOT_FOUND"), ("x\ny", "INVALID_ARGUMENT")):
        request_id = f"log-{client.name}-{code}"
        client.get_task_json(task_id, x_request_id=request_id)

        def lines(wanted: str = request_id) -> list[dict[str, object]]:
            return [event for event in system.events("call") if event["request_id"] == wanted]

        eventually(lines, f"the log line of {request_id}")
        (line,) = lines()
        assert {"method", "code", "duration_ms", "request_id", "task_id", "event", "level", "timestamp"} == set(line)
        method = "StreamTaskJson" if client.name.startswith("rest") else "GetTaskJson"
        assert (f"/taskgate.v1.TaskService/{method}", code) == (line["method"], line["code"])
        assert line["task_id"] == (task_id if task_id.isprintable() else ascii(task_id))
        assert "inputData" not in json.dumps(line)


def test_start_says_that_it_is_open(system: System) -> None:
    """Without authentication, the log says so at start."""
    assert system.find("no authentication is configured", system.log)
