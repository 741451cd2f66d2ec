"""A proxy to a server that limits the bytes a second, or stalls connections."""

import asyncio
from contextlib import suppress
from typing import Self

_CHUNK = 1 << 16


class SlowLine:
    """The proxy on its own port, as an async context manager. It slows only the direction from the server."""

    def __init__(self, server_port: int, bytes_per_second: float = float("inf")) -> None:
        self.port = 0
        self._server_port = server_port
        self._bytes_per_second = bytes_per_second
        self._flowing: list[asyncio.Event] = []  # one for each connection
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def stall(self) -> None:
        """Forward nothing more on existing connections, which stay open."""
        for flowing in self._flowing:
            flowing.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        flowing = asyncio.Event()
        flowing.set()
        self._flowing.append(flowing)
        for pump in (
            self._forward(reader, to_server, flowing, float("inf")),
            self._forward(from_server, writer, flowing, self._bytes_per_second),
        ):
            task = asyncio.create_task(pump)
            self._pumps.add(task)

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, flowing: asyncio.Event, rate: float
    ) -> None:
        try:
            with suppress(OSError):
                while data := await source.read(_CHUNK):
                    await flowing.wait()
                    target.write(data)
                    await target.drain()
                    await asyncio.sleep(len(data) / rate)
        finally:
            target.close()
