"""Callers over HTTP/2 that send requests and cancel them at once, many times a second.

They run in their own process, so that measurements do not wait for the interpreter: ``python resets.py ADDRESS PATH
COUNT SECONDS``.
"""

import asyncio
import struct
import subprocess
import sys
from contextlib import suppress

from hpack.hpack import Encoder

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _HEADERS, _RST_STREAM = 4, 1, 3
_END_STREAM_AND_HEADERS = 5
_CANCEL = 8
_PATIENCE = 0.02
"""Seconds after which a stream is reset."""

_STREAMS_PER_CONNECTION = 400
"""Envoy closes a connection when most of its first 500 streams were reset within a second."""


def reset(address: str, path: str, count: int, seconds: float) -> None:
    """Ask for ``path`` ``count`` times, evenly over ``seconds``, and reset each stream a moment later."""
    subprocess.run([sys.executable, __file__, address, path, f"{count}", f"{seconds}"], check=True)


async def _reset(address: str, path: str, count: int, seconds: float) -> None:
    host, _, port = address.rpartition(":")
    # Always the same header block: it never refers to the entries that it adds to the peer's table.
    names = {":method": "GET", ":path": path, ":scheme": "http", ":authority": address}
    headers = Encoder().encode(names.items())
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked = 0
    while asked < count:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
        draining = asyncio.create_task(_drain(reader))
        for stream in range(1, 2 * _STREAMS_PER_CONNECTION, 2):
            if asked == count or draining.done():
                break
            await asyncio.sleep(max(0.0, began + asked * seconds / count - loop.time()))
            writer.write(_frame(_HEADERS, _END_STREAM_AND_HEADERS, stream, headers))
            asked += 1
            loop.call_later(_PATIENCE, _cancel, writer, stream)
        await asyncio.sleep(_PATIENCE)
        writer.close()
        draining.cancel()


def _cancel(writer: asyncio.StreamWriter, stream: int) -> None:
    if not writer.is_closing():
        writer.write(_frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL)))


async def _drain(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(1 << 20):
            pass


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


if __name__ == "__main__":
    _, _address, _path, _count, _seconds = sys.argv
    asyncio.run(_reset(_address, _path, int(_count), float(_seconds)))
