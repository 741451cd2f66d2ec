"""``--rate-limit``: each address may make so many calls in a second through Envoy."""

import http.client
from collections.abc import Iterator

import pytest

from support.clients import open_client
from support.documents import DOCUMENTED_ID
from support.running import System, eventually, running_system

CALLS = 5


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    database = tmp_path_factory.mktemp("limit") / "tasks.db"
    limit = ("--rate-limit", str(CALLS))
    with running_system(database, "--demo", *limit, mode=request.param, workers=1) as system:
        yield system


def logged(system: System, request_id: str) -> bool:
    return any(line["request_id"] == request_id for line in system.events("call refused by Envoy"))


def test_calls_above_the_limit_are_refused_as_retryable(system: System, subtests: pytest.Subtests) -> None:
    """Through Envoy: 429 with retry-after over REST, RESOURCE_EXHAUSTED with RetryInfo over gRPC."""
    for name in ("rest", "rest-h2", "grpc-envoy"):
        client = open_client(name, system.http, system.grpc)
        try:
            outcomes = [client.get_task_json(DOCUMENTED_ID) for _ in range(40 * CALLS)]
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
