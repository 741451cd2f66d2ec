"""The client for programs with threads, or without."""

import threading
from functools import partial
from typing import Any, Self, TypeVar

import grpc

from taskgate.client.base import BaseClient, methods_of, waited_too_long
from taskgate.client.errors import CallError, error_of
from taskgate.client.steps import Flow, Rpc, Turn, remaining
from taskgate.v1.task_pb2 import Task

T = TypeVar("T")


class Client(BaseClient):
    """A client whose calls block. ``BaseClient`` says what it takes.

    Threads may share one. It connects at the first call. As with grpcio itself, a process that forks makes its clients
    after the fork.
    """

    def get_task(self, task_id: str, *, timeout: float | None = None) -> Task:
        """Return the task as a typed message; numbers in its payloads are doubles. Raises CallError."""
        task: Task = self._run(self._task(task_id, timeout)).task
        return task

    def get_task_json(self, task_id: str, *, timeout: float | None = None) -> bytes:
        """Return the task as its exact JSON document in UTF-8, as over REST. Raises CallError."""
        document: bytes = self._run(self._task_json(task_id, timeout)).data
        return document

    def close(self) -> None:
        """Close the connection, and cancel calls in flight."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self._target, self._options)
        else:
            self._channel = grpc.secure_channel(self._target, self._credentials, self._options)
        self._methods = methods_of(self._channel)
        self._turn = threading.Lock()

    def _run(self, flow: Flow[T]) -> T:
        advance = partial(next, flow)
        while True:
            try:
                step = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                advance = partial(flow.send, self._done(step))
            except CallError as error:
                advance = partial(flow.throw, error)

    def _done(self, step: Rpc | Turn) -> Any:
        if isinstance(step, Turn):
            return self._in_turn(step)
        try:
            return self._methods[step.method](step.request, timeout=remaining(step.deadline), metadata=step.metadata)
        except grpc.RpcError as error:
            raise error_of(error) from error

    def _in_turn(self, turn: Turn) -> str:
        if not self._turn.acquire(timeout=remaining(turn.deadline)):
            raise waited_too_long()
        try:
            return self._run(turn.flow)
        finally:
            self._turn.release()
