"""``--rate-limit``: each address may make so many calls in a second through Envoy."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from support.clients import open_client
from support.documents import DOCUMENTED_ID
from support.running import System, eventually, running_system

CALLS = 5


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., System]]:
    with ExitStack() as running:

        def start(*options: str) -> System:
            database = tmp_path_factory.mktemp("limit") / "tasks.db"
            limited = ("--demo", "--rate-limit", str(CALLS), *options)
            return running.enter_context(running_system(database, *limited, mode=request.param, workers=1))

        yield start


@pytest.fixture(scope="module")
def system(start: Callable[..., System]) -> System:
    return start()


def logged(system: System, request_id: str) -> bool:
    return any(line["request_id"] == request_id for line in system.events("call refused by Envoy"))


def test_calls_above_the_limit_are_refused_as_retryable(system: System, subtests: pytest.Subtests) -> None:
    """Through Envoy: 429 with retry-after over REST, RESOURCE_EXHAUSTED with RetryInfo over gRPC.

    A caller that claims another address in each call is limited alike.
    """
    for name in ("rest", "rest-h2", "grpc-envoy"):
        client = open_client(name, system.http, system.grpc)
        try:
            claimed = [f"203.0.113.{number}" for number in range(40 * CALLS)]
            outcomes = [client.get_task_json(DOCUMENTED_ID, x_forwarded_for=address) for address in claimed]
        finally:
            client.close()
        with subtests.test(name):
            refused = [outcome for outcome in outcomes if outcome.document == b""]
            assert refused
            for outcome in refused:
                assert outcome.message == "Too many calls from this address; try again in a second"
                if name == "grpc-envoy":
                    assert (outcome.code, outcome.reason) == ("RESOURCE_EXHAUSTED", "ERROR_REASON_RATE_LIMITED")
                else:
                    assert (outcome.status, outcome.retryable) == (429, True)
                    assert outcome.headers["retry-after"] == "1"
        with subtests.test("log"):
            last = refused[-1].headers["x-request-id"]
            eventually(lambda wanted=last: logged(system, wanted), f"the log line of {last}")


def test_the_limit_is_of_one_address_and_of_no_health_check(system: System) -> None:
    """While one address is refused, another one is served, and so are health checks."""

    def ask(path: str, address: str) -> int:
        connection = http.client.HTTPConnection(*system.http.split(":"), source_address=(address, 0), timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    task = f"/api/tasks/{DOCUMENTED_ID}"
    assert 429 in [ask(task, "127.0.0.3") for _ in range(20 * CALLS)]
    assert ask(task, "127.0.0.4") == 200
    assert {ask("/healthz", "127.0.0.3") for _ in range(2 * CALLS)} == {200}


def test_behind_a_proxy_each_caller_has_its_own_limit(start: Callable[..., System]) -> None:
    """The caller is the one that the proxy names; of IPv6, its network of 64 bits. What it claims changes nothing."""
    client = open_client("rest", *2 * (start("--trusted-hops", "1").http,))

    def statuses(*headers: str) -> list[int]:
        return [client.get_task_json(DOCUMENTED_ID, x_forwarded_for=header).status for header in headers]

    many = range(20 * CALLS)
    assert 429 in statuses(*(f"198.51.100.{number}, 203.0.113.1" for number in many))
    assert statuses("203.0.113.1, 203.0.113.2") == [200]
    assert 429 in statuses(*(f"2001:db8::{number:x}" for number in many))
    assert statuses("2001:db8::1, 2001:db8:0:1::1") == [200]
    client.close()
