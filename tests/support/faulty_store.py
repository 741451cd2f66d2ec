"""A store that fails in every way that a real one shows only by accident, and what serves it inside Envoy."""

import asyncio
import json
import time

from taskgate.errors import DocumentUnreadable, StoreUnavailable
from taskgate.inside import Application

SECRET = "dsn postgres://user:password@host"  # noqa: S105 - made up
UNEXPECTED, AWAY, UNREADABLE, SLOW, GIVEN_UP = (f"00000000-0000-4000-8000-00000000000{number}" for number in range(5))


class FaultyStore:
    """Fails in a way that the task ID chooses; ``GIVEN_UP`` tells after how many seconds slow reads were given up."""

    def __init__(self) -> None:
        self.given_up: list[float] = []

    async def get_document(self, task_id: str) -> bytes | None:
        match task_id:
            case _ if task_id == UNEXPECTED:
                raise ValueError(SECRET)
            case _ if task_id == AWAY:
                raise StoreUnavailable("The store is away")
            case _ if task_id == UNREADABLE:
                raise DocumentUnreadable(task_id)
            case _ if task_id == GIVEN_UP:
                return json.dumps({"seconds": self.given_up}).encode()
        began = time.monotonic()
        try:
            await asyncio.sleep(60)
        finally:
            self.given_up.append(time.monotonic() - began)
        return None

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


app = Application(lambda _url, _layout: FaultyStore())
