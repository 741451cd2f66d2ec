"""Serve /metrics over HTTP with ``prometheus_client``, in threads of their own: no scrape waits for an event loop.

One scrape renders at a time, so scrapes use one thread's CPU at most.
"""

import socket
import threading
from socketserver import TCPServer
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app
from prometheus_client.registry import Collector

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError

_CONNECTION_SECONDS: Final = 10.0
"""How long a connection may last."""

_MOST_CONNECTIONS: Final = 16
"""Connections at a time; further ones are closed at once."""


class Endpoint:
    """Listens from its creation until ``close``."""

    def __init__(self, address: Address, collector: Collector) -> None:
        """Raises SettingsError if it cannot listen on ``address``."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        server_class = _Server6 if ":" in address.host else _Server
        try:
            self._server = make_server(address.host, address.port, _application(registry), server_class, _Handler)
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise SettingsError(f"metrics: cannot listen on {address}: {reason}") from error
        self.address = Address(address.host, self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _application(registry: CollectorRegistry) -> Any:
    """Return the library's application, for /metrics alone and one request at a time."""
    application, turn = make_wsgi_app(registry), threading.Lock()

    def serve(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"The metrics are at /metrics\n"]
        with turn:
            return application(environ, start_response)

    return serve


class _Server(ThreadingWSGIServer):
    """A thread for each connection."""

    def __init__(self, *arguments: Any) -> None:
        self._connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """As in the library, without asking DNS for the name of the host."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        limit = threading.Timer(_CONNECTION_SECONDS, request.shutdown, (socket.SHUT_RDWR,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a client that leaves early is no fault of ours."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Log no scrapes."""
