"""The HTTP server of the metrics, which strangers may reach too."""

import http.client
import socket
from collections.abc import Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily

from support.running import eventually
from taskgate.base.addresses import Address
from taskgate.telemetry import endpoint


class Collector:
    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("answer", "An answer.", 42)


def ask(address: Address, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_the_metrics_are_served(host: str) -> None:
    served = endpoint.Endpoint(Address(host, 0), Collector())
    try:
        status, body = ask(served.address, "GET", "/metrics")
        assert (status, b"answer 42.0" in body) == (200, True)
        assert ask(served.address, "GET", "/")[0] == 404
        assert ask(served.address, "POST", "/metrics")[0] == 405
    finally:
        served.close()


def test_silent_connections_are_few_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers that send nothing, or half a request, hold the endpoint up for a limited time."""
    monkeypatch.setattr(endpoint, "_CONNECTION_SECONDS", 1.0)
    served = endpoint.Endpoint(Address("127.0.0.1", 0), Collector())
    silent = [socket.create_connection(served.address) for _ in range(40)]
    try:
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\nhost:")

        def answered() -> bool:
            try:
                return ask(served.address, "GET", "/metrics")[0] == 200
            except (OSError, http.client.HTTPException):  # refused meanwhile
                return False

        eventually(answered, "a scrape is answered")
    finally:
        for connection in silent:
            connection.close()
        served.close()
