"""A real pgbouncer in transaction mode: each transaction may get another of its few connections to the server."""

import os
import pwd
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.postgresql import PASSWORD, USER, PostgresqlServer, free_port
from tools import servers


@contextmanager
def running_pgbouncer(server: PostgresqlServer, **settings: str) -> Iterator[int]:
    """The port of a pgbouncer in front of ``server``."""
    program = str(servers.find(servers.PGBOUNCER))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="taskgate-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        everything = {
            "listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "",
            "auth_type": "scram-sha-256", "auth_file": str(folder / "users"),
            "pool_mode": "transaction", "default_pool_size": "4", "logfile": "", **settings,
        }  # fmt: skip
        lines = ["[databases]", f"* = host=127.0.0.1 port={server.port}", "[pgbouncer]"]
        (folder / "ini").write_text("\n".join(lines + [f"{key} = {value}" for key, value in everything.items()]))
        nobody = ["--user=nobody"] if os.geteuid() == 0 else []
        if nobody:
            for file in folder.iterdir():
                os.chown(file, pwd.getpwnam("nobody").pw_uid, -1)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, *nobody, folder / "ini"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait(10)
