"""What HTTP tasks call: a server of this process that answers with JSON, text, or an error."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from against_conductor.values import ZOO

_ANSWERS = {
    "/values": (200, "application/json", ZOO),
    "/list": (200, "application/json", b"[1,1.0,null,{}]"),
    "/text": (200, "text/plain", "plain \N{PARTY POPPER}".encode()),
    "/nothing": (204, "application/json", b""),
    "/missing": (404, "application/json", b'{"error":{"code":40400,"ratio":1.0}}'),
    "/broken": (500, "text/plain", b"out of order " * 60),
}


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "target", ""

    def do_GET(self) -> None:
        status, kind, body = _ANSWERS[self.path]
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Twice", "first")
        self.send_header("X-Twice", "second")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running_target() -> Iterator[str]:
    """Its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
