"""A FastAPI application that answers the same request from the same SQLite file, written for speed.

The document goes out as it is stored, without a response model or a second encoding, on a connection that is opened
once. Two ways to read, both measured:

- ``/api/tasks/{task_id}`` in a thread, so that a slow read holds up no other call, as taskgate guarantees. One reading
  thread was the fastest of: a plain ``def`` endpoint (the framework's own pool), 1, 2 and 4 threads.
- ``/inline/api/tasks/{task_id}`` on the event loop: less work, but every call waits while SQLite does.
"""

import asyncio
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Response

DATABASE_VARIABLE = "BENCH_DATABASE"
"""Environment variable with the path of the SQLite file."""

_QUERY = "SELECT json_data FROM task WHERE task_id = ?"

app = FastAPI()
_threads = ThreadPoolExecutor(max_workers=1)
_local = threading.local()


def read_document(task_id: str) -> bytes | None:
    """The stored document, on this thread's own connection."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        path = quote(os.environ[DATABASE_VARIABLE])
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        connection.text_factory = bytes
        _local.connection = connection
    row = connection.execute(_QUERY, (task_id,)).fetchone()
    return None if row is None else row[0]


def respond(task_id: str, document: bytes | None) -> Response:
    """The document as it is, or 404."""
    if document is None:
        raise HTTPException(404, f"Task not found for taskId: {task_id}")
    return Response(document, media_type="application/json")


@app.get("/api/tasks/{task_id}")
async def get_task(task_id: str) -> Response:
    """Read in a thread."""
    return respond(task_id, await asyncio.get_running_loop().run_in_executor(_threads, read_document, task_id))


@app.get("/inline/api/tasks/{task_id}")
async def get_task_inline(task_id: str) -> Response:
    """Read on the event loop."""
    return respond(task_id, read_document(task_id))
