"""Provide Debian's Chromium, for tests of what a browser shows: installed here, or unpacked below ``.venv/servers``."""

import re
import shutil
from pathlib import Path

from tools.servers import SERVERS, Missing, last_line, run, unpack

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PROGRAM = SERVERS / "bin" / "chromium"
_UNPACKED = SERVERS / "root" / "usr" / "lib" / "chromium"


def find_chromium() -> Path:
    """Return the program, or raise Missing."""
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    if _PROGRAM.exists():
        return _PROGRAM
    raise Missing("there is no Chromium on this machine; 'make test-all' gets it")


def provide_chromium() -> Path:
    """Return ``find_chromium``, after unpacking Debian's packages if necessary. Raises Missing."""
    try:
        return find_chromium()
    except Missing:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise
    wanted = would_install("chromium")
    print(f"chromium: unpacking {len(wanted)} packages into {SERVERS} (nothing is installed or started)")
    unpack("chromium", wanted)
    libraries = sorted({path.parent for path in (SERVERS / "root/usr/lib").rglob("*.so*")})
    _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    paths = ":".join(map(str, libraries))
    _PROGRAM.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH="{paths}"\nexec "{_UNPACKED}/chromium" "$@"\n')
    _PROGRAM.chmod(0o755)
    checked = run([str(_PROGRAM), "--version"], SERVERS)
    if checked.returncode:
        _PROGRAM.unlink()  # hide it from the next ``find_chromium``
        raise Missing(f"Debian's chromium does not run: {last_line(checked)}")
    return _PROGRAM


def would_install(*packages: str) -> list[str]:
    """Return Debian's ``packages`` and those that this machine lacks to install them. Raises Missing."""
    SERVERS.mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "install", "--simulate", "--no-install-recommends", *packages]
    simulated = run(command, SERVERS)
    if simulated.returncode:  # package lists are missing on a new machine
        run(["apt-get", "update"], SERVERS)
        simulated = run(command, SERVERS)
    if not (wanted := re.findall(r"^Inst (\S+)", simulated.stdout, re.MULTILINE)):
        raise Missing(f"apt-get knows no package {' '.join(packages)}: {last_line(simulated)}")
    return wanted
