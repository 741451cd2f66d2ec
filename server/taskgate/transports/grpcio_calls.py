"""Find the calls in flight of a grpc.aio server, and cancel one whose client does not read its answer.

grpc.aio cannot cancel a call on the server: a status waits for ever behind the unread message. But gRPC cancels a call
that has no references left. It frees the memory at once and sends CANCELLED, past all flow-control windows. Two tasks
hold references: one runs the handler; the other made the first, and waits for the client to leave. ``end_call`` cancels
both. Seen with grpcio 1.85; if a later version differs, such calls last until their clients leave.
"""

import asyncio
from typing import Any

_RUNS_HANDLER = "_handle_exceptions"
"""The coroutine of grpc.aio in whose task the handler of a call runs."""


class _HandlerTask(asyncio.Task[Any]):
    """A task that runs the handler of a call."""

    waits_for_caller: asyncio.Task[Any] | None = None
    lasts = False


def track_calls(loop: asyncio.AbstractEventLoop) -> None:
    """Record the two tasks of each call that starts from now on, for the other functions. Call it once for a loop."""
    loop.set_task_factory(_make_task)


def calls_in_flight() -> set[asyncio.Task[Any]]:
    """Return the tasks of calls in flight, except those of streams that last (``this_call_lasts``)."""
    return {task for task in asyncio.all_tasks() if isinstance(task, _HandlerTask) and not task.lasts}


def this_call_lasts() -> None:
    """Say that the call whose handler runs now is a stream without an end of its own."""
    task = asyncio.current_task()
    if isinstance(task, _HandlerTask):
        task.lasts = True


def end_call(task: asyncio.Task[Any]) -> None:
    """Cancel the call whose handler runs in ``task``, unless it is over. Its objects must not be in a cycle."""
    if isinstance(task, _HandlerTask) and task.waits_for_caller is not None and not task.done():
        task.cancel()
        task.waits_for_caller.cancel()


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    if getattr(coro, "__name__", "") != _RUNS_HANDLER:  # an asynchronous generator's aclose() has no name
        return asyncio.Task(coro, loop=loop, **options)
    task = _HandlerTask(coro, loop=loop, **options)
    task.waits_for_caller = asyncio.current_task(loop)
    return task
