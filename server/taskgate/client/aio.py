"""The client for asyncio."""

import asyncio
from functools import partial
from typing import Any, Self, TypeVar

import grpc

from taskgate.client.base import BaseClient, methods_of, waited_too_long
from taskgate.client.errors import CallError, error_of
from taskgate.client.steps import Flow, Rpc, Turn, remaining
from taskgate.v1.task_pb2 import Task

T = TypeVar("T")


class AsyncClient(BaseClient):
    """A client whose calls are awaited. ``BaseClient`` says what it takes.

    It may be made anywhere, and belongs to the event loop of its first call. A call that is cancelled here is cancelled
    at the server.
    """

    async def get_task(self, task_id: str, *, timeout: float | None = None) -> Task:  # noqa: ASYNC109 - all attempts
        """Return the task as a typed message; numbers in its payloads are doubles. Raises CallError."""
        task: Task = (await self._run(self._task(task_id, timeout))).task
        return task

    async def get_task_json(self, task_id: str, *, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as above
        """Return the task as its exact JSON document in UTF-8, as over REST. Raises CallError."""
        document: bytes = (await self._run(self._task_json(task_id, timeout))).data
        return document

    async def close(self) -> None:
        """Close the connection, and cancel calls in flight."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open(self) -> None:
        self._channel: grpc.aio.Channel | None = None  # it takes the event loop that runs when it is made
        self._turn = asyncio.Lock()

    def _connect(self) -> None:
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, self._options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, self._options)
        self._methods = methods_of(self._channel)

    async def _run(self, flow: Flow[T]) -> T:
        advance = partial(next, flow)
        while True:
            try:
                step = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                advance = partial(flow.send, await self._done(step))
            except CallError as error:
                advance = partial(flow.throw, error)

    async def _done(self, step: Rpc | Turn) -> Any:
        if isinstance(step, Turn):
            return await self._in_turn(step)
        if self._channel is None:
            self._connect()
        try:
            method = self._methods[step.method]
            return await method(step.request, timeout=remaining(step.deadline), metadata=step.metadata)
        except grpc.RpcError as error:
            raise error_of(error) from error

    async def _in_turn(self, turn: Turn) -> str:
        try:
            async with asyncio.timeout(remaining(turn.deadline)):
                await self._turn.acquire()
        except TimeoutError:
            raise waited_too_long() from None
        try:
            return await self._run(turn.flow)
        finally:
            self._turn.release()
