"""Serve a key set as an identity provider does, and misbehave on request."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]
"""Answers one request."""


def key_set(*jwks: Mapping[str, object]) -> bytes:
    """The document of a key set."""
    return json.dumps({"keys": jwks}).encode()


def body(document: bytes, status: int = 200, **headers: str) -> Answer:
    """Answer with a document."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"content-length": str(len(document)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(document)

    return answer


def trickle(part: bytes, seconds: float) -> Answer:
    """Send ``part`` again and again, with a pause before each, for 30 s."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(seconds)
            request.wfile.write(part)
            request.wfile.flush()

    return answer


class KeyServer(ThreadingHTTPServer):
    """A key server on a free port; ``answer`` may be replaced at any time, and ``asked`` counts."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked = 0
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/keys"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is no fault of the test."""


class _Handler(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Print nothing."""


@contextmanager
def running_key_server(answer: Answer) -> Iterator[KeyServer]:
    """A running key server."""
    with KeyServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
