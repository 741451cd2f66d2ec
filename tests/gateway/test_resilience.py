"""Servers start and stop; callers should not notice as long as one is left."""

import asyncio
import uuid
from collections.abc import Callable

import pytest

from gateway.running import Gateway, StubServer, counted
from gateway.stub_server import DOCUMENT, MESSAGE
from gateway.wire import Ask, ask_over, assert_error
from support.running import eventually
from taskgate.base.addresses import Address

PATH = "/api/tasks/"
IN_FLIGHT = 100


class TestRetries:
    @pytest.mark.parametrize("code", [1, 14])
    def test_what_a_server_did_not_do_is_tried_again(self, ask: Ask, code: int) -> None:
        """UNAVAILABLE, and CANCELLED, with which a server refuses calls that arrive while it shuts down."""
        answer = ask(f"{PATH}stub.flaky.2.{code}.{uuid.uuid4()}")
        assert (answer.status, answer.body) == (200, b"3")

    def test_three_times_and_then_the_servers_error_stands(self, ask: Ask) -> None:
        name = f"error.14.{uuid.uuid4()}"
        assert_error(ask(f"{PATH}stub.{name}"), 503, MESSAGE, retryable=True)
        assert ask(f"{PATH}stub.calls.{name}").body == b"4"

    def test_errors_of_the_servers_own_are_not_retried(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for code in (2, 3, 4, 5, 8, 10, 13, 15):
            with subtests.test(f"gRPC code {code}"):
                name = f"flaky.1.{code}.{uuid.uuid4()}"
                assert ask(f"{PATH}stub.{name}").status >= 400
                assert ask(f"{PATH}stub.calls.{name}").body == b"1"

    def test_timed_out_call_is_not_retried(self, stub: StubServer, start_gateway: Callable[..., Gateway]) -> None:
        name = f"sleep.4.0.{uuid.uuid4()}"
        ask = ask_over("http1", start_gateway(stub, request_timeout=0.3).address)
        assert ask(f"{PATH}stub.{name}").status == 504
        assert ask(f"{PATH}stub.calls.{name}").body == b"1"


class TestDeadServers:
    async def test_calls_in_flight_move_to_another(
        self, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        """A server is killed with half of a hundred running calls on it; not one of them fails."""
        victim = start_stub()
        gateway = start_gateway(victim, start_stub())
        calls = [asyncio.create_task(fetch(gateway.address, "stub.sleep.1.5")) for _ in range(IN_FLIGHT)]
        await asyncio.to_thread(eventually, lambda: counted(gateway, "downstream_rq_total") >= IN_FLIGHT, "all begun")
        victim.kill()
        answers = await asyncio.gather(*calls)
        assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}

    async def test_calls_after_it_go_elsewhere_at_once(
        self, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        """Before any health check has detected that it is gone."""
        victim = start_stub()
        gateway = start_gateway(victim, start_stub())
        await fetch(gateway.address, "stub.document")
        victim.kill()
        for _ in range(5):
            answers = await asyncio.gather(*(fetch(gateway.address, "stub.document") for _ in range(40)))
            assert [answer for answer in answers if not answer.endswith(DOCUMENT)] == []

    def test_server_that_comes_back_is_used_again(
        self, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        first = start_stub()
        ask = ask_over("http1", start_gateway(first).address)
        first.kill()
        assert ask(f"{PATH}stub.document").status == 503
        start_stub(first.address.port)
        eventually(lambda: ask(f"{PATH}stub.document").status == 200, "the new server answers", 5)


class TestHealth:
    def test_healthz_follows_the_servers(
        self, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        """200 as long as one is healthy."""
        servers = [start_stub(), start_stub(), start_stub()]
        ask = ask_over("http1", start_gateway(*servers).address)
        for server in servers[:2]:
            server.kill()
        eventually(lambda: live(ask) == 1, "two found dead", 8)
        assert ask("/healthz").status == 200
        servers[2].kill()
        eventually(lambda: ask("/healthz").status == 503, "all found dead", 8)
        assert_error(ask("/healthz"), 503, "No server could take the call; try again", retryable=True)

    def test_an_unhealthy_server_is_spared(
        self, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        sick, well = start_stub(), start_stub()
        gateway = start_gateway(sick, well)
        ask_over("http1", start_gateway(sick).address)(f"{PATH}stub.unhealthy")
        ask = ask_over("http1", gateway.address)
        eventually(lambda: served_by_one(ask), "calls go to one server only", 8)

    def test_with_none_healthy_calls_still_reach_one(
        self, protocol: str, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        """Its own error tells the caller more than Envoy could."""
        ask = ask_over(protocol, start_gateway(start_stub()).address)
        ask(f"{PATH}stub.unhealthy")
        eventually(lambda: ask("/healthz").status == 503, "found unhealthy", 8)
        assert_error(ask(f"{PATH}stub.error.14"), 503, MESSAGE, retryable=True)
        assert ask(f"{PATH}stub.document").body == DOCUMENT
        ask(f"{PATH}stub.healthy")
        eventually(lambda: ask("/healthz").status == 200, "found healthy again", 8)


def live(ask: Ask) -> int:
    """The number of servers that answer, counted by calls: each counts its own."""
    name = f"flaky.0.0.{uuid.uuid4()}"
    counts = [int(ask(f"{PATH}stub.{name}").body) for _ in range(12)]
    return counts.count(1)


def served_by_one(ask: Ask) -> bool:
    return live(ask) == 1


async def fetch(address: Address, task_id: str) -> bytes:
    """Send one request on its own connection; return the raw answer."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET {PATH}{task_id} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer
