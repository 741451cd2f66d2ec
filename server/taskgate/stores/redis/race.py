"""Several servers asked at once, because some may be away."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from taskgate.stores.redis.faults import Unreachable

T = TypeVar("T")


async def first_answer(questions: Iterable[Coroutine[Any, Any, T]], grace: float = 0) -> T:
    """Return the first result; raise no Unreachable while another may answer. Cancel the rest after ``grace`` seconds.

    Raises Unreachable, the last one, if all of them do. There must be at least one.
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
    assert problem is not None  # noqa: S101 - there was a question
    raise problem
