"""Ask several servers at once, because some may be away."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from taskgate.stores.redis.faults import Unreachable

T = TypeVar("T")


async def first_answer(questions: Iterable[Coroutine[Any, Any, T]], grace: float = 0) -> T:
    """Return the first result, and cancel the rest after ``grace`` seconds.

    Raises the last Unreachable if all of them raise it. ``questions`` must not be empty.
    """
    tasks = [asyncio.ensure_future(question) for question in questions]
    problem: Unreachable | None = None
    try:
        for done in asyncio.as_completed(tasks):
            try:
                answer = await done
            except Unreachable as error:
                problem = error
            else:
                if grace:
                    await asyncio.wait(tasks, timeout=grace)
                return answer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert problem is not None  # noqa: S101 - ``questions`` is not empty
    raise problem
