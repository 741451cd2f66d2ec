"""One Envoy and one stub server for all tests that break neither; factories for those that do."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.running import Gateway, StubServer
from gateway.wire import PROTOCOLS, Ask, ask_over
from taskgate.base.addresses import Address


@pytest.fixture(scope="package")
def stub() -> Iterator[StubServer]:
    with StubServer() as running:
        yield running


@pytest.fixture(scope="package")
def gateway(stub: StubServer) -> Iterator[Gateway]:
    with Gateway(stub) as running:
        yield running
        assert [line for _, line in running.log if "script log" in line] == [], "mistakes in the Lua code"


@pytest.fixture(params=list(PROTOCOLS))
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(protocol: str, gateway: Gateway) -> Ask:
    """Send requests to the shared gateway, over each protocol in turn."""
    return ask_over(protocol, gateway.address)


@pytest.fixture
def start_stub() -> Iterator[Callable[..., StubServer]]:
    with ExitStack() as stack:
        yield lambda port=0: stack.enter_context(StubServer(port))


@pytest.fixture
def start_gateway() -> Iterator[Callable[..., Gateway]]:
    with ExitStack() as stack:

        def start(*upstreams: StubServer | Address, **settings: Any) -> Gateway:
            return stack.enter_context(Gateway(*upstreams, **settings))

        yield start
