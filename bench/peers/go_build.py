"""The Go peer, made from ``bench/peers/go`` and our protos: plugins, stubs, gateway and program, in ``build/bench/go``.

Go's own caches make every build but the first a matter of seconds. The versions of everything are in ``go.mod`` and
``go.sum``; protoc is the one in grpcio-tools.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from google.api import annotations_pb2

from bench.errors import PeerMissing

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


def build_go_peer() -> Path:
    """The program. Raises PeerMissing if Go is not installed, or if the build fails, with its last words."""
    if shutil.which("go") is None:
        raise PeerMissing("Go is not on PATH; with Go 1.26 or newer (and a C compiler) the peer is built by itself")
    shutil.rmtree(BUILD, ignore_errors=True)  # nothing outlives the proto or source that it was made from
    (BUILD / "bin").mkdir(parents=True)
    for file in SOURCE.iterdir():
        shutil.copyfile(file, BUILD / file.name)
    _copy_protos()
    _run("go", "build", "-buildvcs=false", "-o", "bin/", "tool")
    _run(*protoc_command())
    _run("go", "build", "-buildvcs=false", "-o", "bin/peer", ".")
    return BUILD / "bin/peer"


def _copy_protos() -> None:
    """Our protos, with REST as a call of ``GetTaskJson``: within a process, grpc-gateway calls no streams."""
    shutil.copytree(PROTOS, _COPY)
    text = (_COPY / _SERVICE).read_text()
    rule = re.search(r" \{\n *option \(google\.api\.http\) = .+\n *\}", text)
    if rule is None:
        raise PeerMissing(f"{_SERVICE} has no HTTP rule as it is looked for")
    unary = "returns (google.api.HttpBody)"
    (_COPY / _SERVICE).write_text(text.replace(rule[0], ";").replace(f"{unary};", f"{unary}{rule[0]}"))


def protoc_command() -> list[str]:
    """What makes stubs and gateway; our protos name no Go package, so the command does."""
    files = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    packages = [f"module={_MODULE}", *(f"M{file}={_GO_PACKAGE}" for file in files)]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_COPY}"]
    command += [f"-I{Path(annotations_pb2.__file__).resolve().parents[2]}"]  # google/api, as tools/protos.py has it
    for plugin in _PLUGINS:
        command += [f"--plugin=protoc-gen-{plugin}={BUILD / 'bin' / f'protoc-gen-{plugin}'}"]
        command += [f"--{plugin}_out={BUILD}", f"--{plugin}_opt={','.join(packages)}"]
    return command + files


def _run(*command: str) -> None:
    environment = os.environ | {"CGO_ENABLED": "1"}
    try:
        done = _completed(command, environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(f"the Go peer could not be built: {error}") from error
    if done.returncode != 0:
        raise PeerMissing(f"the Go peer could not be built: {' '.join(command[:3])}: {done.stdout.strip()[-500:]}")


def _completed(command: Sequence[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=BUILD,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_BUILD_SECONDS,
    )
