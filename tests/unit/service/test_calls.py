"""What happens around every call: masking, deadline, log line; without any transport."""

import asyncio
import weakref

import pytest
import structlog

from support.turns import turns
from taskgate.base.errors import (
    STATUS_OF,
    DeadlineExceeded,
    InternalError,
    RateLimited,
    TaskgateError,
    TaskNotFound,
    TooManyAttempts,
)
from taskgate.service.calls import Call, EagerCoroutine, build_handlers
from taskgate.v1.error_reason_pb2 import ErrorReason


async def answer(call: Call, request: bytes) -> bytes:
    call.task_id = "some-id"
    return request


async def unexpected(call: Call, request: bytes) -> bytes:
    raise ValueError("dsn postgres://user:password@host")


async def not_found(call: Call, request: bytes) -> bytes:
    call.task_id = "some\nid"
    raise TaskNotFound("some-id")


async def slow(call: Call, request: bytes) -> bytes:
    await asyncio.sleep(60)
    return request


ENDPOINTS = {"/answer": answer, "/unexpected": unexpected, "/not-found": not_found, "/slow": slow}


async def handle(call: Call, request: bytes) -> bytes:
    """As a transport does it; built anew, because a logger keeps the configuration that it was made with."""
    return await build_handlers(ENDPOINTS, request_timeout=0.05)[call.path](call, request)


async def test_answer_passes_unchanged() -> None:
    assert await handle(Call("/answer", "id"), b"payload") == b"payload"


async def test_unexpected_error_is_masked_and_logged_whole() -> None:
    """The client gets a generic text and the request ID; the log gets the error."""
    with structlog.testing.capture_logs() as logged, pytest.raises(InternalError) as refused:
        await handle(Call("/unexpected", "request-7"), b"")
    assert "request-7" in refused.value.message
    assert "postgres" not in refused.value.message
    assert refused.value.metadata == {"request_id": "request-7"}
    assert [line["event"] for line in logged] == ["unexpected error", "call"]
    assert logged[0]["exc_info"]
    assert logged[1]["code"] == "INTERNAL"


async def test_domain_error_passes_as_it_is() -> None:
    with structlog.testing.capture_logs() as logged, pytest.raises(TaskNotFound):
        await handle(Call("/not-found", "id"), b"")
    assert [line["code"] for line in logged] == ["NOT_FOUND"]


@pytest.mark.parametrize("allowed", [None, 60.0, 0.01, 0.0], ids=["none", "long", "short", "passed"])
async def test_deadline_is_the_shorter_of_both(allowed: float | None) -> None:
    """Neither the caller's deadline nor the server's limit is waited past."""
    with pytest.raises(DeadlineExceeded, match="did not finish within"):
        async with asyncio.timeout(5):
            await handle(Call("/slow", "id", allowed), b"")


async def test_cancelled_call_is_logged_as_such() -> None:
    with structlog.testing.capture_logs() as logged:
        task = asyncio.ensure_future(handle(Call("/slow", "id"), b""))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [line["code"] for line in logged] == ["CANCELLED"]


async def test_log_line_has_the_call_and_no_payload() -> None:
    """Method, code, duration, request ID and task ID; an ID that could forge a line is escaped."""
    with structlog.testing.capture_logs() as logged:
        await handle(Call("/answer", "id"), b"payload")
        with pytest.raises(TaskNotFound):
            await handle(Call("/not-found", "id"), b"payload")
    assert set(logged[0]) == {"event", "log_level", "method", "code", "duration_ms", "request_id", "task_id"}
    assert [line["task_id"] for line in logged] == ["some-id", r"'some\nid'"]
    assert "payload" not in str(logged)


def test_every_error_has_a_row_and_a_documented_reason() -> None:
    """The table and the proto's catalogue name the same reasons; codes and HTTP statuses agree."""
    assert set(TaskgateError.__subclasses__()) == set(STATUS_OF)
    documented = set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert {status.reason for status in STATUS_OF.values()} == documented
    http = {
        "INVALID_ARGUMENT": 400,
        "NOT_FOUND": 404,
        "PERMISSION_DENIED": 403,
        "UNAVAILABLE": 503,
        "UNAUTHENTICATED": 401,
        "RESOURCE_EXHAUSTED": 503,
        "DEADLINE_EXCEEDED": 504,
        "DATA_LOSS": 500,
        "INTERNAL": 500,
    }
    of_caller = {TooManyAttempts, RateLimited}  # RESOURCE_EXHAUSTED also where the caller is to slow down
    for error, status in STATUS_OF.items():
        assert status.http_status == (429 if error in of_caller else http[status.grpc_code])
        assert status.retryable is (status.http_status in {429, 503, 504})


class TestStarted:
    """A coroutine run up to its first wait, inside the caller's task."""

    async def test_coroutine_that_never_waits_is_done(self) -> None:
        started = EagerCoroutine(answer(Call("/answer", "id"), b"payload"))
        assert (started.done, started.result) == (True, b"payload")

    async def test_what_it_raises_before_waiting_is_raised_at_once(self) -> None:
        with pytest.raises(ValueError, match="dsn"):
            EagerCoroutine(unexpected(Call("/unexpected", "id"), b""))

    async def test_coroutine_that_waits_several_times_is_finished_by_awaiting(self) -> None:
        async def waits() -> str:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return "result"

        started = EagerCoroutine(waits())
        assert not started.done
        assert await started == "result"

    async def test_cancellation_reaches_the_coroutine(self) -> None:
        seen: list[str] = []

        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async def run() -> None:
            await EagerCoroutine(waits())

        task = asyncio.ensure_future(run())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"]

    async def test_what_it_raises_after_waiting_is_raised_by_awaiting(self) -> None:
        async def waits() -> None:
            await asyncio.sleep(0)
            raise LookupError

        started = EagerCoroutine(waits())
        with pytest.raises(LookupError):
            await started

    async def test_refusal_keeps_nothing_of_what_was_read(self) -> None:
        """A thousand calls that are refused after reading 10 MB each would keep it for as long as they are answered."""

        class Document:
            pass

        reads: list[asyncio.Future[Document]] = [asyncio.get_running_loop().create_future()]

        async def refuse() -> None:
            await reads[0]
            raise LookupError

        started = EagerCoroutine(refuse())
        document = Document()
        kept = weakref.ref(document)
        reads.pop().set_result(document)
        del document
        with pytest.raises(LookupError) as refusal:
            await started
        await asyncio.sleep(0)  # until here the loop itself keeps what woke this task
        assert kept() is None, refusal
