"""A store that fails in ways that a real one shows only by accident, and a service for it inside Envoy."""

import asyncio
import json

from taskgate.base.errors import DocumentUnreadable, StoreUnavailable
from taskgate.processes.embedded_app import Application
from taskgate.stores.refusals import overloaded

SECRET = "dsn postgres://user:password@host"  # noqa: S105 - made up
UNEXPECTED, AWAY, UNREADABLE, SLOW, COUNTS, FULL = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(6))


class FaultyStore:
    """Fails in a way that the task ID selects; ``COUNTS`` has the numbers of slow reads begun and abandoned."""

    def __init__(self) -> None:
        self._begun = 0
        self._given_up = 0

    async def get_document(self, task_id: str) -> bytes | None:
        match task_id:
            case _ if task_id == UNEXPECTED:
                raise ValueError(SECRET)
            case _ if task_id == AWAY:
                raise StoreUnavailable("it is away", store=SECRET, node=SECRET)
            case _ if task_id == FULL:
                raise overloaded(1024)
            case _ if task_id == UNREADABLE:
                raise DocumentUnreadable(task_id)
            case _ if task_id == COUNTS:
                return json.dumps({"begun": self._begun, "given_up": self._given_up}).encode()
        self._begun += 1
        try:
            await asyncio.sleep(3600)
        finally:
            self._given_up += 1
        return None

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


app = Application(lambda _url, _layout: FaultyStore())
