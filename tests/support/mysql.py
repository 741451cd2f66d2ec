"""Run private MariaDB and MySQL servers on free ports."""

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pymysql
import pymysql.cursors
import pytest
import trustme

from support.database_server import DatabaseServer, free_port
from tools import mariadb_server, mysql_server

USER = "tester"
PASSWORD = "correct horse"  # noqa: S105 - the tests search messages for it

_UNKNOWN_THREAD = 1094


class MysqlServer(DatabaseServer):
    """One data folder, and the server on it while it runs."""

    name: ClassVar[str]
    """The product name of the server."""

    newest_collation: ClassVar[str]
    """The collation for UTF-8 text by the latest Unicode that it knows; for MySQL, the default one."""

    variables: ClassVar[str]
    """The table of the settings of the current session."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port())
        self._data = folder / "data"
        self._data.mkdir()
        self._program = self._make()
        self._settings: dict[str, str] = {}

    @abstractmethod
    def _make(self) -> list[str]:
        """Fill a new data folder, and create our user; return how to run the server."""

    def start(self, **settings: str) -> None:
        """Start, and wait until it accepts connections; ``settings`` stay for later starts."""
        self._settings |= settings
        super().start()

    def command(self) -> list[str]:
        everything = {
            "datadir": str(self._data), "port": str(self.port), "bind-address": "127.0.0.1",
            "socket": str(self.folder / "socket"), "max-connections": "200", "skip-name-resolve": "1",
            "max-allowed-packet": "128M",  # enough for the largest documents and the text around them
            **self._settings,
        }  # fmt: skip
        return [*self._program, *(f"--{name.replace('_', '-')}={value}" for name, value in everything.items())]

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except pymysql.OperationalError:
            return False
        return True

    def certify(self) -> Path:
        """Restart with TLS, with a certificate for localhost of a new authority; return that one's certificate."""
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        key, chain, root = (self.folder / name for name in ("key.pem", "chain.pem", "root.pem"))
        certificate.private_key_pem.write_to_path(str(key))
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        authority.cert_pem.write_to_path(str(root))
        self.stop()
        self.start(ssl_cert=str(chain), ssl_key=str(key))
        return root

    def url(
        self,
        database: str,
        *,
        user: str = USER,
        password: str = PASSWORD,
        host: str | None = None,
        scheme: str = "mysql",
        **parameters: str,
    ) -> str:
        """The URL for taskgate; ``host`` replaces the address of the server itself."""
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        place = f"{host or f'127.0.0.1:{self.port}'}/{quote(database)}"
        return f"{scheme}://{user}:{quote(password)}@{place}" + (f"?{query}" if query else "")

    def connect(self, database: str | None = None) -> Any:
        """A PyMySQL connection, with which tests bypass taskgate."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            max_allowed_packet=128 * 1024 * 1024,
            cursorclass=pymysql.cursors.DictCursor,
        )

    def execute(self, statement: str, *parameters: object, database: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The rows of one statement, executed on its own connection."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            rows: Sequence[Mapping[str, Any]] = cursor.fetchall()
        return rows

    def kill(self, session: int) -> bool:
        """End a session, even a busy one; False if it had already ended."""
        try:
            self.execute("KILL %s", session)
        except pymysql.OperationalError as error:
            if error.args[0] != _UNKNOWN_THREAD:
                raise
            return False
        return True

    @contextmanager
    def setting(self, name: str, value: int) -> Iterator[None]:
        """Change a setting for connections that are made while the block runs."""
        (before,) = self.execute(f"SELECT @@GLOBAL.{name} AS value")
        self.execute(f"SET GLOBAL {name} = {value}")
        try:
            yield
        finally:
            self.execute(f"SET GLOBAL {name} = {before['value']}")

    @contextmanager
    def session(self, statement: str, database: str) -> Iterator[None]:
        """Execute ``statement`` in a session that stays open while the block runs."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            yield


class Mariadb(MysqlServer):
    """MariaDB, whose SQL files make the system tables."""

    name = "mariadb"
    newest_collation = "utf8mb4_uca1400_ai_ci"
    variables = "information_schema.session_variables"

    def _make(self) -> list[str]:
        command = mariadb_server.command(
            "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"
        )
        mariadb_server.make_data(command, self._data, _user())
        return command


class Mysql(MysqlServer):
    """MySQL itself."""

    name = "mysql"
    newest_collation = "utf8mb4_0900_ai_ci"
    variables = "performance_schema.session_variables"

    def _make(self) -> list[str]:
        program = mysql_server.find_mysqld()
        statements = self.folder / "user.sql"
        statements.write_text(_user())
        mysql_server.make_data(program, self._data, f"--init-file={statements}")
        return mysql_server.command(program)


def _user() -> str:
    """Statements for a user with all privileges."""
    return f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {USER}@'%' WITH GRANT OPTION;\n"


KINDS = (Mariadb, pytest.param(Mysql, marks=pytest.mark.needs("mysqld")))
"""The servers to test with, as parameters of a test."""


@contextmanager
def running_mysql(kind: type[MysqlServer], **settings: str) -> Iterator[MysqlServer]:
    """A server that accepts connections; stopped at the end, and its data removed."""
    with tempfile.TemporaryDirectory(prefix="taskgate-mysql-") as folder:
        server = kind(Path(folder))
        try:
            server.start(**settings)
            yield server
        finally:
            server.stop()
