"""Provide the servers for the tests that no wheel has: found on this machine, or unpacked from Debian's packages.

apt downloads the packages, and they are unpacked into ``.venv/servers``. Nothing is installed, so this needs no root
and no package starts its server.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

SERVERS = Path(__file__).parent.parent / ".venv" / "servers"
"""Programs to run are in its folder ``bin``; unpacked packages are in ``root``."""


class Missing(Exception):
    """A server is not available; the text is one sentence for the person who runs the tests."""


@dataclass(frozen=True, slots=True)
class Server:
    """A program, the Debian ``packages`` that contain it, and ``libraries`` that few machines have.

    If the package of a library has another name in each release, all names are listed; those that exist are taken.
    """

    program: str
    packages: Sequence[str]
    libraries: Sequence[str] = ()


REDIS = Server("redis-server", ("redis-tools", "redis-server"), ("libjemalloc2", "liblzf1", "libatomic1"))
"""Also serves as redis-sentinel, with ``--sentinel``."""

PGBOUNCER = Server("pgbouncer", ("pgbouncer",), ("libevent-2.1-7", "libevent-2.1-7t64", "libc-ares2"))

MARIADB = Server(
    "mariadbd",
    ("mariadb-server-core",),
    ("libaio1", "libaio1t64", "libnuma1", "liburing2", "libpcre2-8-0", "libsystemd0"),
)
"""Its own SQL files, which make a new data folder, are in the same package."""

H2LOAD = Server("h2load", ("nghttp2-client",), ("libnghttp2-14", "libev4", "libev4t64", "libjansson4", "libjemalloc2"))
"""The load generator of the benchmark, provided in the same way."""

WRK = Server("wrk", ("wrk",), ("libluajit2-5.1-2", "libluajit-5.1-2", "libluajit-5.1-common"))
"""The load generator for requests that differ from one another."""

PROMETHEUS = Server("prometheus", ("prometheus",))
PROMTOOL = Server("promtool", ("prometheus",))
"""Its checks of rules, configurations and metrics; the same package has both."""

SYSTEM = os.pathsep.join(("/usr/local/sbin", "/usr/sbin"))
"""Where Debian puts some servers; not on every PATH."""


def find(server: Server) -> Path:
    """Return the machine's own program, or the one that ``provide`` unpacked. Raises Missing."""
    elsewhere = os.pathsep.join((SYSTEM, str(SERVERS / "bin")))
    found = shutil.which(server.program) or shutil.which(server.program, path=elsewhere)
    if found is None:
        raise Missing(f"there is no {server.program} on this machine; 'make test-all' gets it")
    return Path(found)


def provide(server: Server) -> Path:
    """Return ``find``, after unpacking the packages if necessary. Raises Missing."""
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
        program.unlink()  # hide it from the next ``find``
        raise Missing(f"the {server.program} of {', '.join(server.packages)} does not run: {last_line(checked)}")
    return program


def unpack(program: str, packages: Sequence[str], libraries: Sequence[str] = ()) -> None:
    """Download Debian's ``packages`` for ``program``, and unpack them into ``root``. Raises Missing."""
    downloads = SERVERS / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    fetched = run(["apt-get", "download", *packages], downloads)
    if fetched.returncode:  # package lists are missing on a new machine, outdated on an old one
        updated = run(["apt-get", "update"], downloads)
        fetched = run(["apt-get", "download", *packages], downloads)
        if fetched.returncode:
            problem = last_line(updated if updated.returncode else fetched)
            raise Missing(f"the tests need {program}, and apt-get cannot download it: {problem}")
    for library in libraries:  # one call each: an unknown name makes the whole call fail
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
    """Write a script of the same name, which lets the unpacked program find the libraries unpacked with it."""
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
    """Run a command in a folder, capture its output, and add ``environment`` to ours."""
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a failed command has printed about its failure."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
