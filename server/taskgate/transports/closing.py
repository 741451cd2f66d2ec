"""Close the parts of a server."""

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Protocol


class Closeable(Protocol):
    """Something with connections, files or threads to release."""

    def close(self) -> Awaitable[None]:
        """Release everything."""
        ...


async def close_all(*parts: Closeable | None) -> None:
    """Close ``parts`` in this order, each also where one before it fails; then raise the last error."""
    async with AsyncExitStack() as stack:
        for part in reversed(parts):
            if part is not None:
                stack.push_async_callback(part.close)
