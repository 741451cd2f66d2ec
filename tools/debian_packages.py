"""Installs the Debian packages with servers that the tests start and that no Python wheel holds.

Run by ``make setup``. Says what it installs, and stops with a sentence where it cannot.
"""

import os
import shutil
import subprocess
import sys

# Program to package. Debian keeps some in /usr/sbin, which is not on everybody's PATH.
NEEDED = {
    "pgbouncer": "pgbouncer",  # tests/conformance/test_postgresql.py: PostgreSQL behind a pool of transactions
}
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])


def main() -> None:
    """Install what is missing."""
    missing = {program: package for program, package in NEEDED.items() if shutil.which(program, path=_PATH) is None}
    if not missing:
        return
    packages = " ".join(sorted(set(missing.values())))
    by_hand = f"the tests need {', '.join(missing)}; install the Debian packages {packages} or their like"
    if shutil.which("apt-get") is None:
        sys.exit(f"tools/debian_packages.py: {by_hand}")
    root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if root and shutil.which("sudo") is None:
        sys.exit(f"tools/debian_packages.py: not run as root, and there is no sudo; {by_hand}")
    print(f"Installing Debian packages for the tests: {packages}", flush=True)
    # RUNLEVEL keeps the packages from starting their servers: the tests start their own.
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "--quiet=2"]
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages.split()]):
        if subprocess.run([*apt, *arguments], stdout=subprocess.DEVNULL, check=False).returncode:
            sys.exit(f"tools/debian_packages.py: apt-get {arguments[0]} failed, as it says above; {by_hand}")


if __name__ == "__main__":
    main()
