"""Callers that send requests to a running system continuously, and count the outcomes."""

import http.client
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from support.clients import GrpcClient, RestClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.running import System, eventually

_PAUSE = 0.02
"""The average pause after an answer, in seconds: without it, callers take the processors from the servers."""


@contextmanager
def in_threads(count: int, work: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """Run ``work`` in ``count`` threads, with the thread's number and an event that is set when the block ends."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(number, stop)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def rested(stop: threading.Event) -> bool:
    """Pause between two calls; return whether ``stop`` was set, so that no call follows."""
    return stop.wait(random.uniform(0, 2 * _PAUSE))


@contextmanager
def callers(
    system: System,
    count: int,
    documents: Mapping[str, bytes] = MappingProxyType({DOCUMENTED_ID: DOCUMENTED_COMPACT}),
    *,
    connect_anew: bool = False,
) -> Iterator[Counter[str]]:
    """REST callers that send requests continuously; their outcomes, by kind, are complete when the block ends.

    ``documents`` has what they ask for, by ID, and the expected answers. "refused" is a refused new connection. "not
    accepted" is one that the kernel took, but the server closed its socket before it accepted it: the caller knows that
    its call had no effect, and tries another server. With ``connect_anew``, each call has a new connection.
    """
    outcomes: Counter[str] = Counter()
    tasks = list(documents.items())

    def call(number: int, stop: threading.Event) -> None:
        connection = http.client.HTTPConnection(system.http, timeout=20)
        while not rested(stop):
            outcomes[_ask(connection, *random.choice(tasks))] += 1
            if connect_anew:
                connection.close()
        connection.close()

    with in_threads(count, call):
        yield outcomes


def _ask(connection: http.client.HTTPConnection, task_id: str, document: bytes) -> str:
    """Make one call, and return its outcome; an expected one is a single word."""
    new = connection.sock is None
    try:
        connection.request("GET", f"/api/tasks/{task_id}")
        response = connection.getresponse()
        body = response.read()
    except OSError as error:
        connection.close()
        refused = "refused" if isinstance(error, ConnectionRefusedError) else "not accepted"
        return refused if new else repr(error)
    return "ok" if body == document else f"{response.status} {body[:400]!r}"


@contextmanager
def grpc_callers(system: System, count: int, *, connect_anew: bool = False) -> Iterator[Counter[str]]:
    """Like ``callers``, over gRPC through Envoy, with clients that never retry a call by themselves."""
    outcomes: Counter[str] = Counter()

    def call(_: int, stop: threading.Event) -> None:
        client = GrpcClient("grpc-envoy", system.http)
        while not rested(stop):
            answer = client.get_task_json(DOCUMENTED_ID)
            outcomes["ok" if answer.document == DOCUMENTED_COMPACT else f"{answer.code} {answer.message}"] += 1
            if connect_anew:
                client.close()
                client = GrpcClient("grpc-envoy", system.http)
        client.close()

    with in_threads(count, call):
        yield outcomes


def check_sigterm_lets_calls_finish(system: System) -> None:
    """Calls in flight when SIGTERM arrives are answered; then the exit code is 0 and no process is left."""
    with callers(system, 8) as outcomes:
        eventually(lambda: outcomes["ok"] > 100, "calls under way")
        system.family()
        system.process.send_signal(signal.SIGTERM)
        system.wait_for("draining", in_log=True)
        before = outcomes["ok"]
        eventually(lambda: outcomes["ok"] > before + 20, "calls answered while draining")
        assert system.wait() == 0
    assert set(outcomes) <= {"ok", "refused", "not accepted"}, outcomes
    system.assert_gone()


def answers(system: System) -> bool:
    """Whether a REST call succeeds now."""
    client = RestClient("rest", system.http)
    try:
        return client.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT
    except OSError:
        return False
    finally:
        client.close()


def accepts(address: str) -> bool:
    """Whether the address accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
