"""Time for tasks of the event loop, counted in turns of it: no machine is too slow for that."""

import asyncio


async def turns(count: int = 5) -> None:
    """Let everybody go as far as they get."""
    for _ in range(count):
        await asyncio.sleep(0)
