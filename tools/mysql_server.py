"""Provide MySQL itself for the tests: this machine's own, or Debian unstable's, unpacked with all its libraries.

Debian's releases have only MariaDB. Unstable's MySQL needs a newer C library than a release has, so the program is
started through the dynamic loader that is unpacked with it. apt gets files of its own below ``.venv`` that name
unstable, fetches from this machine's Debian mirror, and checks signatures by this machine's keys. Nothing is installed,
and the machine's own package lists do not change.

If it is not available, tests are left out and say why.
"""

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tools.servers import SERVERS, SYSTEM, Missing, extract, last_line, run

ROOT = SERVERS / "mysql"
"""The unpacked packages with their C library, separate from programs that use this machine's own."""

_SCRIPT = SERVERS / "bin" / "mysqld"
"""The script that starts the unpacked program."""

_WHY_NOT = SERVERS / "mysql-is-missing"
"""Why it is missing, from ``provide_mysqld`` for the tests."""

_PACKAGE = "mysql-server-core"
_SUITE = "unstable"
_LEAST = 8
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_APT = """
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/unstable.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Install-Recommends "false";
"""

_SOURCES = """
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
"""

_INSTALLED = """
Package: perl
Status: install ok installed
Architecture: {architecture}
Multi-Arch: allowed
Version: 99
Maintainer: nobody
Description: for scripts that are not used here

"""
"""No package counts as installed, so that every library is fetched, except perl, which only scripts need."""


def find_mysqld() -> Path:
    """Return the program, of MySQL 8 or newer. Raises Missing."""
    if _WHY_NOT.exists():
        raise Missing(_WHY_NOT.read_text())
    found = _machines_own() or _SCRIPT
    if not found.exists():
        raise Missing("there is no mysqld of MySQL 8 or newer on PATH; 'make test-all' gets one where there is Debian")
    return found


def command(program: Path) -> list[str]:
    """Return a command line for little memory, without durability against a power failure."""
    found = [
        *(str(program), "--no-defaults", "--innodb-redo-log-capacity=16M", "--innodb-buffer-pool-size=32M"),
        *("--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=OFF"),
        *("--skip-log-bin", "--loose-mysqlx=OFF"),
        "--secure-file-priv=NULL",  # no access to folders of the machine
    ]
    if program.is_relative_to(SERVERS):  # not where it was built to be
        share, plugins = ROOT / "usr" / "share" / "mysql", ROOT / "usr" / "lib" / "mysql" / "plugin"
        found += [f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}", f"--plugin-dir={plugins}"]
    if os.geteuid() == 0:  # it refuses root unless named as the user
        found.append("--user=root")
    return found


def provide_mysqld() -> Path:
    """Return ``find_mysqld``, after unpacking it if necessary and checking that it runs. Raises Missing."""
    SERVERS.mkdir(parents=True, exist_ok=True)
    _WHY_NOT.unlink(missing_ok=True)
    try:
        program = _machines_own() or _unpacked()
        with tempfile.TemporaryDirectory(prefix="taskgate-mysql-") as folder:
            make_data(program, Path(folder))
    except Missing as error:
        _SCRIPT.unlink(missing_ok=True)  # to be fetched again
        _WHY_NOT.write_text(str(error))
        raise
    return program


def make_data(program: Path, data: Path, *options: str) -> None:
    """Make a new data folder, in which root has no password. Raises Missing."""
    made = run([*command(program), f"--datadir={data}", *options, "--initialize-insecure"], data)
    _must(made, f"{program} does not run")


@cache
def _machines_own() -> Path | None:
    """Return the one on PATH, if it is MySQL and not MariaDB, which has a program of that name too."""
    found = shutil.which("mysqld") or shutil.which("mysqld", path=SYSTEM)
    if found is None:
        return None
    said = run([found, "--version"], Path.cwd()).stdout
    version = re.search(r"Ver (\d+)\.", said)
    real = version is not None and "MariaDB" not in said and int(version[1]) >= _LEAST
    return Path(found) if real else None


def _unpacked() -> Path:
    """Unpack Debian's program and return the script that starts it. Raises Missing."""
    if not _SCRIPT.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise Missing("there is no mysqld of MySQL 8 or newer on PATH, and this is no Debian to get it from")
        print(f"mysqld: unpacking {_PACKAGE} of Debian {_SUITE} into {ROOT} (50 MB; nothing is installed or started)")
        shutil.rmtree(ROOT, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="apt-", dir=SERVERS) as folder:
            _download(Path(folder))
            extract(Path(folder), ROOT)
        _write_script()
    return _SCRIPT


def _download(folder: Path) -> None:
    """Download the package and all its dependencies as ``.deb`` files. Raises Missing."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "unstable.sources").write_text(_SOURCES.format(mirror=_mirror(), suite=_SUITE) + _signed_by())
    architecture = run(["dpkg", "--print-architecture"], folder).stdout.strip()
    (folder / "status").write_text(_INSTALLED.format(architecture=architecture))
    (folder / "apt.conf").write_text(_APT.format(folder=folder))
    environment = {"APT_CONFIG": str(folder / "apt.conf")}
    _must(run(["apt-get", "update", "--error-on=any"], folder, environment), f"apt-get cannot read Debian {_SUITE}")
    solved = run(["apt-get", "install", "--simulate", _PACKAGE], folder, environment)
    _must(solved, f"Debian {_SUITE} has no {_PACKAGE} with all that it needs")
    names = re.findall(r"^Inst (\S+)", solved.stdout, re.MULTILINE)
    _must(run(["apt-get", "download", *names], folder, environment), f"apt-get cannot download {_PACKAGE}")


def _mirror() -> str:
    """Return this machine's Debian mirror. Raises Missing."""
    wanted = ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(SUITE)", "Created-By: Packages"]
    for line in run(wanted, SERVERS).stdout.splitlines():
        uri, origin, suite = line.split("|")
        if origin == "Debian" and "-" not in suite:  # security updates have an archive of their own
            return uri
    raise Missing(
        "there is no mysqld of MySQL 8 or newer on PATH, and apt has no list of Debian's packages to get it by"
    )


def _signed_by() -> str:
    """Return the option that names Debian's keys, which apt may not trust for all sources."""
    return f"Signed-By: {_KEYS}\n" if _KEYS.exists() else ""


def _write_script() -> None:
    root = ROOT / "usr"
    loader = next(root.glob("lib*/ld-linux*.so.*"))
    libraries = next((root / "lib").glob("*-linux-gnu*"))
    _SCRIPT.parent.mkdir(parents=True, exist_ok=True)
    _SCRIPT.write_text(f'#!/bin/sh\nexec "{loader}" --library-path "{libraries}" "{root / "sbin" / "mysqld"}" "$@"\n')
    _SCRIPT.chmod(0o755)


def _must(done: subprocess.CompletedProcess[str], problem: str) -> None:
    if done.returncode:
        raise Missing(f"{problem}: {last_line(done)}")
