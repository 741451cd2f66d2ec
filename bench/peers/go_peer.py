"""A service in Go, made from ``bench/peers/go`` and our protos: plugins, stubs, gateway and program in ``build/bench``.

Go's own caches make every build but the first a matter of seconds. The versions of everything are in ``go.mod`` and
``go.sum``; protoc is the one in grpcio-tools.
"""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from google.api import annotations_pb2

from bench.servers import Server, Site
from tools.processes import ServerProcess, free_address
from tools.servers import Missing, last_line

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "bench/peers/go"
BUILD = ROOT / "build/bench/go"
PROTOS = ROOT / "protos"
_COPY = BUILD / "protos"
_SERVICE = "taskgate/v1/task_service.proto"

_GO_PACKAGE = "taskgate.invalid/bench/taskgatev1"
_MODULE = _GO_PACKAGE.rpartition("/")[0]
_PLUGINS = ("go", "go-grpc", "grpc-gateway")

_BUILD_SECONDS = 600
"""The first build compiles SQLite, grpc-go and what they need: one to four minutes on two cores."""


def start(site: Site) -> Server:
    """REST by grpc-gateway and gRPC in one process, with threads as Go sees fit. Raises Missing if it is not built."""
    http, grpc = free_address(), free_address()
    command = [str(_build()), str(site.database), http, grpc]
    return Server(ServerProcess(command, site.folder / "go.log"), http=http, grpc=grpc)


@cache
def _build() -> Path:
    """The program. Raises Missing if Go is not installed, or if the build fails, with its last words."""
    own = str(Path(sys.executable).parent)  # where a wheel has put one
    environment = os.environ | {"CGO_ENABLED": "1", "PATH": os.pathsep.join((os.environ["PATH"], own))}
    if shutil.which("go", path=environment["PATH"]) is None:
        raise Missing("Go is not on PATH; with Go 1.26 or newer (and a C compiler) the peer is built by itself")
    shutil.rmtree(BUILD, ignore_errors=True)  # nothing outlives the proto or source that it was made from
    (BUILD / "bin").mkdir(parents=True)
    for file in SOURCE.iterdir():
        shutil.copyfile(file, BUILD / file.name)
    _copy_protos()
    build = ("go", "build", "-buildvcs=false", "-o")
    for command in ((*build, "bin/", "tool"), _protoc_command(), (*build, "bin/peer", ".")):
        _run(command, environment)
    return BUILD / "bin/peer"


def _copy_protos() -> None:
    """Our protos, with REST as a call of ``GetTaskJson``: within a process, grpc-gateway calls no streams."""
    shutil.copytree(PROTOS, _COPY)
    text = (_COPY / _SERVICE).read_text()
    rule = re.search(r"\n *option \(google\.api\.http\) = .+", text)
    if rule is None:
        raise Missing(f"{_SERVICE} has no HTTP rule as it is looked for")
    unary = "returns (google.api.HttpBody) {"
    (_COPY / _SERVICE).write_text(text.replace(rule[0], "").replace(unary, f"{unary}{rule[0]}"))


def _protoc_command() -> tuple[str, ...]:
    """What makes stubs and gateway, all in one Go package, whatever our protos name."""
    files = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    options = ",".join((f"module={_MODULE}", *(f"M{file}={_GO_PACKAGE}" for file in files)))
    google_api = Path(annotations_pb2.__file__).resolve().parents[2]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_COPY}", f"-I{google_api}"]
    for plugin in _PLUGINS:
        command += [f"--plugin=protoc-gen-{plugin}={BUILD / 'bin' / f'protoc-gen-{plugin}'}"]
        command += [f"--{plugin}_out={BUILD}", f"--{plugin}_opt={options}"]
    return (*command, *files)


def _run(command: tuple[str, ...], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=BUILD, env=environment, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"the Go peer cannot be built: {error}") from error
    if done.returncode != 0:
        raise Missing(f"the Go peer cannot be built: {' '.join(command[:3])}: {last_line(done)}")
