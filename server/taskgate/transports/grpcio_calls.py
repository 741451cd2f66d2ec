"""Ending a call of grpc.aio whose reader does not take its answer.

grpc.aio has no way to cancel a call on the server: a status waits behind the message that is not read, for ever. But
gRPC cancels a call that nothing refers to any more: its memory is free at once, and its caller has the status CANCELLED
past all windows. Two tasks refer to it: one that runs the handler, and the one that made it and waits for the caller.
Seen with grpcio 1.85; were a later one made differently, calls would go on until their callers leave.
"""

import asyncio
from typing import Any

_RUNS_HANDLER = "_handle_exceptions"
"""The coroutine of grpc.aio in whose task the handler of a call runs."""


class _HandlerTask(asyncio.Task[Any]):
    """A task that runs the handler of a call."""

    waits_for_caller: asyncio.Task[Any] | None = None


def note_calls(loop: asyncio.AbstractEventLoop) -> None:
    """Let ``end_call`` know of the tasks of each call that begins from now on; to be called once for a loop."""
    loop.set_task_factory(_make_task)


def end_call(task: asyncio.Task[Any]) -> None:
    """End the call whose handler runs in ``task``, unless it is over. What it holds must be in no cycle."""
    if isinstance(task, _HandlerTask) and task.waits_for_caller is not None and not task.done():
        task.cancel()
        task.waits_for_caller.cancel()


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    if getattr(coro, "__name__", "") != _RUNS_HANDLER:  # what closes an asynchronous generator has no name
        return asyncio.Task(coro, loop=loop, **options)
    task = _HandlerTask(coro, loop=loop, **options)
    task.waits_for_caller = asyncio.current_task(loop)
    return task
