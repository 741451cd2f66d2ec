"""Make the command that starts MariaDB for tests and the benchmark, and prepare a new data folder."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.processes import Failed
from tools.servers import MARIADB, SERVERS, find

_SYSTEM_TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")


def command(*options: str) -> list[str]:
    """Return the command line. Raises Missing, and Failed if its own files are not beside the program."""
    program = find(MARIADB)
    found = [str(program), "--no-defaults", f"--lc-messages-dir={_share(program)}", *options]
    if os.geteuid() == 0:  # it refuses root unless named as the user
        found.append("--user=root")
    return found


def make_data(run: Sequence[str], data: Path, *statements: str) -> None:
    """Create the system tables in an empty folder, with its own SQL files; then run ``statements``. Raises Failed."""
    share = _share(Path(run[0]))
    tables = [(share / name).read_text() for name in _SYSTEM_TABLES]
    script = "\n".join(("CREATE DATABASE mysql;", "USE mysql;", *tables, "FLUSH PRIVILEGES;", *statements))
    made = subprocess.run(
        [*run, f"--datadir={data}", "--bootstrap"], input=script, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Failed(f"MariaDB cannot make its own tables: {made.stderr[-500:]}")


def _share(program: Path) -> Path:
    """Return the folder of a server's SQL files and message files. Raises Failed."""
    unpacked = program.is_relative_to(SERVERS)
    places = (SERVERS / "root/usr",) if unpacked else (program.resolve().parent.parent, Path("/usr"))
    folders = [place / "share" / name for place in places for name in ("mysql", "mariadb")]
    for folder in folders:
        if (folder / _SYSTEM_TABLES[0]).exists():
            return folder
    raise Failed(f"{program} has no {_SYSTEM_TABLES[0]} in any of {', '.join(map(str, folders))}")
