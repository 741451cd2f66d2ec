"""Run a private PostgreSQL server from a wheel, on a free port."""

import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psutil
import trustme

from support.database_server import DatabaseServer, free_port
from taskgate.stores.writing.loop_thread import LoopThread
from tools.postgresql_programs import Programs

USER = "postgres"
PASSWORD = "correct horse"  # noqa: S105 - the tests search messages for it


class PostgresqlServer(DatabaseServer):
    """One cluster in its own folder; runs as another user where the tests run as root, which PostgreSQL refuses."""

    def __init__(self, folder: Path, primary: "PostgresqlServer | None" = None) -> None:
        super().__init__(folder, free_port())
        self._data = folder / "data"
        self._programs = Programs(folder)
        self._data.mkdir(mode=0o700)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        self._programs.give(self._data)
        if primary is None:
            self._programs.run(
                "initdb", f"--pgdata={self._data}", f"--username={USER}", f"--pwfile={secret}", "--auth=scram-sha-256",
                "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
            )  # fmt: skip
        else:
            self._programs.run(
                "pg_basebackup", f"--pgdata={self._data}", f"--dbname={primary.url()}", "--write-recovery-conf",
                "--wal-method=stream", "--checkpoint=fast", "--no-sync",
            )  # fmt: skip
        self._settings: dict[str, str] = {}
        self._loop = LoopThread()

    def start(self, **settings: str) -> None:
        """Start, and wait until it accepts connections; ``settings`` stay for later starts."""
        self._settings |= settings
        super().start()

    def command(self) -> list[str]:
        everything = {
            "port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
            "fsync": "off", "max_connections": "200", **self._settings,
        }  # fmt: skip
        arguments = [f"--{name}={value}" for name, value in everything.items()]
        return self._programs.command("postgres", "-D", str(self._data), *arguments)

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop in mode "fast": the server ends its connections."""
        super().stop(number)

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._loop.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server and all its processes while the block runs."""
        server = psutil.Process(self.process.pid)
        server.suspend()  # first, so that it starts no others
        processes = [*server.children(recursive=True), server]
        try:
            for process in processes:
                with suppress(psutil.NoSuchProcess):  # it was ending
                    process.suspend()
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextmanager
    def replica(self) -> Iterator["PostgresqlServer"]:
        """A running standby that follows this server, on its own port."""
        with tempfile.TemporaryDirectory(prefix="taskgate-postgresql-") as folder:
            standby = PostgresqlServer(Path(folder), primary=self)
            try:
                standby.start()
                yield standby
            finally:
                standby.close()

    def certify(self) -> Path:
        """Restart with TLS, with a certificate for localhost of a new authority; return that one's certificate."""
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        key, chain, root = (self.folder / name for name in ("key.pem", "chain.pem", "root.pem"))
        certificate.private_key_pem.write_to_path(str(key))
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        authority.cert_pem.write_to_path(str(root))
        key.chmod(0o600)
        self._programs.give(key)
        self.stop()
        self.start(ssl="on", ssl_cert_file=str(chain), ssl_key_file=str(key))
        return root

    def url(
        self,
        database: str = "postgres",
        *,
        user: str = USER,
        password: str = PASSWORD,
        hosts: str | None = None,
        **parameters: str,
    ) -> str:
        """The URL for taskgate; ``hosts`` replaces the address of the server itself."""
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        place = f"{f'127.0.0.1:{self.port}' if hosts is None else hosts}/{database}"
        return f"postgresql://{user}:{quote(password)}@{place}" + (f"?{query}" if query else "")

    def connect(self, database: str = "postgres") -> Any:
        """A coroutine for a connection of the driver."""
        return asyncpg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, database=database, ssl="disable"
        )

    def execute(self, statement: str, *parameters: object, database: str = "postgres") -> Sequence[Mapping[str, Any]]:
        """The rows of one statement, executed on its own connection."""

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
        """Execute ``statement`` in a transaction that stays open while the block runs."""
        connection = self._loop.run(self.connect(database))
        self._loop.run(connection.execute(f"BEGIN; {statement}"))
        try:
            yield
        finally:
            self._loop.run(connection.close())


@contextmanager
def running_postgresql(**settings: str) -> Iterator[PostgresqlServer]:
    """A server that accepts connections; stopped at the end, and its data removed."""
    # Not in pytest's folder, which only its own user may enter.
    with tempfile.TemporaryDirectory(prefix="taskgate-postgresql-") as folder:
        server = PostgresqlServer(Path(folder))
        try:
            server.start(**settings)
            yield server
        finally:
            server.close()
