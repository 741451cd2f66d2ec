"""Probe a running Envoy over Unix sockets: ask its admin interface, and connect to its listener."""

import asyncio
import socket
import ssl
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

ADMIN_TIMEOUT = 5.0

_PROBE = b"GET / HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n"  # Envoy itself answers 404
_QUEUE_FULL_INTERVAL = 0.02
_NO_LISTENER = (ConnectionRefusedError, FileNotFoundError)


class CannotProbeError(Exception):
    """This process could not send a probe, for example for lack of a file descriptor, a thread or memory."""


async def ask_admin_in_thread(admin: Path, method: str, target: str, seconds: float) -> tuple[int, str] | None:
    """As ``ask_admin``, without blocking the event loop."""
    try:
        return await asyncio.to_thread(ask_admin, admin, method, target, seconds)
    except RuntimeError as error:  # no thread can be started
        raise CannotProbeError(str(error)) from error


def ask_admin(admin: Path, method: str, target: str, timeout: float = ADMIN_TIMEOUT) -> tuple[int, str] | None:
    """Send one request to an admin interface; return status and body of the answer, or None without one. Blocks.

    Raises CannotProbeError if the request could not be sent for a reason other than Envoy.
    """
    connection = _UnixConnection(admin, timeout=timeout)
    try:
        try:
            connection.connect()
        except (*_NO_LISTENER, BlockingIOError, TimeoutError):  # BlockingIOError: the queue of the listener is full
            return None
        except OSError as error:
            raise CannotProbeError(str(error)) from error
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


async def probe_listener(path: Path, *, tls: bool = False) -> tuple[bool, bool]:
    """Whether a listener at ``path`` accepts connections, and whether it answers on them; a full one closes them.

    With ``tls``, the answer is the beginning of its handshake: whether it trusts us, or we it, does not matter.

    Raises CannotProbeError if the connection failed for a reason other than the listener.
    """
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=_connect(path))
        except _NO_LISTENER:
            return False, False
        except BlockingIOError:  # the queue of the listener is full
            await asyncio.sleep(_QUEUE_FULL_INTERVAL)
        except OSError as error:
            raise CannotProbeError(str(error)) from error
        else:
            break
    try:
        writer.write(_client_hello() if tls else _PROBE)
        return True, bool(await reader.read(1))
    except OSError:  # it closed the connection, so it had accepted it
        return True, False
    finally:
        writer.close()


def _client_hello() -> bytes:
    """The first message of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):  # it wants the answer
        _HELLO.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="probe").do_handshake()
    return outgoing.read()


_HELLO = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nothing, and is never answered


class _UnixConnection(HTTPConnection):
    """HTTP over the Unix socket at ``path``."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(str(self._path))


def _connect(path: Path) -> socket.socket:
    """Connect to the Unix socket at ``path`` without waiting; asyncio cannot, if the queue of the listener is full.

    Raises OSError.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection
