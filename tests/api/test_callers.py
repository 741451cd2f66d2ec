"""Whom a call is counted and logged for: the address of its caller, at every front door and in both modes."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.access import create_keys, minter_of
from support.clients import CLIENTS, Client, Outcome, RestClient, open_client
from support.documents import DOCUMENTED_ID
from support.running import System, eventually, running_system
from taskgate.access.keyring import new_secret
from taskgate.access.roles import Role

FORGED, CALLER, OTHER = "198.51.100.1", "203.0.113.1", "203.0.113.2"
BY_PROXY = f"{FORGED}, {CALLER}"
"""What a proxy sends for a caller that claims to be another one."""


class Denied:
    """``taskgate up`` with a key, and a token of it that may not read the task: each read has an audit line."""

    def __init__(self, folder: Path, mode: str, stack: ExitStack, *options: str) -> None:
        self.access_log = folder / "access.log"
        url = f"sqlite:///{folder}/keys.db"
        self.key = create_keys(url, other=(Role.READER, ("none",)))["other"]
        kept = ("--demo", "--auth", "keys", "--auth-store", url, "--access-log", str(self.access_log))
        self.system: System = stack.enter_context(
            running_system(folder / "tasks.db", *kept, *options, mode=mode, workers=1)
        )
        self.token = minter_of(url, self.key.key_id).token(sub=self.key.key_id)

    def audited(self, door: str, **headers: str) -> tuple[str, str]:
        """Read the task at ``door``; return the address in the audit line, and the request ID."""
        client = open_client(door, self.system.http, self.system.grpc)
        outcome = client.get_task_json(DOCUMENTED_ID, x_authorization=self.token, **headers)
        client.close()
        assert outcome.status == 403
        seen = outcome.headers["x-request-id"]
        return self.logged("read denied", seen)["address"], seen

    def logged(self, event: str, request_id: str) -> dict[str, Any]:
        """The line of the log about a call."""
        find = lambda: [line for line in self.system.events(event) if line["request_id"] == request_id]  # noqa: E731
        (line,) = eventually(find, f"the line {event!r} of {request_id}")
        found: dict[str, Any] = line
        return found

    def client_in_access_log(self, request_id: str) -> str:
        """The caller of a request, as Envoy's access log has it."""

        def find() -> list[str]:
            lines = map(json.loads, self.access_log.read_text().splitlines())
            return [line["client"] for line in lines if line.get("request_id") == request_id]

        (client,) = eventually(find, f"the line of {request_id} in the access log")
        return str(client)


@pytest.fixture(scope="module")
def start(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Denied]]:
    with ExitStack() as stack:
        yield lambda *options: Denied(tmp_path_factory.mktemp("callers"), mode, stack, *options)


@pytest.fixture(scope="module")
def over_ipv6(start: Callable[..., Denied]) -> Denied:
    """On IPv6 alone, with no proxy in front."""
    return start("--http", "[::1]:0", "--grpc", "[::1]:0")


@pytest.fixture(scope="module")
def behind_a_proxy(start: Callable[..., Denied]) -> Denied:
    return start("--trusted-hops", "1")


@pytest.mark.parametrize("door", ["grpc", "grpc-envoy", "rest"])
def test_without_a_proxy_the_caller_is_the_connections(over_ipv6: Denied, door: str) -> None:
    """Whatever it claims. An IPv6 address has no brackets, so that it is found as any tool writes it."""
    address, _ = over_ipv6.audited(door, x_forwarded_for=BY_PROXY)
    assert address == "::1"


@pytest.mark.parametrize("door", CLIENTS)
def test_behind_a_proxy_the_caller_is_whom_the_proxy_names(behind_a_proxy: Denied, mode: str, door: str) -> None:
    """In the audit and in the access log. What stands before that in the header was claimed by the caller."""
    through_envoy = door != "grpc" or mode == "embedded"
    for sent, caller in (
        ({"x_forwarded_for": BY_PROXY}, CALLER),
        ({"x_forwarded_for": "2001:db8::1"}, "2001:db8::1"),
        ({"x_forwarded_for": f"{CALLER}, {OTHER}:1234"}, "127.0.0.1"),
        ({}, "127.0.0.1"),
    ):
        address, request_id = behind_a_proxy.audited(door, **sent)
        assert address == (caller if through_envoy else "127.0.0.1")
        if through_envoy:
            assert behind_a_proxy.client_in_access_log(request_id) == caller


def until_limited(ask: Callable[[str], Outcome], most: int) -> int:
    """Ask for CALLER, who claims another address each time, until it is limited; return how often it was refused."""
    for refused in range(most):
        outcome = ask(f"198.51.100.{refused % 256}, {CALLER}")
        if outcome.status == 429:
            return refused
        assert outcome.status == 401
    pytest.fail(f"not limited after {most} refusals")


@pytest.fixture(params=["rest", "grpc-envoy"])
def client(request: pytest.FixtureRequest, behind_a_proxy: Denied) -> Iterator[Client]:
    opened = open_client(request.param, behind_a_proxy.system.http, behind_a_proxy.system.grpc)
    yield opened
    opened.close()


def test_behind_a_proxy_each_caller_has_its_own_limit_of_refused_tokens(
    behind_a_proxy: Denied, client: Client, mode: str
) -> None:
    """By the service and, in front of servers, by Envoy."""
    ask = lambda header: client.get_task_json(DOCUMENTED_ID, x_forwarded_for=header)  # noqa: E731
    until_limited(ask, 3000)
    other = ask(f"{CALLER}, {OTHER}")
    assert other.status == 401
    if mode == "proxied":
        line = behind_a_proxy.logged("call refused by Envoy", other.headers["x-request-id"])
        assert line["address"] == OTHER


def test_behind_a_proxy_each_caller_has_its_own_limit_of_secrets(behind_a_proxy: Denied) -> None:
    """The service counts them, in either mode, so it must learn the address."""
    client = RestClient("rest", behind_a_proxy.system.http)
    wrong = json.dumps(behind_a_proxy.key.request | {"keySecret": new_secret()}).encode()
    ask = lambda header: client.post("/api/token", wrong, x_forwarded_for=header)  # noqa: E731
    assert until_limited(ask, 11) == 10
    assert ask(f"{CALLER}, {OTHER}").status == 401
    client.close()
