"""Run the real Envoy in front of stub servers, for tests that are not async themselves."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from support.edited_configuration import edited_configuration
from taskgate.base.addresses import Address
from taskgate.documents.document import MAX_MESSAGE_BYTES
from taskgate.processes.envoy import EnvoyProcess, GatewaySettings
from taskgate.processes.envoy.probes import ask_admin

T = TypeVar("T")


_FRAMING = 4096  # around the document in one message

Change = tuple[str, str]
"""A change for ``edited_configuration``."""


def largest_answer(size: int) -> Change:
    """Limit answers over REST to ``size`` bytes."""
    limit = "max_response_body_size: "
    return f"{limit}{MAX_MESSAGE_BYTES + _FRAMING}", f"{limit}{size + _FRAMING}"


def most_calls(number: int) -> Change:
    """Limit the calls that run at a time."""
    return "requests: 4096", f"requests: {number}"


def largest_heap(size: int) -> Change:
    """Let Envoy refuse requests when its memory comes near ``size`` bytes."""
    return "max_heap_size_bytes: 2147483648", f"max_heap_size_bytes: {size}"


class StubServer:
    """A running ``stub_server.py``."""

    def __init__(self, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stub_server.py")), str(port)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.address = Address("127.0.0.1", int(self.process.stdout.readline()))

    def kill(self) -> None:
        """Send SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Gateway:
    """An ``EnvoyProcess`` in its own event loop, in its own thread."""

    def __init__(self, *upstreams: StubServer | Address, changes: Sequence[Change] = (), **settings: Any) -> None:
        """``changes`` are those of ``edited_configuration``."""
        addresses = tuple(up.address if isinstance(up, StubServer) else up for up in upstreams)
        settings = {"listen": Address("127.0.0.1", 0), "instance": "test-node", **settings}
        self.log: list[tuple[str, str]] = []
        self.envoy = EnvoyProcess(
            GatewaySettings(upstreams=addresses, **settings),
            on_log=lambda level, text: self.log.append((level, text)),
            threads=1,
        )
        self._changes = changes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` in the gateway's loop; return its result, or raise its exception."""
        return self.begin(coroutine).result(60)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``coroutine`` in the gateway's loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    @property
    def address(self) -> Address:
        assert self.envoy.address is not None
        return self.envoy.address

    @property
    def admin(self) -> Path:
        assert self.envoy.admin is not None
        return self.envoy.admin

    def __enter__(self) -> Self:
        try:
            with edited_configuration(*self._changes):
                self.run(self.envoy.start())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(RuntimeError):
            self.run(self.envoy.stop(0.1))
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def active(gateway: Gateway) -> int:
    """The number of running requests."""
    return counted(gateway, "downstream_rq_active")


def counted(gateway: Gateway, name: str) -> int:
    """A statistic of Envoy about its callers; 0 if it has had none."""
    answer = ask_admin(gateway.admin, "GET", f"/stats/prometheus?filter=http.taskgate.{name}$")
    assert answer is not None
    return int((answer[1].split() or ["0"])[-1])
