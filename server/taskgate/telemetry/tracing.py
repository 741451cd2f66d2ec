"""Trace calls with OpenTelemetry: a span for a call and one for its read of the store, sent to a collector by OTLP.

Only the optional extra ``tracing`` has the libraries, so ``open_tracing`` imports this module when it is needed. Spans
leave in a thread, in batches. Where the collector is away, spans are dropped and calls are not affected.
"""

import asyncio
import logging
import random
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final

from google.rpc import code_pb2
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from taskgate.base.errors import TaskgateError
from taskgate.service.calls import Answer, Call, Handler
from taskgate.stores.base import StoreState, TaskStore

_extract: Final = TraceContextTextMapPropagator().extract
_SERVER_FAULT: Final = 500  # of HTTP
_CLOSE_SECONDS: Final = 2.0


class Tracing:
    """The traces of one process."""

    def __init__(self, endpoint: str, ratio: float, *, store: str) -> None:
        """Send to ``endpoint``, the URL of a collector, what its caller has sampled.

        Of calls without a trace of their caller's, sample ``ratio``. ``store`` is the scheme of the store's URL.
        """
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # an absent collector would fill standard error
        resource = Resource.create({"service.name": "taskgate", "service.version": version("taskgate")})
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)  # see _sampled_parent
        self._ratio = ratio
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("taskgate")
        self._system = store

    def layer(self, handler: Handler) -> Handler:
        """Make a span for each call of ``handler``, below its caller's if ``Call.trace`` names one."""
        tracer, sampled_parent = self._tracer, self._sampled_parent

        async def traced(call: Call, request: bytes) -> Answer:
            parent = sampled_parent(call)
            if parent is None:
                return await handler(call, request)
            with tracer.start_as_current_span(
                call.path[1:], parent, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
            ) as span:
                return await _recorded(handler, call, request, span)

        return traced

    def _sampled_parent(self, call: Call) -> Context | None:
        """Return the caller's trace, or an empty context for a new one; None if the call is not sampled.

        As the library's samplers decide, but before a span is made: one that is not recorded costs 25 µs.
        """
        if call.trace:
            parent = _extract(call.trace, Context())
            context = get_current_span(parent).get_span_context()
            if context.is_valid:
                return parent if context.trace_flags.sampled else None
        return Context() if random.random() < self._ratio else None  # noqa: S311 - no secret

    def store(self, store: TaskStore) -> TaskStore:
        """Return ``store`` with a span for each read of a call."""
        return _TracedStore(store, self._tracer, self._system)

    async def close(self) -> None:
        """Send what is left, for a limited time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.to_thread(self._provider.force_flush, int(_CLOSE_SECONDS * 1000))


async def _recorded(handler: Handler, call: Call, request: bytes, span: Span) -> Answer:
    _, service, method = call.path.split("/")
    span.set_attributes(
        {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "taskgate.request_id": call.request_id,  # to find the line in the log
        }
    )
    code = "CANCELLED"
    try:
        answer = await handler(call, request)
        code = "OK"
    except TaskgateError as error:
        code = error.status.grpc_code
        if error.status.http_status >= _SERVER_FAULT:
            span.set_status(StatusCode.ERROR, error.status.reason)
        raise
    else:
        return answer
    finally:
        span.set_attribute("rpc.grpc.status_code", code_pb2.Code.Value(code))


class _TracedStore:
    """Reads from ``store``."""

    def __init__(self, store: TaskStore, tracer: Tracer, system: str) -> None:
        self._store = store
        self._tracer = tracer
        self._attributes: dict[str, Any] = {"db.system.name": system, "db.operation.name": "read task"}

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        if not get_current_span().is_recording():
            return await self._store.get_document(task_id)
        with self._tracer.start_as_current_span(
            "read task", kind=SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
        ) as span:
            span.set_attributes(self._attributes)
            try:
                return await self._store.get_document(task_id)
            except TaskgateError as error:
                span.set_status(StatusCode.ERROR, error.status.reason)
                raise

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._store.check()

    def state(self) -> StoreState:
        """See ``TaskStore``."""
        return self._store.state()

    async def close(self) -> None:
        """See ``TaskStore``."""
        await self._store.close()
