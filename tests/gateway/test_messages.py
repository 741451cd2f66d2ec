"""Large messages pass whole, in spite of the gateway's small buffers."""

from collections.abc import Callable

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from gateway.channels import method, open_channel
from gateway.running import Gateway, StubServer, largest_answer
from gateway.wire import Ask, ask_over, assert_error
from taskgate.documents.document import MAX_DOCUMENT_BYTES, MAX_REQUEST_BYTES
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

MEBIBYTE = 1 << 20


def test_rest_answers_up_to_10_mib_are_whole_with_their_length(ask: Ask) -> None:
    """Byte for byte, with the length announced."""
    for size in (40_000, 2 * MEBIBYTE, 10 * MEBIBYTE):
        assert_document(ask, size)


def test_largest_rest_answer(gateway: Gateway) -> None:
    """Over HTTP/1.1 only: this tests the limit, and our HTTP/2 client is slow."""
    assert_document(ask_over("http1", gateway.address), MAX_DOCUMENT_BYTES)


def assert_document(ask: Ask, size: int) -> None:
    answer = ask(f"/api/tasks/stub.size.{size}")
    assert answer.status == 200
    assert answer.header("content-length") == str(size)
    assert answer.body == b'"' + b"x" * (size - 2) + b'"'


def test_rest_answer_beyond_the_limit(ask: Ask) -> None:
    assert_error(ask(f"/api/tasks/stub.size.{33 * MEBIBYTE}"), 500, "The answer is too large to be passed on")


def test_grpc_answers_up_to_the_limit_are_whole(gateway: Gateway) -> None:
    for size in (40_000, 10 * MEBIBYTE, MAX_DOCUMENT_BYTES):
        request = GetTaskJsonRequest(task_id=f"stub.size.{size}").SerializeToString()
        with open_channel(gateway.address) as channel:
            response = method(channel)(request, timeout=30)
        assert len(HttpBody.FromString(response).data) == size


def test_grpc_request_is_as_large_as_a_server_takes(gateway: Gateway) -> None:
    fits = "x" * (MAX_REQUEST_BYTES - 16)
    with open_channel(gateway.address) as channel:
        assert fits.encode() in method(channel)(GetTaskJsonRequest(task_id=fits).SerializeToString(), timeout=30)
        with pytest.raises(grpc.RpcError) as refused:
            method(channel)(GetTaskJsonRequest(task_id=2 * fits).SerializeToString(), timeout=30)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_smaller_limit_holds(protocol: str, stub: StubServer, start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(stub, changes=[largest_answer(MEBIBYTE)])
    ask = ask_over(protocol, gateway.address)
    assert ask(f"/api/tasks/stub.size.{MEBIBYTE}").status == 200
    assert ask(f"/api/tasks/stub.size.{MEBIBYTE + 8192}").status == 500
