"""The servers that the tests start and that are in no wheel: found on this machine, or unpacked from Debian's packages.

Nothing is installed: packages are downloaded by apt and unpacked into ``.venv/servers``, so this needs no root, and no
server is started behind anybody's back.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

SERVERS = Path(__file__).parent.parent / ".venv" / "servers"
"""Programs to run are in ``bin`` below it; what was unpacked is in ``root``."""


class Missing(Exception):
    """A server is not to be had; the text is one sentence for whoever runs the tests."""


@dataclass(frozen=True, slots=True)
class Server:
    """A program, the Debian ``packages`` that it comes in, and ``libraries`` that few machines have.

    Of a library whose package has another name in each release, all names are listed; those that there are, are taken.
    """

    program: str
    packages: Sequence[str]
    libraries: Sequence[str] = ()


REDIS = Server("redis-server", ("redis-tools", "redis-server"), ("libjemalloc2", "liblzf1", "libatomic1"))
"""redis-sentinel is the same program, called with ``--sentinel``."""

PGBOUNCER = Server("pgbouncer", ("pgbouncer",), ("libevent-2.1-7", "libevent-2.1-7t64", "libc-ares2"))

MARIADB = Server(
    "mariadbd",
    ("mariadb-server-core",),
    ("libaio1", "libaio1t64", "libnuma1", "liburing2", "libpcre2-8-0", "libsystemd0"),
)
"""Its own SQL files, from which a new data folder is made, are in the same package."""

H2LOAD = Server("h2load", ("nghttp2-client",), ("libnghttp2-14", "libev4", "libev4t64", "libjansson4", "libjemalloc2"))
"""No server, but the load generator of the benchmark, which comes in the same way."""

WRK = Server("wrk", ("wrk",), ("libluajit2-5.1-2", "libluajit-5.1-2", "libluajit-5.1-common"))
"""Likewise, for requests that differ from one another."""

SYSTEM = os.pathsep.join(("/usr/local/sbin", "/usr/sbin"))
"""Where Debian puts some servers; not on everybody's PATH."""


def find(server: Server) -> Path:
    """The program: the machine's own, or the one that ``provide`` unpacked. Raises Missing."""
    elsewhere = os.pathsep.join((SYSTEM, str(SERVERS / "bin")))
    found = shutil.which(server.program) or shutil.which(server.program, path=elsewhere)
    if found is None:
        raise Missing(f"there is no {server.program} on this machine; 'make test-all' gets it")
    return Path(found)


def provide(server: Server) -> Path:
    """``find``, after unpacking the packages if need be. Raises Missing."""
    try:
        return find(server)
    except Missing:
        pass
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing(
            f"the tests need {server.program}, and this is no Debian or Ubuntu to get it from; please put it on PATH"
        )
    print(f"{server.program}: unpacking {', '.join(server.packages)} into {SERVERS} (nothing is installed or started)")
    unpack(server.program, server.packages, server.libraries)
    program = _wrap(server.program)
    checked = run([str(program), "--version"], SERVERS)
    if checked.returncode not in {0, 1}:  # wrk prints its version, and ends with 1
        program.unlink()  # not to be found the next time
        raise Missing(f"the {server.program} of {', '.join(server.packages)} does not run: {last_line(checked)}")
    return program


def unpack(program: str, packages: Sequence[str], libraries: Sequence[str] = ()) -> None:
    """Download Debian's ``packages`` for ``program``, and unpack them into ``root``. Raises Missing."""
    downloads = SERVERS / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    fetched = run(["apt-get", "download", *packages], downloads)
    if fetched.returncode:  # a new machine has no package lists, an old one outdated ones
        updated = run(["apt-get", "update"], downloads)
        fetched = run(["apt-get", "download", *packages], downloads)
        if fetched.returncode:
            problem = last_line(updated if updated.returncode else fetched)
            raise Missing(f"the tests need {program}, and apt-get cannot download it: {problem}")
    for library in libraries:  # one call each, since one unknown name makes all of a call fail
        run(["apt-get", "download", library], downloads)
    extract(downloads, SERVERS / "root")
    shutil.rmtree(downloads)


def extract(downloads: Path, root: Path) -> None:
    """Unpack every ``.deb`` of a folder into ``root``. Raises Missing."""
    for package in downloads.glob("*.deb"):
        unpacked = run(["dpkg-deb", "--extract", str(package), str(root)], downloads)
        if unpacked.returncode:
            raise Missing(f"{package.name} cannot be unpacked: {last_line(unpacked)}")


def _wrap(program: str) -> Path:
    """A script of the same name, which lets the unpacked program find the libraries unpacked with it."""
    root = SERVERS / "root" / "usr"
    libraries = ":".join(str(folder) for folder in sorted({path.parent for path in (root / "lib").rglob("*.so.*")}))
    binary = next(path for folder in ("bin", "sbin") if (path := root / folder / program).exists())
    script = SERVERS / "bin" / program
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH="{libraries}:$LD_LIBRARY_PATH"\nexec "{binary}" "$@"\n')
    script.chmod(0o755)
    return script


def run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with what it prints, and more ``environment`` than ours."""
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed has said about it."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
