"""Provide the released Conductor clients for Java and Rust, which tests/sdk runs, below ``.venv``."""

import shutil
from pathlib import Path

from tools.cassandra_jars import find_java
from tools.maven import find_maven, run_maven
from tools.servers import SERVERS, Missing, last_line, run

SDKS = Path(__file__).parent.parent / "tests" / "sdk"

_CLIENTS = SERVERS / "sdk"

RUST_CLIENT = _CLIENTS / "rust" / "debug" / "client"
"""The program of tests/sdk/rust."""


def jars(project: str) -> Path:
    """Return the folder with all jars of tests/sdk/``project``."""
    return _CLIENTS / project / "jars"


def provide_jars(project: str) -> None:
    """Fetch the jars that the pom.xml of tests/sdk/``project`` names, unless they are there. Raises Missing."""
    pom, fetched = (SDKS / project / "pom.xml").read_bytes(), jars(project).parent / "pom.xml"
    if jars(project).is_dir() and fetched.read_bytes() == pom:
        return
    shutil.rmtree(fetched.parent, ignore_errors=True)
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(pom)
    options = ("-DincludeScope=runtime", "-DoutputDirectory=incoming")
    run_maven(find_maven(), "copy-dependencies", *options, folder=fetched.parent, wheels_java=Path(find_java()))
    (fetched.parent / "incoming").rename(jars(project))


def provide_rust() -> None:
    """Build the program of tests/sdk/rust; after the first time, cargo only finds it up to date. Raises Missing."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise Missing("there is no cargo on this machine")
    done = run(
        [cargo, "build", "--quiet", "--locked"], SDKS / "rust", {"CARGO_TARGET_DIR": str(RUST_CLIENT.parents[1])}
    )
    if done.returncode:
        raise Missing(f"cargo cannot build the client of tests/sdk/rust: {last_line(done)}")
