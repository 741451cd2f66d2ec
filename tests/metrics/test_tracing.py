"""Traces, as a collector receives them, in each mode and through every client."""

import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.clients import CLIENTS, open_client
from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID
from support.running import System, eventually, running_system, taskgate


class Collector:
    """Receives OTLP over HTTP on a free port of this machine."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources.append(
                        {each.key: each.value.string_value for each in group.resource.attributes}
                    )
                    collector.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of_trace(self, trace: str) -> list[Any]:
        return [span for span in list(self.spans) if span.trace_id.hex() == trace]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(
    request: pytest.FixtureRequest, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    database = tmp_path_factory.mktemp("traces") / "tasks.db"
    assert taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=DOCUMENTED).returncode == 0
    mode = request.param
    options = ("--otlp-endpoint", collector.url, "--trace-ratio", "0")
    with running_system(database, *options, mode=mode, workers=1) as running:
        yield running


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_call_continues_the_trace_of_its_caller_and_its_read_has_a_span(
    system: System, collector: Collector, name: str
) -> None:
    """A caller that samples no trace, or has none, gets none; ``--trace-ratio`` 0 begins none."""
    client = open_client(name, system.http, system.grpc)
    outcomes = {DOCUMENTED_ID: ("OK", 0), UNKNOWN_ID: ("NOT_FOUND", 5)}
    caller = secrets.token_hex(8)
    traces = {task_id: secrets.token_hex(16) for task_id in outcomes}
    unsampled = secrets.token_hex(16)
    try:
        client.get_task_json(DOCUMENTED_ID)
        client.get_task_json(DOCUMENTED_ID, traceparent=f"00-{unsampled}-{caller}-00")
        client.get_task_json(DOCUMENTED_ID, traceparent="no such thing")
        for task_id, trace in traces.items():
            client.get_task_json(task_id, traceparent=f"00-{trace}-{caller}-01", tracestate="some=thing")
    finally:
        client.close()
    method = "StreamTaskJson" if name.startswith("rest") else "GetTaskJson"
    for task_id, trace in traces.items():
        eventually(lambda trace=trace: len(collector.of_trace(trace)) == 2, "both spans arrive")
        call, read = sorted(
            collector.of_trace(trace), key=lambda span: span.name != f"taskgate.v1.TaskService/{method}"
        )
        assert (call.name, call.parent_span_id.hex()) == (f"taskgate.v1.TaskService/{method}", caller)
        assert call.trace_state == "some=thing"
        assert (read.name, read.parent_span_id) == ("read task", call.span_id)
        assert call.start_time_unix_nano <= read.start_time_unix_nano < read.end_time_unix_nano
        assert read.end_time_unix_nano <= call.end_time_unix_nano
        about = attributes(call)
        assert about.pop("taskgate.request_id")
        code = grpc.StatusCode[outcomes[task_id][0]].value[0]
        assert about == {
            "rpc.system": "grpc",
            "rpc.service": "taskgate.v1.TaskService",
            "rpc.method": method,
            "rpc.grpc.status_code": code,
        }
        assert attributes(read) == {"db.system.name": "sqlite", "db.operation.name": "read task"}
    assert not collector.of_trace(unsampled)
    assert {resource["service.name"] for resource in collector.resources} == {"taskgate"}
    assert all(span.parent_span_id for span in collector.spans), "no trace began here"


@pytest.mark.long
def test_without_its_collector_calls_are_answered_and_the_end_is_not_delayed(tmp_path: Path) -> None:
    """In both modes; nothing but calls is in the log."""
    for mode in ("embedded", "proxied"):
        database = tmp_path / f"{mode}.db"
        assert taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=DOCUMENTED).returncode == 0
        options = ("--otlp-endpoint", "http://127.0.0.1:9", "--trace-ratio", "1")
        with running_system(database, *options, mode=mode, workers=1) as system:
            for name in CLIENTS:
                client = open_client(name, system.http, system.grpc)
                assert client.get_task_json(DOCUMENTED_ID).status == 200
                client.close()
            assert system.stop() == 0
            assert not system.find("opentelemetry|Traceback|Connection refused", system.log)
            assert not system.find("killing it", system.log)


def test_an_endpoint_that_is_no_url_is_one_sentence(tmp_path: Path) -> None:
    done = taskgate("serve", "--store", f"sqlite:///{tmp_path}/tasks.db", "--otlp-endpoint", "collector:4318")
    assert done.returncode == 2
    assert done.stderr.startswith("taskgate: otlp_endpoint (--otlp-endpoint): ")
    assert "Traceback" not in done.stderr
