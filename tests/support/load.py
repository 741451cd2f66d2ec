"""Callers that ask a running system without pause, and what they got."""

import http.client
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.doors import RestDoor
from support.running import System


@contextmanager
def callers(
    system: System,
    count: int,
    documents: Mapping[str, bytes] = MappingProxyType({DOCUMENTED_ID: DOCUMENTED_COMPACT}),
    *,
    connect_anew: bool = False,
) -> Iterator[Counter[str]]:
    """REST callers that ask without pause; what they got, by kind, is complete when the block ends.

    ``documents`` are what they ask for, by ID, and what they should get. "refused" is a new connection that was not
    taken, "not accepted" one that the kernel took and nobody accepted before the socket went: the caller knows that
    nothing was done, and goes elsewhere. With ``connect_anew`` they do not keep their connections.
    """
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    tasks = list(documents.items())

    def call() -> None:
        connection = http.client.HTTPConnection(system.http, timeout=20)
        while not stop.is_set():
            new = connection.sock is None
            try:
                task_id, document = random.choice(tasks)
                connection.request("GET", f"/api/tasks/{task_id}")
                response = connection.getresponse()
                body = response.read()
                outcomes["ok" if body == document else f"{response.status} {body[:400]!r}"] += 1
            except OSError as error:
                refused = "refused" if isinstance(error, ConnectionRefusedError) else "not accepted"
                outcomes[refused if new else repr(error)] += 1
                connection.close()
            else:
                if connect_anew:
                    connection.close()
        connection.close()

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def answers(system: System) -> bool:
    """Whether a REST call succeeds now."""
    door = RestDoor("rest", system.http)
    try:
        return door.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT
    except OSError:
        return False
    finally:
        door.close()


def accepts(address: str) -> bool:
    """Whether someone listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
