"""pgbouncer in front of a PostgreSQL server, in transaction mode: each statement may get another connection."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.databases.base import Database, program_of
from bench.databases.postgresql import USER, execute
from bench.processes import ServerProcess, free_port
from taskgate.stores.network.url_parts import DEFAULT_POOL_SIZE
from tools.servers import PGBOUNCER


@contextmanager
def running_pgbouncer(server: Database) -> Iterator[Database]:
    """With as many connections to ``server`` as taskgate has to it."""
    program, port = program_of(PGBOUNCER), free_port()
    # Not in the folder of the others, as PostgreSQL's own: it does not run as root either.
    with tempfile.TemporaryDirectory(prefix="bench-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text(f'"{USER}" ""\n')
        (folder / "ini").write_text(_configuration(folder, port, server.url))
        as_nobody = ["--user=nobody"] if os.geteuid() == 0 else []
        command = [program, *as_nobody, str(folder / "ini")]
        url = f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
        with ServerProcess(command, folder / "log", folder=folder) as process:
            process.wait_until(lambda: execute(url, "SELECT 1"))
            yield Database(url, [process, *server.processes])


def _configuration(folder: Path, port: int, url: str) -> str:
    place = url.rpartition("@")[2].partition("/")[0]
    host, _, server_port = place.rpartition(":")
    lines = (
        *("[databases]", f"* = host={host} port={server_port}", "[pgbouncer]"),
        *("listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =", "logfile ="),
        *("auth_type = trust", f"auth_file = {folder / 'users'}"),
        *("pool_mode = transaction", f"default_pool_size = {DEFAULT_POOL_SIZE}"),
    )
    return "\n".join(lines) + "\n"
