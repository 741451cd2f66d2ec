"""A FastAPI application that answers the same request from the same SQLite file or PostgreSQL table, for speed.

The document goes out as it is stored, without a response model or a second encoding, on connections that stay open:

- ``/api/tasks/{task_id}`` in a thread, so that a slow read holds up no other call, as taskgate guarantees. One reading
  thread was the fastest of: a plain ``def`` endpoint (the framework's own pool), 1, 2 and 4 threads.
- ``/inline/api/tasks/{task_id}`` on the event loop: less work, but every call waits while SQLite does.
- ``/asyncpg/api/tasks/{task_id}`` through asyncpg's own pool. It does not reset a session after each read, as it would
  by itself: that is the fastest, and right as long as no code changes one.
"""

import asyncio
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import asyncpg
from fastapi import FastAPI, HTTPException, Response

from bench.servers import Server, Site
from taskgate.stores.network.url_parts import DEFAULT_POOL_SIZE
from tools.processes import ServerProcess, free_port

FILE, STORE = "BENCH_FILE", "BENCH_STORE"
"""Environment variables with the path of the SQLite file, and the URL of the PostgreSQL database."""

_pools: list[asyncpg.Pool] = []
_threads = ThreadPoolExecutor(max_workers=1)
_local = threading.local()


def start(site: Site, store: str = "", databases: Sequence[ServerProcess] = ()) -> Server:
    """One uvicorn process on the site's file or a PostgreSQL ``store``, with its fastest parts, without access log."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "bench.peers.fastapi_app:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"),
    ]
    environment = {FILE: str(site.database), STORE: store}
    process = ServerProcess(command, site.folder / "fastapi.log", environment)
    return Server(process, http=f"127.0.0.1:{port}", databases=databases)


@asynccontextmanager
async def open_pool(_: FastAPI) -> AsyncIterator[None]:
    """Of the size that taskgate's connections have; asyncpg prepares the statement at its first use and keeps it."""
    if not (store := os.environ[STORE]):
        yield
        return
    size = {"min_size": DEFAULT_POOL_SIZE, "max_size": DEFAULT_POOL_SIZE}
    async with asyncpg.create_pool(store, **size, reset=_leave) as pool:
        _pools.append(pool)
        yield


async def _leave(_: Any) -> None:
    """Leave a session as it is."""


def read_document(task_id: str) -> bytes | None:
    """The stored document, on this thread's own connection."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = sqlite3.connect(f"file:{quote(os.environ[FILE])}?mode=ro", uri=True, isolation_level=None)
        connection.text_factory = bytes
        _local.connection = connection
    row = connection.execute("SELECT json_data FROM task WHERE task_id = ?", (task_id,)).fetchone()
    return None if row is None else row[0]


def respond(task_id: str, document: bytes | str | None) -> Response:
    """The document as it is, or 404."""
    if document is None:
        raise HTTPException(404, f"Task not found for taskId: {task_id}")
    return Response(document, media_type="application/json")


app = FastAPI(lifespan=open_pool)


@app.get("/api/tasks/{task_id}")
async def get_task(task_id: str) -> Response:
    """Read in a thread."""
    return respond(task_id, await asyncio.get_running_loop().run_in_executor(_threads, read_document, task_id))


@app.get("/inline/api/tasks/{task_id}")
async def get_task_inline(task_id: str) -> Response:
    """Read on the event loop."""
    return respond(task_id, read_document(task_id))


@app.get("/asyncpg/api/tasks/{task_id}")
async def get_task_asyncpg(task_id: str) -> Response:
    """Read through the pool."""
    return respond(task_id, await _pools[0].fetchval("SELECT json_data FROM task WHERE task_id = $1", task_id))
