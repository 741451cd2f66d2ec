"""Serve the keys that verify tokens to our own Envoy, as a JSON Web Key Set (RFC 7517) on a Unix socket."""

import asyncio
import json
from contextlib import suppress

import structlog

from taskgate.access.gate import PublicKeys
from taskgate.base.errors import TaskgateError
from taskgate.processes.envoy.folder import PrivateFolder

_READ_SECONDS = 2.0


class JwksServer:
    """A server for one caller, which asks every two seconds. ``await start()``, at the end ``await stop()``."""

    def __init__(self, keys: PublicKeys) -> None:
        """``keys`` are started and closed with the server."""
        self._keys = keys
        self._folder = PrivateFolder()
        self._server: asyncio.Server | None = None
        self.socket = self._folder.path / "jwks.sock"
        """The path of the Unix socket, in a folder that only this user can enter."""

    async def start(self) -> None:
        """Read the keys, and serve. Raises SettingsError if the folder cannot be used."""
        await self._keys.start()
        self._server = await asyncio.start_unix_server(self._answer, self.socket)

    async def stop(self) -> None:
        """Stop serving, and remove the socket."""
        if self._server is not None:
            self._server.close()
        await self._keys.close()
        self._folder.remove()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer any request with the keys, or 503 while they cannot be read, and close."""
        try:
            async with asyncio.timeout(_READ_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(self._response())
            with suppress(ConnectionError):
                await writer.drain()
        except (TimeoutError, EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    def _response(self) -> bytes:
        try:
            status, body = "200 OK", json.dumps({"keys": self._keys.public_keys()}).encode()
        except TaskgateError as error:
            structlog.get_logger("taskgate.access").debug("no keys for Envoy", reason=error.private)
            status, body = "503 Service Unavailable", b"{}"
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{head}connection: close\r\n\r\n".encode() + body
