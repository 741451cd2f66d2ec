"""A load generator in plain Python, for machines without a real one: ``python -m bench.builtin_load``.

Arguments: authority, a file of paths (one a line), calls in flight, seconds, bytes of content in a right answer (0: any
number), and for gRPC the request message in hexadecimal. Prints one JSON object: latencies in microseconds of right
answers, errors, seconds.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.targets import ANY_SIZE, GRPC_FRAME_PREFIX

CONNECT_SECONDS = 10.0

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Work:
    """What to ask for, how hard, and the size of a right answer."""

    authority: str
    paths: list[str]
    in_flight: int
    seconds: float
    data_bytes: int


class Tally:
    """What all callers together saw."""

    def __init__(self, seconds: float) -> None:
        self.latencies_us: list[int] = []
        self.errors = 0
        self.started = time.perf_counter()
        self._end = self.started + seconds

    async def repeat(self, call: Callable[[], Awaitable[bool]]) -> None:
        """Make one call after the other until time is up; ``call`` returns whether the answer was right."""
        while (sent := time.perf_counter()) < self._end:
            if await call():
                self.latencies_us.append(round((time.perf_counter() - sent) * 1e6))
            else:
                self.errors += 1


async def load_http(work: Work) -> Tally:
    """GET over ``in_flight`` kept-alive HTTP/1.1 connections."""
    host, _, port = work.authority.rpartition(":")
    requests = itertools.cycle(f"GET {path} HTTP/1.1\r\nhost: {work.authority}\r\n\r\n".encode() for path in work.paths)
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(work.in_flight)]
    tally = Tally(work.seconds)

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(next(requests))
        head = await reader.readuntil(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        received = await _skip_chunks(reader) if length is None else len(await reader.readexactly(int(length[1])))
        return head.startswith(b"HTTP/1.1 200 ") and received == (work.data_bytes or received)

    async def caller(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await tally.repeat(lambda: call(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):  # this connection is over; the others go on
            tally.errors += 1
        writer.close()

    await asyncio.gather(*(caller(*connection) for connection in connections))
    return tally


async def _skip_chunks(reader: asyncio.StreamReader) -> int:
    """Read a body of unannounced length to its end; how many bytes it has."""
    total = 0
    while True:
        size = int(await reader.readline(), 16)
        await reader.readexactly(size + 2)
        if not size:
            return total
        total += size


async def load_grpc(work: Work, message: bytes) -> Tally:
    """Unary calls over one channel."""
    async with grpc.aio.insecure_channel(work.authority, options=ANY_SIZE) as channel:
        async with asyncio.timeout(CONNECT_SECONDS):
            await channel.channel_ready()
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(work.paths[0])
        tally = Tally(work.seconds)

        async def call() -> bool:
            try:
                answer = await method(message)
            except grpc.aio.AioRpcError:
                return False
            return GRPC_FRAME_PREFIX + len(answer) == work.data_bytes

        await asyncio.gather(*(tally.repeat(call) for _ in range(work.in_flight)))
    return tally


def main(arguments: list[str]) -> None:
    """Run and print."""
    authority, paths, in_flight, seconds, data_bytes, *message = arguments
    work = Work(authority, Path(paths).read_text().split(), int(in_flight), float(seconds), int(data_bytes))
    tally = asyncio.run(load_grpc(work, bytes.fromhex(message[0])) if message else load_http(work))
    elapsed = time.perf_counter() - tally.started
    print(json.dumps({"latencies_us": tally.latencies_us, "errors": tally.errors, "seconds": elapsed}))


if __name__ == "__main__":
    main(sys.argv[1:])
