"""A FastAPI application that answers the same request from the same PostgreSQL table, through asyncpg's own pool.

The document goes out as it is stored, without a response model or a second encoding. Two ways to give a connection back
to the pool, both measured:

- ``/api/tasks/{task_id}`` as asyncpg does it by itself: a second statement, which resets the session, for each read.
- ``/bare/api/tasks/{task_id}`` without it: the fastest, and right as long as nobody changes anything about a session.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, HTTPException, Response

from taskgate.stores.network.url_parts import DEFAULT_POOL_SIZE

STORE_VARIABLE = "BENCH_STORE"
"""Environment variable with the URL of the database."""

_QUERY = "SELECT json_data FROM task WHERE task_id = $1"

_pools: dict[str, asyncpg.Pool] = {}


@asynccontextmanager
async def open_pools(app: FastAPI) -> AsyncIterator[None]:
    """Of the size that taskgate's connections have; asyncpg prepares the statement at its first use and keeps it."""
    del app
    url, size = os.environ[STORE_VARIABLE], {"min_size": DEFAULT_POOL_SIZE, "max_size": DEFAULT_POOL_SIZE}
    async with asyncpg.create_pool(url, **size) as whole, asyncpg.create_pool(url, **size, reset=_leave) as bare:
        _pools.update(whole=whole, bare=bare)
        yield


async def _leave(connection: Any) -> None:
    """Leave a session as it is."""


app = FastAPI(lifespan=open_pools)


async def answer(pool: asyncpg.Pool, task_id: str) -> Response:
    """The document as it is, or 404."""
    document = await pool.fetchval(_QUERY, task_id)
    if document is None:
        raise HTTPException(404, f"Task not found for taskId: {task_id}")
    return Response(document, media_type="application/json")


@app.get("/api/tasks/{task_id}")
async def get_task(task_id: str) -> Response:
    """The session reset after each read."""
    return await answer(_pools["whole"], task_id)


@app.get("/bare/api/tasks/{task_id}")
async def get_task_bare(task_id: str) -> Response:
    """The session left as it is."""
    return await answer(_pools["bare"], task_id)
