"""A Conductor server on its own SQLite file, with rows put into its table, and warm.

Its jar and a Java are those of ``make conformance`` (``tools/conductor_jar.py``).
"""

import sqlite3
import urllib.request
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from bench.servers import Server, Site
from tools.conductor_jar import find_jar, find_java
from tools.processes import Failed, ServerProcess, free_address

START_SECONDS = 240.0
"""Seconds until Conductor answers; 40 to 70 on two cores."""


def database_of(site: Site) -> Path:
    """The SQLite file of the Conductor of this site."""
    return site.folder / "conductor.db"


def start(site: Site) -> Server:
    """Start it; it does not answer yet. Raises Missing."""
    http = free_address()
    host, _, port = http.rpartition(":")
    command = [
        *(find_java(), "-jar", str(find_jar().resolve())),
        *(f"--server.address={host}", f"--server.port={port}", "--conductor.grpc-server.enabled=false"),
        "--server.tomcat.max-keep-alive-requests=-1",  # the default closes a connection after 100
        f"--spring.datasource.url=jdbc:sqlite:{database_of(site)}?busy_timeout=15000&journal_mode=WAL",
    ]
    home = site.folder / "conductor"
    home.mkdir()
    return Server(ServerProcess(command, site.folder / "conductor.log", folder=home), http)


def seed(server: Server, site: Site, rows: Iterable[tuple[str, str]]) -> None:
    """Wait until it answers, then put ``rows``, task IDs and texts, into its table ``task``. Raises Failed."""

    def answers() -> None:
        try:
            urllib.request.urlopen(f"http://{server.http}/health", timeout=5).close()
        except OSError as error:
            raise Failed(str(error)) from error

    server.process.wait_until(answers, poll_seconds=0.5, seconds=START_SECONDS)
    with closing(sqlite3.connect(database_of(site), timeout=30)) as database, database:
        database.executemany("INSERT INTO task (task_id, json_data) VALUES (?, ?)", rows)
