"""A Conductor server as a peer: its jar, started on its own SQLite file, with our documents put into its table.

Nothing is downloaded. The jar is the release ``conductor-server-VERSION-boot.jar`` of the group org.conductoross; tried
with 3.32.3 on Java 25.
"""

import shutil
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench.errors import BenchError, PeerMissing
from bench.processes import ServerProcess
from tools.conductor_jar import LEAST_JAVA, java_version

WARM_UP_SECONDS = 12.0
_WARM_UP_THREADS = 4
START_SECONDS = 240.0
"""Seconds until Conductor answers; 40 to 70 on two cores."""

JAR_VARIABLE, JAVA_VARIABLE = "BENCH_CONDUCTOR_JAR", "BENCH_JAVA"


@dataclass(frozen=True, slots=True)
class ConductorSettings:
    """The ``jar``, None if there is none; ``java`` is the program to run it with."""

    jar: Path | None = None
    java: str = "java"


NO_CONDUCTOR = ConductorSettings()


def start_conductor_process(settings: ConductorSettings, http: str, folder: Path) -> ServerProcess:
    """Start it on the address ``http``; it does not answer yet. Raises PeerMissing if it cannot be had."""
    if settings.jar is None:
        raise PeerMissing(f"no jar was named; set {JAR_VARIABLE}, or use --conductor-jar")
    if not settings.jar.is_file():
        raise PeerMissing(f"there is no file {settings.jar.name} where {JAR_VARIABLE} or --conductor-jar says")
    java = _find_java(settings.java)
    home = folder / "conductor"
    home.mkdir()
    host, _, port = http.rpartition(":")
    command = [
        *(str(java), "-jar", str(settings.jar.resolve())),
        *(f"--server.address={host}", f"--server.port={port}", "--conductor.grpc-server.enabled=false"),
        "--server.tomcat.max-keep-alive-requests=-1",  # the default closes a connection after 100
        f"--spring.datasource.url=jdbc:sqlite:{conductor_database(folder)}?busy_timeout=15000&journal_mode=WAL",
    ]
    return ServerProcess(command, folder / "conductor.log", folder=home)


def seed_conductor(process: ServerProcess, http: str, folder: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Wait until it answers, then put ``rows``, task IDs and texts, into its table ``task``."""
    process.wait_until(lambda: _check_health(http), poll_seconds=0.5, seconds=START_SECONDS)
    with closing(sqlite3.connect(conductor_database(folder), timeout=30)) as database, database:
        database.executemany(
            "INSERT INTO task (task_id, json_data) VALUES (?, ?)",
            rows,
        )


def warm_up_conductor(http: str, paths: Sequence[str]) -> None:
    """Ask for ``paths`` for ``WARM_UP_SECONDS``: what Java has not compiled yet runs many times slower."""
    deadline = time.monotonic() + WARM_UP_SECONDS

    def ask_on(connection: HTTPConnection) -> None:
        with closing(connection), suppress(OSError, HTTPException):  # whether it answers right is asked later
            while time.monotonic() < deadline:
                for path in paths:
                    connection.request("GET", path)
                    connection.getresponse().read()

    with ThreadPoolExecutor(_WARM_UP_THREADS) as threads:
        for _ in range(_WARM_UP_THREADS):
            threads.submit(ask_on, HTTPConnection(http))


def _find_java(java: str) -> Path:
    """Where it is from any folder; what starts it has one of its own. Raises PeerMissing if it is not there, or old."""
    program = shutil.which(java)
    if program is None:
        raise PeerMissing(f"there is no program {java}; Conductor needs Java {LEAST_JAVA} ({JAVA_VARIABLE}, --java)")
    printed = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    if java_version(printed) < LEAST_JAVA:
        raise PeerMissing(
            f"{java} is Java {java_version(printed)}; Conductor needs {LEAST_JAVA} ({JAVA_VARIABLE}, --java)"
        )
    return Path(program).absolute()


def _check_health(http: str) -> None:
    try:
        urllib.request.urlopen(f"http://{http}/health", timeout=5).close()
    except OSError as error:
        raise BenchError(f"Conductor does not answer: {error}") from error


def conductor_database(folder: Path) -> Path:
    """The SQLite file of the Conductor whose folder is in ``folder``."""
    return folder / "conductor" / "conductor.db"
