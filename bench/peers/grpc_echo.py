"""The least a Python gRPC server can do: grpc.aio on uvloop sends the request's bytes back. Its argument is a port.

It measures grpcio alone: the upper bound for one process.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from bench.servers import Server, Site
from tools.processes import ServerProcess, free_port

PATH = "/bench.Echo/Echo"


def start(site: Site) -> Server:
    """Start it."""
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.grpc_echo", str(port)]
    return Server(ServerProcess(command, site.folder / "echo.log"), grpc=f"127.0.0.1:{port}")


async def serve(port: int) -> None:
    """Serve until the process ends."""

    async def echo(request: bytes, _: object) -> bytes:
        return request

    _, service, method = PATH.split("/")
    server = grpc.aio.server()
    # No serializers: bytes in, bytes out.
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
