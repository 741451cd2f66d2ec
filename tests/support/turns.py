"""Give tasks of the event loop time, counted in its turns, so that the speed of the machine does not matter."""

import asyncio


async def turns(count: int = 5) -> None:
    """Let all tasks run as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)
