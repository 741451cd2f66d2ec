"""What ``Client`` and ``AsyncClient`` share: their settings, and the steps of each call."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from taskgate.client.channels import MOST_ATTEMPTS, Tls, channel_options
from taskgate.client.errors import DeadlineExceeded
from taskgate.client.steps import Flow, Rpc, answered
from taskgate.client.tokens import Key, Token, tokens_for
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest, GetTaskRequest
from taskgate.v1.task_service_pb2_grpc import TaskServiceStub
from taskgate.v1.token_service_pb2_grpc import TokenServiceStub

DEFAULT_TIMEOUT = 10.0


class BaseClient(ABC):
    """A server to ask, and how.

    Args:
        target: ``HOST:PORT`` of Envoy or of a server, or any target of gRPC, such as ``dns:///tasks.internal:8443``,
            ``ipv4:10.0.0.1:50051,10.0.0.2:50051`` or ``unix:/run/proxy.sock``. Calls go to all its addresses in turn.
        tls: True for TLS with the authorities that this machine trusts, or the files to use; False for plain text.
        token: a token, or a function that returns the one to use now.
        key: a key of ``taskgate keys``, for which tokens are fetched and renewed.
        timeout: the seconds that a call may take, with all its attempts and the renewal of a token.
        attempts: how often a call is sent at most, 1 to 5, while the server is UNAVAILABLE.

    Raises:
        ValueError: a value that cannot be used.
        OSError: a file of ``tls`` that cannot be read.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | bool = False,
        token: Token | None = None,
        key: Key | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        attempts: int = MOST_ATTEMPTS,
    ) -> None:
        files = tls if isinstance(tls, Tls) else Tls() if tls else None
        self._target = target
        self._credentials = None if files is None else files.credentials()
        self._options = channel_options(target, tls=files, attempts=attempts)
        self._tokens = tokens_for(token, key)
        self._timeout = _checked(timeout)
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Make what calls need."""

    def _task(self, task_id: str, timeout: float | None) -> Flow[Any]:
        return answered(self._tokens, Rpc("GetTask", GetTaskRequest(task_id=task_id), self._deadline(timeout)))

    def _task_json(self, task_id: str, timeout: float | None) -> Flow[Any]:
        return answered(self._tokens, Rpc("GetTaskJson", GetTaskJsonRequest(task_id=task_id), self._deadline(timeout)))

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else _checked(timeout))


def methods_of(channel: Any) -> Mapping[str, Callable[..., Any]]:
    """Return the methods of the stubs on ``channel``, of either API, by their names."""
    tasks, tokens = TaskServiceStub(channel), TokenServiceStub(channel)
    return {"GetTask": tasks.GetTask, "GetTaskJson": tasks.GetTaskJson, "CreateToken": tokens.CreateToken}


def waited_too_long() -> DeadlineExceeded:
    """Return the error of a call whose time ended before it was sent."""
    return DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, "The time ended while another call renewed the token")


def _checked(timeout: float) -> float:
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout: {timeout} is not a number of seconds above 0")
    return timeout
