"""Open gRPC channels through the gateway, for messages of any size and, by default, without retries of the client."""

import grpc

from taskgate.base.addresses import Address

METHODS = [
    "/taskgate.v1.TaskService/GetTaskJson",
    "/taskgate.v1.TaskService/GetTask",
    "/conductor.grpc.tasks.TaskService/GetTask",
]


def method(channel: grpc.Channel, path: str = METHODS[0]) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """One method of ``channel``, which takes and returns bytes."""
    return channel.unary_unary(path)


def open_channel(address: Address, *, retries: bool = False) -> grpc.Channel:
    """A channel to ``address``; close it, or use it as a context manager.

    With ``retries`` it has gRPC's default: a call that never left the client, because its connection was about to be
    closed, is made on the next one.
    """
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    return grpc.insecure_channel(str(address), options=[*unlimited, ("grpc.enable_retries", int(retries))])
