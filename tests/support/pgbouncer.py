"""A real pgbouncer in transaction mode: each transaction may use another of its few connections to the server."""

import os
import pwd
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.database_server import DatabaseServer, free_port
from support.postgresql import PASSWORD, USER, PostgresqlServer
from tools import servers


class Pgbouncer(DatabaseServer):
    """Runs in front of ``server``; as another user where the tests run as root, which pgbouncer refuses."""

    def __init__(self, folder: Path, server: PostgresqlServer, **settings: str) -> None:
        super().__init__(folder, free_port())
        (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        everything = {
            "listen_addr": "127.0.0.1", "listen_port": str(self.port), "unix_socket_dir": "",
            "auth_type": "scram-sha-256", "auth_file": str(folder / "users"),
            "pool_mode": "transaction", "default_pool_size": "4", "logfile": "", **settings,
        }  # fmt: skip
        lines = ["[databases]", f"* = host=127.0.0.1 port={server.port}", "[pgbouncer]"]
        (folder / "ini").write_text("\n".join(lines + [f"{key} = {value}" for key, value in everything.items()]))
        self._user = ["--user=nobody"] if os.geteuid() == 0 else []
        if self._user:
            folder.chmod(0o755)
            for file in folder.iterdir():
                os.chown(file, pwd.getpwnam("nobody").pw_uid, -1)

    def command(self) -> list[str]:
        return [str(servers.find(servers.PGBOUNCER)), *self._user, str(self.folder / "ini")]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def running_pgbouncer(server: PostgresqlServer, **settings: str) -> Iterator[int]:
    """The port of a pgbouncer in front of ``server``."""
    with tempfile.TemporaryDirectory(prefix="taskgate-pgbouncer-") as folder:
        pooler = Pgbouncer(Path(folder), server, **settings)
        try:
            pooler.start()
            yield pooler.port
        finally:
            pooler.stop()
